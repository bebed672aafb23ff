package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/runtime/ocispec"
	"github.com/shimd/shimd/runtime/request"
)

// A sandbox's namespaces are pinned by bind mounts of nsfs below its state directory, so that they live without a process.
// namespaceKinds gives the clone flag and the file name of each.
var namespaceKinds = []struct {
	flag int
	name string
}{
	{unix.CLONE_NEWUSER, "user"},
	{unix.CLONE_NEWNET, "net"},
	{unix.CLONE_NEWIPC, "ipc"},
	{unix.CLONE_NEWUTS, "uts"},
	{unix.CLONE_NEWPID, "pid"},
}

// namespaceFlags are the namespaces that a sandbox has of its own, but for a PID namespace, which its pause process holds.
func namespaceFlags(cfg request.Sandbox) int {
	flags := 0
	if ownNetwork(cfg) {
		flags |= unix.CLONE_NEWNET | unix.CLONE_NEWUTS
	}
	if ownIPC(cfg) {
		flags |= unix.CLONE_NEWIPC
	}
	if cfg.Namespaces.User != nil {
		flags |= unix.CLONE_NEWUSER
	}
	return flags
}

// onThrowawayThread runs f on an operating system thread that ends with it: whatever f does to the thread's namespaces harms nobody.
func onThrowawayThread(f func() error) error {
	errc := make(chan error, 1)
	go func() {
		goruntime.LockOSThread() // never unlocked: the thread dies with this goroutine
		errc <- f()
	}()
	return <-errc
}

// makeNamespaces makes new namespaces of the kinds in flags and pins them in dir. inside runs in them before they are pinned.
func makeNamespaces(dir string, flags int, inside func() error) error {
	return onThrowawayThread(func() error {
		if err := unix.Unshare(flags); err != nil {
			return fmt.Errorf("making the sandbox's namespaces (unshare %#x): %w", flags, err)
		}
		if err := inside(); err != nil {
			return err
		}
		return pinNamespaces(dir, flags, "/proc/thread-self/ns")
	})
}

// adoptNamespaces pins the namespaces of another process: those of a user namespace can't be made by a thread.
func adoptNamespaces(dir string, flags, pid int, inside func() error) error {
	return onThrowawayThread(func() error {
		if err := pinNamespaces(dir, flags, fmt.Sprintf("/proc/%d/ns", pid)); err != nil {
			return err
		}
		for _, kind := range namespaceKinds {
			if flags&kind.flag == 0 || kind.flag == unix.CLONE_NEWUSER || kind.flag == unix.CLONE_NEWPID {
				continue
			}
			if err := enterNamespace(filepath.Join(dir, kind.name), kind.flag); err != nil {
				return err
			}
		}
		return inside()
	})
}

func pinNamespaces(dir string, flags int, source string) error {
	for _, kind := range namespaceKinds {
		if flags&kind.flag == 0 {
			continue
		}
		target := filepath.Join(dir, kind.name)
		file, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o600)
		if err != nil {
			return fmt.Errorf("pinning a namespace: %w", err)
		}
		file.Close()
		if err := unix.Mount(filepath.Join(source, kind.name), target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("pinning the %s namespace at %s: %w", kind.name, target, err)
		}
	}
	return nil
}

// checkPinned tells what is no longer there of the namespaces that were pinned in dir.
func checkPinned(dir string, flags int) error {
	for _, kind := range namespaceKinds {
		if flags&kind.flag == 0 {
			continue
		}
		var stat unix.Statfs_t
		path := filepath.Join(dir, kind.name)
		if err := unix.Statfs(path, &stat); err != nil {
			return fmt.Errorf("the %s namespace is gone: %s: %w", kind.name, path, err)
		}
		if stat.Type != unix.NSFS_MAGIC {
			return fmt.Errorf("the %s namespace is gone: nothing is mounted at %s: %w", kind.name, path, errdefs.ErrNotFound)
		}
	}
	return nil
}

// unpinNamespaces lets the namespaces in dir go. It is idempotent.
func unpinNamespaces(dir string) error {
	var errs []error
	for _, kind := range namespaceKinds {
		errs = append(errs, unmount(filepath.Join(dir, kind.name)))
	}
	return errors.Join(errs...)
}

// unmount detaches whatever is mounted at path. It is idempotent: what is not there or not a mount is fine.
func unmount(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return fmt.Errorf("unmounting %s: %w", path, err)
}

// enterNamespace moves the calling thread, which must be a throw-away one, into the namespace at path.
func enterNamespace(path string, flag int) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("opening namespace: %w", err)
	}
	defer file.Close()
	if err := unix.Setns(int(file.Fd()), flag); err != nil {
		return fmt.Errorf("entering namespace %s: %w", path, err)
	}
	return nil
}

// writeSysctls sets kernel parameters in the calling thread's namespaces. Package ocispec has made sure that each belongs to one of them.
func writeSysctls(sysctls []ocispec.Sysctl) error {
	for _, sysctl := range sysctls {
		err := os.WriteFile(filepath.Join("/proc/sys", sysctl.Path), []byte(sysctl.Value), 0)
		switch {
		case err == nil:
		case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE):
			return fmt.Errorf("setting sysctl %s to %q: %w: %w", sysctl.Path, sysctl.Value, err, errdefs.ErrInvalidArgument)
		default:
			return fmt.Errorf("setting sysctl %s to %q: %w", sysctl.Path, sysctl.Value, err)
		}
	}
	return nil
}
