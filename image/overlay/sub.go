package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Sub answers a detached mount of a directory or file inside a mount that Mount gave. The path is resolved as if the mount was the root:
// links lead nowhere else. mount is closed, and not to be used again: where the kernel cannot clone from a detached mount, it has to be
// attached for that, in a namespace that ends. ErrNotFound, ErrInvalidArgument for what leads through something that is no directory.
func (m *Mounter) Sub(mount *os.File, path string) (*os.File, error) {
	defer mount.Close()
	fd, err := -1, error(unix.EAGAIN)
	// EAGAIN: a rename anywhere on the machine raced with a "..".
	for tries := 0; tries < 100 && (errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)); tries++ {
		fd, err = unix.Openat2(int(mount.Fd()), path, &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
	}
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, fmt.Errorf("there is no such path in it: %w", errdefs.ErrNotFound)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG):
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	case err != nil:
		return nil, err
	}
	target := os.NewFile(uintptr(fd), path)
	defer target.Close()
	return m.clone(mount, target)
}

// clone makes a mount of its own of something inside a detached one. Before Linux 6.15, only what is attached in the caller's namespace can
// be cloned.
func (m *Mounter) clone(mount, target *os.File) (*os.File, error) {
	const flags = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH
	fd, err := unix.OpenTree(int(target.Fd()), "", flags)
	if err == nil {
		return os.NewFile(uintptr(fd), filepath.Base(target.Name())), nil
	}
	if !errors.Is(err, unix.EINVAL) {
		return nil, fmt.Errorf("cloning the mount: %w", err)
	}
	err = inMountNamespace(func() error {
		if err := unix.MoveMount(int(mount.Fd()), "", unix.AT_FDCWD, m.place, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("attaching the mount: %w", err)
		}
		fd, err = unix.OpenTree(int(target.Fd()), "", flags)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cloning the mount: %w", err)
	}
	return os.NewFile(uintptr(fd), filepath.Base(target.Name())), nil
}
