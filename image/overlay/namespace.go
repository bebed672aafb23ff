package overlay

import (
	"fmt"
	"os"
	goruntime "runtime"
	"strconv"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// inMountNamespace runs f on a thread with a mount namespace of its own, which ends with it: what f attaches is never seen by anybody else,
// and is gone even if this process dies half-way.
func inMountNamespace(f func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread is not fit for other goroutines, so the runtime ends it.
		goruntime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot end, and would keep the namespace: hold it, so that another one is taken.
			err := inMountNamespace(f)
			goruntime.UnlockOSThread()
			done <- err
			return
		}
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("making a mount namespace: %w", err)
			}
			// Nothing mounted here may spread to the host.
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return fmt.Errorf("making the mount namespace private: %w", err)
			}
			return f()
		}()
	}()
	return <-done
}

// idmapped clones the tree that holds all directories, with IDs shifted as in the user namespace (Linux 5.12; as overlay layers 5.19).
func idmapped(spec Spec) (*os.File, error) {
	userns, err := userNamespace(spec.UIDs, spec.GIDs)
	if err != nil {
		return nil, err
	}
	defer userns.Close()
	fd, err := unix.OpenTree(unix.AT_FDCWD, spec.Root, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cloning the mount of %s: %w", spec.Root, err)
	}
	tree := os.NewFile(uintptr(fd), "layers")
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd())}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		_ = tree.Close()
		return nil, fmt.Errorf("mapping the IDs of the image store's file system (not all file systems can): %w", err)
	}
	return tree, nil
}

// hostRoot is who ID 0 is on the host.
func hostRoot(ids []IDMap) int {
	for _, id := range ids {
		if id.ContainerID == 0 {
			return int(id.HostID)
		}
	}
	return 0
}

// userNamespace makes a user namespace to take mappings from. The only way to have one is a process in it: a copy of ourselves that is
// stopped by ptrace before its first instruction, and killed.
func userNamespace(uids, gids []IDMap) (*os.File, error) {
	goruntime.LockOSThread() // the tracer is a thread
	defer goruntime.UnlockOSThread()
	process, err := os.StartProcess("/proc/self/exe", []string{"userns"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{
		Cloneflags:                 syscall.CLONE_NEWUSER,
		UidMappings:                mappings(uids),
		GidMappings:                mappings(gids),
		GidMappingsEnableSetgroups: true,
		Ptrace:                     true,
		Pdeathsig:                  syscall.SIGKILL,
	}})
	if err != nil {
		return nil, fmt.Errorf("making a user namespace of mappings %v, %v: %w", uids, gids, err)
	}
	defer func() {
		_ = process.Kill()
		_, _ = process.Wait()
	}()
	ns, err := os.Open("/proc/" + strconv.Itoa(process.Pid) + "/ns/user")
	if err != nil {
		return nil, fmt.Errorf("opening the user namespace: %w", err)
	}
	if len(uids) == 0 || len(gids) == 0 {
		_ = ns.Close()
		return nil, fmt.Errorf("a user namespace needs user and group mappings: %w", errdefs.ErrInvalidArgument)
	}
	return ns, nil
}

func mappings(ids []IDMap) []syscall.SysProcIDMap {
	var m []syscall.SysProcIDMap
	for _, id := range ids {
		m = append(m, syscall.SysProcIDMap{ContainerID: int(id.ContainerID), HostID: int(id.HostID), Size: int(id.Length)})
	}
	return m
}
