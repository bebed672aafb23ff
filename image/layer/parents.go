package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Deferred is what a layer leaves open: directories that it implies but does not describe, and hard links to files that it does not have.
// Both are decided by the layers below, so such a layer belongs to its chain and cannot be shared by its content alone.
type Deferred struct {
	implied map[string]struct{}
	targets map[string]string // of hard links, by name
	links   []string          // their names in order; those not in targets are forgotten
	size    int               // bytes of all names ever noted
}

func (d *Deferred) imply(name string) {
	if d.implied == nil {
		d.implied = map[string]struct{}{}
	}
	d.implied[name] = struct{}{}
	d.size += len(name)
}

func (d *Deferred) link(name, target string) {
	if d.targets == nil {
		d.targets = map[string]string{}
	}
	d.targets[name] = target
	d.links = append(d.links, name)
	d.size += len(name) + len(target)
}

// forget drops what is known of a name that the tar now describes itself.
func (d *Deferred) forget(name string) {
	delete(d.implied, name)
	delete(d.targets, name)
}

// Resolve finishes the layer in dir with the unpacked layers below it, the topmost first. For the lowest layer there are none: then implied
// directories stay as they are, and a hard link to nothing is an error.
func (d *Deferred) Resolve(dir *os.File, parents []*os.File) (Result, error) {
	u, err := newUnpacker(dir, DefaultMaxEntries, DefaultMaxBytes)
	if err != nil {
		return Result{}, err
	}
	defer u.close()
	below := lowers(parents)
	for _, name := range d.links {
		target, ok := d.targets[name]
		if !ok {
			continue
		}
		delete(d.targets, name)
		if err := u.linkFromBelow(below, name, target); err != nil {
			return Result{}, fmt.Errorf("unpacking %.200q: %w", name, err)
		}
	}
	implied := slices.Concat(slices.Collect(maps.Keys(d.implied)), slices.Collect(maps.Keys(u.deferred.implied)))
	slices.Sort(implied)
	slices.Reverse(implied) // children first: what is done to them changes their parents' times
	for _, name := range implied {
		if err := u.adoptDirectory(below, name); err != nil {
			return Result{}, fmt.Errorf("unpacking directory %.200q: %w", name, err)
		}
	}
	return Result{Bytes: u.bytes, Entries: u.entries}, nil
}

// adoptDirectory gives an implied directory the owner, mode, attributes and times that it has below.
func (u *unpacker) adoptDirectory(below lowers, name string) error {
	source, st, err := below.lookup(name)
	if err != nil || source == nil {
		return err
	}
	defer source.Close()
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	fd, err := openInside(u.dirs.root, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			return nil // replaced later in the tar
		}
		return err
	}
	defer unix.Close(fd)
	return copyMetadata(fd, source, st)
}

