package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// subPath binds a path within a volume to a place that only root reaches, and answers that. The volume's content belongs to the pod, which may
// exchange any part of it for a symbolic link at any moment (CVE-2021-25741, CVE-2017-1002102). So the path is opened below the volume by
// openat2, which refuses to leave it, and what is mounted is the opened descriptor itself, not its name.
func (s *Store) subPath(uid, container string, index int, volume, sub string) (string, error) {
	root, err := unix.Open(volume, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("opening volume %s: %w", volume, err)
	}
	defer unix.Close(root)
	source, err := openBelow(root, sub)
	if err != nil {
		return "", fmt.Errorf("opening subPath %s: %w", sub, err)
	}
	defer unix.Close(source)
	target := s.pod(uid, "subpaths", container, strconv.Itoa(index))
	if err := unmount(target); err != nil { // of the run before
		return "", err
	}
	if err := mountPoint(source, target); err != nil {
		return "", err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", source), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("mounting subPath %s on %s: %w", sub, target, err)
	}
	return target, nil
}

// openBelow opens a path below a directory, and makes directories where nothing is, with the volume's own mode: the pod's group gets in where it
// gets into the volume. Links that stay below are followed.
func openBelow(root int, sub string) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := openat2(root, sub, &how)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	how.Flags |= unix.O_DIRECTORY
	at, err := unix.Dup(root)
	if err != nil {
		return -1, err
	}
	var volume unix.Stat_t
	if err := unix.Fstat(root, &volume); err != nil {
		unix.Close(at)
		return -1, err
	}
	walked := ""
	for name := range strings.SplitSeq(filepath.Clean(sub), "/") {
		made := unix.Mkdirat(at, name, 0o700)
		if made != nil && made != unix.EEXIST {
			unix.Close(at)
			return -1, made
		}
		walked = filepath.Join(walked, name)
		next, err := openat2(root, walked, &how)
		unix.Close(at)
		if err == nil && made == nil {
			err = chmodOpened(next, volume.Mode&0o7777)
		}
		if err != nil {
			return -1, err
		}
		at = next
	}
	return at, nil
}

// chmodOpened sets the mode of what a descriptor stands for, whatever has its name by now, and whatever the umask is.
func chmodOpened(fd int, mode uint32) error {
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode)
}

// openat2 tries again what a rename somewhere on the machine interrupted: the kernel cannot tell then that the path stayed below.
func openat2(root int, path string, how *unix.OpenHow) (int, error) {
	const tries = 64
	for i := 0; ; i++ {
		fd, err := unix.Openat2(root, path, how)
		if (err == unix.EAGAIN || err == unix.EINTR) && i < tries {
			continue
		}
		return fd, err
	}
}

// mountPoint makes what a file or a directory can be mounted on.
func mountPoint(source int, target string) error {
	var stat unix.Stat_t
	if err := unix.Fstat(source, &stat); err != nil {
		return fmt.Errorf("looking at the source of %s: %w", target, err)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
		return fmt.Errorf("making mount point %s: %w", target, err)
	}
	if err := os.Remove(target); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("making mount point %s: %w", target, err)
	}
	if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := os.Mkdir(target, 0o700); err != nil {
			return fmt.Errorf("making mount point %s: %w", target, err)
		}
		return nil
	}
	return os.WriteFile(target, nil, 0o600)
}

// unmount takes away all that is mounted on a path; nothing there is fine.
func unmount(target string) error {
	for {
		switch err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err {
		case nil, unix.EINTR:
		case unix.EINVAL, unix.ENOENT:
			return nil
		default:
			return fmt.Errorf("unmounting %s: %w", target, err)
		}
	}
}
