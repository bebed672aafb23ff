package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"time"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// modeBits are the permissions with setuid, setgid and sticky.
const modeBits = 0o7777

func (u *unpacker) makeDir(parent int, name, base string, hdr *tar.Header) error {
	err := unix.Mkdirat(parent, base, 0o700)
	if errors.Is(err, unix.EEXIST) {
		var st unix.Stat_t
		if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			wasWhiteout, err := u.clear(parent, base)
			if err != nil {
				return err
			}
			if err := unix.Mkdirat(parent, base, 0o700); err != nil {
				return err
			}
			if wasWhiteout {
				fd, err := u.dirs.open(name)
				if err != nil {
					return err
				}
				if err := setOpaque(fd); err != nil {
					return err
				}
			}
		}
	} else if err != nil {
		return err
	}
	fd, err := u.dirs.open(name)
	if err != nil {
		return err
	}
	return u.setDirectory(fd, name, hdr)
}

func (u *unpacker) setDirectory(fd int, name string, hdr *tar.Header) error {
	if err := unix.Fchown(fd, hdr.Uid, hdr.Gid); err != nil {
		return ownerError(hdr, err)
	}
	if err := unix.Fchmod(fd, uint32(hdr.Mode)&modeBits); err != nil {
		return err
	}
	if err := setXattrs(func(attr string, value []byte) error { return unix.Fsetxattr(fd, attr, value, 0) }, hdr); err != nil {
		return err
	}
	return u.remember(name, dirTime{atime: hdr.AccessTime, mtime: hdr.ModTime})
}

func (u *unpacker) makeFile(parent int, base string, hdr *tar.Header, content io.Reader) error {
	if hdr.Size < 0 || hdr.Size > u.maxBytes-u.bytes {
		return fmt.Errorf("the layer's files have more than %d bytes: %w", u.maxBytes, errdefs.ErrInvalidArgument)
	}
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(parent, base, flags, 0o600)
	if errors.Is(err, unix.EEXIST) {
		if _, err := u.clear(parent, base); err != nil {
			return err
		}
		fd, err = unix.Openat(parent, base, flags, 0o600)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	n, err := u.copyTo(fd, content)
	u.bytes += n
	if err != nil {
		return err
	}
	// The owner before the mode: chown clears setuid, setgid and capabilities.
	if err := unix.Fchown(fd, hdr.Uid, hdr.Gid); err != nil {
		return ownerError(hdr, err)
	}
	if err := unix.Fchmod(fd, uint32(hdr.Mode)&modeBits); err != nil {
		return err
	}
	if err := setXattrs(func(attr string, value []byte) error { return unix.Fsetxattr(fd, attr, value, 0) }, hdr); err != nil {
		return err
	}
	return setTimes(fd, "", hdr.AccessTime, hdr.ModTime)
}

func (u *unpacker) copyTo(fd int, content io.Reader) (int64, error) {
	var total int64
	for {
		n, readErr := content.Read(u.buf)
		for data := u.buf[:n]; len(data) > 0; {
			written, err := unix.Write(fd, data)
			if err != nil {
				if errors.Is(err, unix.EINTR) {
					continue
				}
				return total, writeError(err)
			}
			data = data[written:]
			total += int64(written)
		}
		if total > u.maxBytes-u.bytes {
			return total, fmt.Errorf("the layer's files have more than %d bytes: %w", u.maxBytes, errdefs.ErrInvalidArgument)
		}
		if errors.Is(readErr, io.EOF) {
			return total, nil
		}
		if readErr != nil {
			return total, tarError(readErr)
		}
	}
}

func writeError(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("writing: %w: %w", err, errdefs.ErrResourceExhausted)
	}
	return fmt.Errorf("writing: %w", err)
}

func (u *unpacker) makeSymlink(parent int, base string, hdr *tar.Header) error {
	if len(hdr.Linkname) == 0 || len(hdr.Linkname) >= maxPath {
		return fmt.Errorf("a symbolic link to a name of %d bytes: %w", len(hdr.Linkname), errdefs.ErrInvalidArgument)
	}
	err := unix.Symlinkat(hdr.Linkname, parent, base)
	if errors.Is(err, unix.EEXIST) {
		if _, err := u.clear(parent, base); err != nil {
			return err
		}
		err = unix.Symlinkat(hdr.Linkname, parent, base)
	}
	if err != nil {
		return err
	}
	return setNode(parent, base, hdr)
}

func (u *unpacker) makeNode(parent int, base string, hdr *tar.Header) error {
	kind, dev := uint32(unix.S_IFIFO), uint64(0)
	switch hdr.Typeflag {
	case tar.TypeChar, tar.TypeBlock:
		if kind = unix.S_IFCHR; hdr.Typeflag == tar.TypeBlock {
			kind = unix.S_IFBLK
		}
		if hdr.Devmajor < 0 || hdr.Devmajor > 0xfff || hdr.Devminor < 0 || hdr.Devminor > 0xfffff {
			return fmt.Errorf("device %d:%d: %w", hdr.Devmajor, hdr.Devminor, errdefs.ErrInvalidArgument)
		}
		dev = unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))
	}
	err := unix.Mknodat(parent, base, kind|0o600, int(dev))
	if errors.Is(err, unix.EEXIST) {
		if _, err := u.clear(parent, base); err != nil {
			return err
		}
		err = unix.Mknodat(parent, base, kind|0o600, int(dev))
	}
	if err != nil {
		return err
	}
	return setNode(parent, base, hdr)
}

