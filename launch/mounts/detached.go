package mounts

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Clone makes a detached mount of path (with all that is mounted below, when recursive). Its propagation is that of the source: of the same
// peer group if that is shared.
func Clone(path string, recursive bool) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, flags)
	if err != nil {
		return nil, fmt.Errorf("cloning the mount at %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), "mount of "+path), nil
}

// New makes a detached mount of a new file system. parameters are "key=value" or "key".
func New(fstype string, parameters []string, attrs uint64) (*os.File, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("opening file system %s: %w", fstype, err)
	}
	defer unix.Close(fs)
	for _, p := range parameters {
		if key, value, ok := strings.Cut(p, "="); ok {
			err = unix.FsconfigSetString(fs, key, value)
		} else {
			err = unix.FsconfigSetFlag(fs, key)
		}
		if err != nil {
			return nil, fmt.Errorf("file system %s: option %q: %w%s", fstype, p, err, kernelMessage(fs))
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("creating file system %s: %w%s", fstype, err, kernelMessage(fs))
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, int(attrs))
	if err != nil {
		return nil, fmt.Errorf("mounting file system %s: %w", fstype, err)
	}
	return os.NewFile(uintptr(fd), fstype), nil
}

// kernelMessage reads what the kernel has to say about a failed fsconfig: it is better than the errno.
func kernelMessage(fs int) string {
	buf := make([]byte, 512)
	n, err := unix.Read(fs, buf)
	if err != nil || n <= 2 {
		return ""
	}
	return " (" + strings.TrimSpace(string(buf[2:n])) + ")"
}

// Apply gives a detached mount the attributes and the propagation that the options ask for. A bind mount without one is made private, so
// that nothing of the container's reaches the host's mounts.
func Apply(mount *os.File, o Options) error {
	set, clear := atime(o.RecursiveSet, o.RecursiveClear)
	if set|clear != 0 {
		if err := setattr(mount, unix.AT_RECURSIVE, unix.MountAttr{Attr_set: set, Attr_clr: clear}); err != nil {
			return fmt.Errorf("setting mount attributes recursively: %w", err)
		}
	}
	if set, clear = atime(o.Set, o.Clear); set|clear != 0 {
		if err := setattr(mount, 0, unix.MountAttr{Attr_set: set, Attr_clr: clear}); err != nil {
			return fmt.Errorf("setting mount attributes: %w", err)
		}
	}
	propagation, flags := o.Propagation, uint(0)
	if propagation == 0 {
		propagation, o.PropagationRecursive = unix.MS_PRIVATE, true
	}
	if o.PropagationRecursive {
		flags = unix.AT_RECURSIVE
	}
	if err := setattr(mount, flags, unix.MountAttr{Propagation: propagation}); err != nil {
		return fmt.Errorf("setting mount propagation: %w", err)
	}
	return nil
}

// MapIDs makes a detached mount show its owners through the user namespace's mappings. It can be done once for a mount.
func MapIDs(mount, userNS *os.File, recursive bool) error {
	flags := uint(0)
	if recursive {
		flags = unix.AT_RECURSIVE
	}
	err := setattr(mount, flags, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userNS.Fd())})
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("mapping the owners of a mount: its file system does not support it, or is mapped already: %w", errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return fmt.Errorf("mapping the owners of a mount: %w", err)
	}
	return nil
}

func setattr(mount *os.File, flags uint, attr unix.MountAttr) error {
	return unix.MountSetattr(int(mount.Fd()), "", flags|unix.AT_EMPTY_PATH, &attr)
}

// IsShared tells whether path lies on a mount that propagates to its peers.
func IsShared(path string) (bool, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, &st); err != nil {
		return false, fmt.Errorf("finding the mount of %s: %w", path, err)
	}
	info, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return false, fmt.Errorf("reading the mounts: %w", err)
	}
	id := fmt.Sprint(st.Mnt_id)
	for line := range strings.Lines(string(info)) {
		fields := strings.Fields(line)
		if len(fields) < 7 || fields[0] != id {
			continue
		}
		for _, f := range fields[6:] {
			if f == "-" {
				break
			}
			if strings.HasPrefix(f, "shared:") {
				return true, nil
			}
		}
		return false, nil
	}
	return false, fmt.Errorf("the mount of %s is not in this namespace: %w", path, errdefs.ErrFailedPrecondition)
}
