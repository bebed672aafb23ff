package launch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"syscall"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/launch/mounts"
)

// Names in the root of the lean mount namespaces. A container never sees them: its root is mounted on top, and it is chrooted into that.
const (
	leanNull  = "null"  // the real /dev/null (1:3), made by us, to mask files with (CVE-2025-31133)
	leanEmpty = "empty" // an empty directory, to mask directories with
	leanProc  = "proc"
	leanSys   = "sys"
	leanRoot  = "root" // where a root is put before pivot_root
)

// LeanMountNamespace makes the mount namespace that containers' own are copied from: one read-only tmpfs with a null device and empty
// directories, and no mount of the host's. Copying the host's mounts instead takes 1.1 µs for each, and would leave them within reach below
// the container's root. The daemon makes it once; the descriptor keeps it. dir is any directory; nothing is written there.
func LeanMountNamespace(dir string) (*os.File, error) { return mountNamespace(dir, false) }

// VisibleMountNamespace is the same with proc and sysfs mounted. A process in a user namespace may mount those two only where it can see
// them already (the kernel's mount_too_revealing), so containers in a user namespace start from here, and leave all of it behind by
// pivot_root and a detaching unmount.
func VisibleMountNamespace(dir string) (*os.File, error) { return mountNamespace(dir, true) }

func mountNamespace(dir string, visible bool) (*os.File, error) {
	type answer struct {
		file *os.File
		err  error
	}
	done := make(chan answer)
	go func() {
		// Never unlocked: the thread, which is in another mount namespace now, ends with the goroutine.
		goruntime.LockOSThread()
		f, err := makeMountNamespace(dir, visible)
		done <- answer{f, err}
	}()
	a := <-done
	if a.err != nil {
		return nil, fmt.Errorf("making the lean mount namespace: %w", a.err)
	}
	return a.file, nil
}

func makeMountNamespace(dir string, visible bool) (*os.File, error) {
	root, err := mounts.New("tmpfs", []string{"mode=0755", "size=64k", "nr_inodes=16"}, 0)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	at := int(root.Fd())
	if err := unix.Mknodat(at, leanNull, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		return nil, fmt.Errorf("making a null device: %w", err)
	}
	if err := unix.Fchmodat(at, leanNull, 0o666, 0); err != nil { // whatever the umask
		return nil, fmt.Errorf("making a null device: %w", err)
	}
	for _, name := range []string{leanEmpty, leanProc, leanSys, leanRoot} {
		if err := unix.Mkdirat(at, name, 0o755); err != nil {
			return nil, fmt.Errorf("making a directory: %w", err)
		}
	}
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("unsharing the mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("making mounts private: %w", err)
	}
	ns, err := os.Open("/proc/thread-self/ns/mnt") // before /proc is left behind
	if err != nil {
		return nil, err
	}
	if err := becomeRoot(root, dir, visible); err != nil {
		_ = ns.Close()
		return nil, err
	}
	return ns, nil
}

// becomeRoot makes root the only mount of this thread's namespace, then read-only, and with visible mounts proc and sysfs on it.
func becomeRoot(root *os.File, dir string, visible bool) error {
	target, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening %s: %w", dir, err)
	}
	defer unix.Close(target)
	const toEmptyPath = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	if err := unix.MoveMount(int(root.Fd()), "", target, "", toEmptyPath); err != nil {
		return fmt.Errorf("mounting its root: %w", err)
	}
	if err := unix.Fchdir(int(root.Fd())); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivoting to its root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detaching the host's mounts: %w", err)
	}
	if visible {
		for fs, name := range map[string]string{"proc": leanProc, "sysfs": leanSys} {
			m, err := mounts.New(fs, nil, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
			if err != nil {
				return err
			}
			err = unix.MoveMount(int(m.Fd()), "", int(root.Fd()), name, unix.MOVE_MOUNT_F_EMPTY_PATH)
			_ = m.Close()
			if err != nil {
				return fmt.Errorf("mounting %s: %w", fs, err)
			}
		}
	}
	return mounts.Apply(root, mounts.Options{Set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC})
}

// userNamespace makes a user namespace with the mappings, by a child that lives until it has been opened.
func userNamespace(uids, gids []specs.LinuxIDMapping, tmp string) (*os.File, error) {
	holder, err := HoldNamespaces(syscall.CLONE_NEWUSER, uids, gids, tmp)
	if err != nil {
		return nil, err
	}
	ns, err := os.Open(filepath.Join("/proc", strconv.Itoa(holder.PID), "ns/user"))
	if err = errors.Join(err, holder.Close()); err != nil {
		return nil, fmt.Errorf("opening a user namespace: %w", err)
	}
	return ns, nil
}

// NamespaceHolder is a child that sleeps in new namespaces, until it is closed.
type NamespaceHolder struct {
	PID   int
	sleep *os.File // the child reads the other end
}

// Close ends the child. What was opened or pinned of its namespaces stays.
func (h *NamespaceHolder) Close() error {
	_ = h.sleep.Close()
	_, err := syscall.Wait4(h.PID, nil, 0, nil)
	return err
}

// HoldNamespaces makes namespaces by the CLONE_NEW flags, among them a user namespace with the mappings, which owns the others. tmp is as in
// ContainerInput.TmpDir.
func HoldNamespaces(flags uintptr, uids, gids []specs.LinuxIDMapping, tmp string) (*NamespaceHolder, error) {
	p := &Program{files: []string{"stdin", "stdout", "stderr", "report"}}
	p.do("", sysRead, p.fd(0), p.mem(make([]byte, 8), "buf"), num(8))
	exe, err := p.Executable(tmp)
	if err != nil {
		return nil, err
	}
	defer exe.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	defer r.Close()
	attr := &syscall.ProcAttr{
		Files: []uintptr{r.Fd()},
		Sys: &syscall.SysProcAttr{
			Cloneflags: flags, UidMappings: idMap(uids), GidMappings: idMap(gids), GidMappingsEnableSetgroups: true,
		},
	}
	// The child renumbers descriptors right above its highest; the program is named by number, so it has to be far from there.
	const apart = 64
	number, err := unix.FcntlInt(exe.Fd(), unix.F_DUPFD_CLOEXEC, int(r.Fd())+apart)
	if err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("duplicating a descriptor: %w", err)
	}
	pid, err := syscall.ForkExec("/proc/self/fd/"+strconv.Itoa(number), []string{"shimd-userns"}, attr)
	_ = unix.Close(number)
	if err != nil {
		_ = w.Close()
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
			return nil, fmt.Errorf("making a user namespace with mappings %v, %v: %w: %w", uids, gids, err, errdefs.ErrInvalidArgument)
		}
		return nil, fmt.Errorf("making a user namespace: %w", err)
	}
	return &NamespaceHolder{PID: pid, sleep: w}, nil
}

func idMap(mappings []specs.LinuxIDMapping) []syscall.SysProcIDMap {
	out := make([]syscall.SysProcIDMap, len(mappings))
	for i, m := range mappings {
		out[i] = syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)}
	}
	return out
}