// setNode gives owner, mode and times to what cannot be opened without side effects: links, devices, FIFOs. Nothing is followed.
func setNode(parent int, base string, hdr *tar.Header) error {
	if err := unix.Fchownat(parent, base, hdr.Uid, hdr.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return ownerError(hdr, err)
	}
	if hdr.Typeflag != tar.TypeSymlink {
		// It was just made, under a directory that is nobody else's, and is not a link: fchmodat cannot be led elsewhere.
		if err := unix.Fchmodat(parent, base, uint32(hdr.Mode)&modeBits, 0); err != nil {
			return err
		}
	}
	through := fmt.Sprintf("/proc/self/fd/%d/%s", parent, base)
	if err := setXattrs(func(attr string, value []byte) error { return unix.Lsetxattr(through, attr, value, 0) }, hdr); err != nil {
		return err
	}
	return setTimes(parent, base, hdr.AccessTime, hdr.ModTime)
}

func (u *unpacker) makeLink(parent int, name, base string, hdr *tar.Header) error {
	target, err := cleanName(hdr.Linkname)
	if err != nil {
		return err
	}
	if target == name {
		return fmt.Errorf("a hard link to itself: %w", errdefs.ErrInvalidArgument)
	}
	dir, targetBase := splitName(target)
	targetDir, err := u.dirs.open(dir)
	if err == nil {
		var st unix.Stat_t
		if err = unix.Fstatat(targetDir, targetBase, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && isWhiteout(&st) {
			return fmt.Errorf("a hard link to %.200q, which this layer removes: %w", target, errdefs.ErrInvalidArgument)
		}
	}
	if errors.Is(err, unix.ENOENT) {
		if _, err := u.clear(parent, base); err != nil {
			return err
		}
		u.deferred.link(name, target)
		return nil
	}
	if err != nil {
		return fmt.Errorf("finding what %.200q links to: %w", target, err)
	}
	err = unix.Linkat(targetDir, targetBase, parent, base, 0)
	if errors.Is(err, unix.EEXIST) {
		if _, err := u.clear(parent, base); err != nil {
			return err
		}
		err = unix.Linkat(targetDir, targetBase, parent, base, 0)
	}
	if err != nil {
		return fmt.Errorf("a hard link to %.200q: %w: %w", target, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

func splitName(name string) (dir, base string) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return ".", name
	}
	return name[:i], name[i+1:]
}

func ownerError(hdr *tar.Header, err error) error {
	return fmt.Errorf("giving it to %d:%d: %w", hdr.Uid, hdr.Gid, err)
}

// setXattrs sets the extended attributes that a layer may carry: file capabilities and user attributes. Overlayfs' own and all other
// trusted ones would let an image redirect lookups to other layers' files; security labels are the host's business.
func setXattrs(set func(attr string, value []byte) error, hdr *tar.Header) error {
	const prefix = "SCHILY.xattr."
	var names []string
	for key := range hdr.PAXRecords {
		if attr, ok := strings.CutPrefix(key, prefix); ok && allowedXattr(attr) {
			names = append(names, attr)
		}
	}
	sort.Strings(names)
	for _, attr := range names {
		err := set(attr, []byte(hdr.PAXRecords[prefix+attr]))
		if err == nil {
			continue
		}
		if strings.HasPrefix(attr, "user.") && (errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM)) {
			continue // the kernel has no user attributes on links and devices, some file systems nowhere
		}
		return fmt.Errorf("setting attribute %.100q: %w", attr, err)
	}
	return nil
}

func allowedXattr(attr string) bool {
	if attr == "security.capability" {
		return true
	}
	return strings.HasPrefix(attr, "user.") && !strings.HasPrefix(attr, "user.overlay.") && attr != "user.overlay"
}

// setTimes sets times of name in the directory fd without following it, or of fd itself when name is empty. A zero access time becomes the
// modification time.
func setTimes(fd int, name string, atime, mtime time.Time) error {
	if mtime.IsZero() {
		mtime = time.Unix(0, 0)
	}
	if atime.IsZero() {
		atime = mtime
	}
	times := []unix.Timespec{timespec(atime), timespec(mtime)}
	if name == "" {
		return os.NewSyscallError("utimensat", utimensFd(fd, times))
	}
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(fd, name, times, unix.AT_SYMLINK_NOFOLLOW))
}

// utimensFd is futimens(3), which is utimensat without a path.
func utimensFd(fd int, times []unix.Timespec) error {
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&times[0])), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// timespec clips what a tar can say to what file systems can store.
func timespec(t time.Time) unix.Timespec {
	const earliest, latest = -1 << 31, 1<<34 - 1 // ext4's range, the smallest among those in use
	sec := min(max(t.Unix(), earliest), latest)
	var ts unix.Timespec
	ts.Sec, ts.Nsec = sec, int64(t.Nanosecond())
	return ts
}

func timeOf(ts unix.Timespec) time.Time { return time.Unix(ts.Unix()) }

func isEOF(err error) bool { return errors.Is(err, io.EOF) }