// linkFromBelow copies a file up from the layers below, as the overlay itself would have done when the link was made, and links it.
func (u *unpacker) linkFromBelow(below lowers, name, linked string) error {
	dir, base := splitName(linked)
	targetDir, err := u.directory(dir)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(targetDir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if !errors.Is(err, unix.ENOENT) {
			return err
		}
		if err := u.copyUp(below, targetDir, base, linked); err != nil {
			return err
		}
	}
	nameDir, nameBase := splitName(name)
	parent, err := u.directory(nameDir)
	if err != nil {
		return err
	}
	if targetDir, err = u.directory(dir); err != nil {
		return err
	}
	if err := unix.Linkat(targetDir, base, parent, nameBase, 0); err != nil {
		return fmt.Errorf("a hard link to %.200q: %w: %w", linked, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

func (u *unpacker) copyUp(below lowers, targetDir int, base, target string) error {
	source, st, err := below.lookup(target)
	if err != nil {
		return err
	}
	if source == nil {
		return fmt.Errorf("a hard link to %.200q, which neither this layer nor one below has: %w", target, errdefs.ErrInvalidArgument)
	}
	defer source.Close()
	u.entries++
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return u.copyFile(source, st, targetDir, base)
	case unix.S_IFDIR:
		return fmt.Errorf("a hard link to directory %.200q: %w", target, errdefs.ErrInvalidArgument)
	case unix.S_IFLNK:
		buf := make([]byte, maxPath)
		n, err := unix.Readlinkat(int(source.Fd()), "", buf)
		if err != nil {
			return err
		}
		hdr := headerOf(st)
		hdr.Typeflag, hdr.Linkname = tar.TypeSymlink, string(buf[:n])
		return u.makeSymlink(targetDir, base, hdr)
	}
	if err := unix.Mknodat(targetDir, base, st.Mode, int(st.Rdev)); err != nil {
		return err
	}
	return setNode(targetDir, base, headerOf(st))
}

func (u *unpacker) copyFile(source *os.File, st *unix.Stat_t, targetDir int, base string) error {
	readable, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", source.Fd()))
	if err != nil {
		return err
	}
	defer readable.Close()
	fd, err := unix.Openat(targetDir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	to := os.NewFile(uintptr(fd), base)
	defer to.Close()
	n, err := io.Copy(to, readable)
	u.bytes += n
	if err != nil {
		return writeError(err)
	}
	return copyMetadata(fd, source, st)
}

func headerOf(st *unix.Stat_t) *tar.Header {
	return &tar.Header{Uid: int(st.Uid), Gid: int(st.Gid), Mode: int64(st.Mode & modeBits), ModTime: timeOf(st.Mtim), AccessTime: timeOf(st.Atim)}
}

func copyMetadata(fd int, source *os.File, st *unix.Stat_t) error {
	if err := unix.Fchown(fd, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, st.Mode&modeBits); err != nil {
		return err
	}
	through := fmt.Sprintf("/proc/self/fd/%d", source.Fd())
	for _, attr := range listXattrs(through) {
		if !allowedXattr(attr) {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Getxattr(through, attr, value)
		if err != nil {
			return err
		}
		if err := unix.Fsetxattr(fd, attr, value[:n], 0); err != nil {
			return err
		}
	}
	return setTimes(fd, "", timeOf(st.Atim), timeOf(st.Mtim))
}

func listXattrs(through string) []string {
	buf := make([]byte, 64<<10)
	n, err := unix.Listxattr(through, buf)
	if err != nil || n == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
}

// lowers are unpacked layers, the topmost first, seen as overlayfs would merge them.
type lowers []*os.File

// lookup finds a name without following links, in its parts neither. A nil file: there is no such name.
func (l lowers) lookup(name string) (*os.File, *unix.Stat_t, error) {
	for _, root := range l {
		fd, st, covered, err := lookupIn(int(root.Fd()), name)
		if err != nil {
			return nil, nil, fmt.Errorf("looking for %.200q in a lower layer: %w", name, err)
		}
		if fd >= 0 {
			return os.NewFile(uintptr(fd), name), st, nil
		}
		if covered {
			return nil, nil, nil
		}
	}
	return nil, nil, nil
}

// lookupIn answers -1 for a name that is not in this layer, and whether the layer hides the name in those below: by a whiteout, something
// else in its way, or an opaque directory.
func lookupIn(root int, name string) (found int, st *unix.Stat_t, covered bool, err error) {
	const flags = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	at := root
	defer func() {
		if at != root {
			_ = unix.Close(at)
		}
	}()
	parts := strings.Split(path.Clean(name), "/")
	for i, part := range parts {
		fd, err := unix.Openat(at, part, flags, 0)
		if errors.Is(err, unix.ENOENT) {
			return -1, nil, covered, nil
		}
		if err != nil {
			return -1, nil, false, err
		}
		if at != root {
			_ = unix.Close(at)
		}
		at = fd
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return -1, nil, false, err
		}
		if isWhiteout(&st) {
			return -1, nil, true, nil
		}
		if i == len(parts)-1 {
			at = root
			return fd, &st, false, nil
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return -1, nil, true, nil
		}
		value := make([]byte, 1)
		if n, err := unix.Getxattr(fmt.Sprintf("/proc/self/fd/%d", fd), opaqueXattr, value); err == nil && n == 1 && value[0] == 'y' {
			covered = true
		}
	}
	return -1, nil, false, nil
}
