package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	maxPath = 4096 // PATH_MAX
	maxName = 255  // NAME_MAX

	maxLinks = 40 // the kernel's own limit on links followed in one path

	whiteoutPrefix = ".wh."
	// opaqueMarker hides everything that lower layers have in its directory. Other names that start like it are aufs' own notes.
	opaqueMarker = ".wh..wh..opq"
	aufsPrefix   = ".wh..wh."

	opaqueXattr = "trusted.overlay.opaque"
)

// unpacker writes one tar into one directory.
//
// Every name is resolved relative to descriptors of directories inside the layer, opened by openat2 with RESOLVE_IN_ROOT, and the last component is never
// followed. So no name, symbolic link or hard link in the tar reaches anything outside, whatever else happens on the machine at the time
// (CVE-2021-32760, CVE-2025-47290).
type unpacker struct {
	dirs       *dirCache
	buf        []byte
	maxEntries int64
	maxBytes   int64
	bytes      int64
	entries    int64
	times      map[string]dirTime // of directories, by name; set last: creating files inside changes them
	timesSize  int                // bytes of their names
	deferred   Deferred
	links      int  // being followed by behindLink
	root       bool // the tar has an entry for the root
}

type dirTime struct{ atime, mtime time.Time }

// maxRemembered bounds the names, in bytes, that unpacking one layer keeps in memory: a tar compresses so well that a small blob could hold gigabytes of them.
const maxRemembered = 64 << 20

func newUnpacker(dir *os.File, maxEntries, maxBytes int64) (*unpacker, error) {
	dirs, err := newDirCache(dir)
	if err != nil {
		return nil, err
	}
	return &unpacker{dirs: dirs, buf: make([]byte, streamBuffer), maxEntries: maxEntries, maxBytes: maxBytes}, nil
}

func (u *unpacker) close() { u.dirs.close() }

func (u *unpacker) result() Result {
	r := Result{Bytes: u.bytes, Entries: u.entries, Root: u.root}
	if len(u.deferred.implied)+len(u.deferred.targets) > 0 {
		d := u.deferred
		r.Deferred = &d
	}
	return r
}

func (u *unpacker) run(ctx context.Context, r io.Reader) error {
	archive := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		hdr, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return tarError(err)
		}
		if u.entries++; u.entries > u.maxEntries {
			return fmt.Errorf("the layer has more than %d entries: %w", u.maxEntries, errdefs.ErrInvalidArgument)
		}
		if err := u.entry(hdr, archive); err != nil {
			return fmt.Errorf("unpacking %.200q: %w", hdr.Name, err)
		}
		if u.deferred.size > maxRemembered {
			return fmt.Errorf("the layer leaves too much to the layers below: %w", errdefs.ErrInvalidArgument)
		}
	}
	return u.setDirTimes()
}

func tarError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("reading the layer's tar: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("reading the layer's tar: %w", err)
}

// cleanName makes of a name in the tar one that is relative to the layer's root and has no "." or ".." in it: "." for the root itself.
func cleanName(name string) (string, error) {
	if len(name) > maxPath {
		return "", fmt.Errorf("the name has %d bytes, %d are allowed: %w", len(name), maxPath, errdefs.ErrInvalidArgument)
	}
	if strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("the name has a NUL byte: %w", errdefs.ErrInvalidArgument)
	}
	clean := strings.TrimPrefix(path.Clean("/"+name), "/")
	if clean == "" {
		return ".", nil
	}
	for part := range strings.SplitSeq(clean, "/") {
		if len(part) > maxName {
			return "", fmt.Errorf("a part of the name has %d bytes, %d are allowed: %w", len(part), maxName, errdefs.ErrInvalidArgument)
		}
	}
	return clean, nil
}

func (u *unpacker) entry(hdr *tar.Header, content io.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil // git archive's comment and the like
	}
	name, err := cleanName(hdr.Name)
	if err != nil {
		return err
	}
	if name == "." {
		if hdr.Typeflag != tar.TypeDir {
			return fmt.Errorf("the root of the layer is not a directory: %w", errdefs.ErrInvalidArgument)
		}
		u.root = true
		return u.setDirectory(u.dirs.root, name, hdr)
	}
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	if dir == "" {
		dir = "."
	}
	parent, err := u.directory(dir)
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return u.whiteout(parent, dir, base)
	}
	u.deferred.forget(name)
	switch hdr.Typeflag {
	case tar.TypeDir:
		return u.makeDir(parent, name, base, hdr)
	case tar.TypeReg, tar.TypeGNUSparse, '\x00', tar.TypeCont:
		return u.makeFile(parent, base, hdr, content)
	case tar.TypeSymlink:
		return u.makeSymlink(parent, base, hdr)
	case tar.TypeLink:
		return u.makeLink(parent, name, base, hdr)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return u.makeNode(parent, base, hdr)
	}
	return fmt.Errorf("entries of type %q are not supported: %w", hdr.Typeflag, errdefs.ErrInvalidArgument)
}

// directory opens a directory inside the layer. One that the tar has not mentioned is made, and noted: a layer below may have it, with its owner and mode.
func (u *unpacker) directory(name string) (int, error) {
	fd, err := u.dirs.open(name)
	if err == nil || !errors.Is(err, unix.ENOENT) {
		if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			return u.replaceByDirectory(name, err)
		}
		return fd, err
	}
	parentName := path.Dir(name)
	parent, err := u.directory(parentName)
	if err != nil {
		return -1, err
	}
	if err := unix.Mkdirat(parent, path.Base(name), 0o755); err != nil {
		if !errors.Is(err, unix.EEXIST) {
			return -1, fmt.Errorf("making directory %q: %w", name, err)
		}
		return u.behindLink(parent, name)
	}
	u.entries++
	u.deferred.imply(name)
	return u.dirs.open(name)
}

// behindLink is for a symbolic link that leads to something this layer does not have yet, such as var/run to a /run of a layer below: the directory is made where
// the link leads, inside the layer.
func (u *unpacker) behindLink(parent int, name string) (int, error) {
	if u.links++; u.links > maxLinks {
		return -1, fmt.Errorf("following the links of %.200q: %w: %w", name, unix.ELOOP, errdefs.ErrInvalidArgument)
	}
	defer func() { u.links-- }()
	buf := make([]byte, maxPath)
	n, err := unix.Readlinkat(parent, path.Base(name), buf)
	if err != nil {
		return u.replaceByDirectory(name, err)
	}
	target := string(buf[:n])
	if !strings.HasPrefix(target, "/") {
		target = path.Dir(name) + "/" + target
	}
	if target, err = cleanName(target); err != nil {
		return -1, err
	}
	if _, err := u.directory(target); err != nil {
		return -1, err
	}
	return u.dirs.open(name)
}

// replaceByDirectory is for a name that stands where a directory has to be: the later entry of a tar wins.
func (u *unpacker) replaceByDirectory(name string, cause error) (int, error) {
	if name == "." {
		return -1, cause
	}
	parent, err := u.directory(path.Dir(name))
	if err != nil {
		return -1, err
	}
	base := path.Base(name)
	wasWhiteout, err := u.clear(parent, base)
	if err != nil {
		return -1, err
	}
	if err := unix.Mkdirat(parent, base, 0o755); err != nil {
		return -1, fmt.Errorf("making directory %q: %w", name, err)
	}
	fd, err := u.dirs.open(name)
	if err != nil {
		return -1, err
	}
	if wasWhiteout {
		if err := setOpaque(fd); err != nil {
			return -1, err
		}
	} else {
		u.deferred.imply(name)
	}
	return fd, nil
}

// clear removes what stands under a name and says whether it was a whiteout.
func (u *unpacker) clear(parent int, base string) (wasWhiteout bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return false, nil
		}
		return false, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		u.dirs.flush() // it may hold descriptors below a directory or reached by a link that are no longer the right ones
	}
	r := remover{ctx: context.Background(), top: u.dirs.root, name: base}
	if err := r.remove(parent, base, 0); err != nil {
		return false, fmt.Errorf("replacing %q: %w", base, err)
	}
	if len(r.moved) > 0 {
		return false, fmt.Errorf("replacing %q: directories nested too deeply: %w", base, errdefs.ErrInvalidArgument)
	}
	// flush closed the descriptor that the caller holds only if it was cached; callers re-open by name where they need it again.
	return isWhiteout(&st), nil
}

func isWhiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

func setOpaque(fd int) error {
	if err := unix.Fsetxattr(fd, opaqueXattr, []byte("y"), 0); err != nil {
		return fmt.Errorf("marking a directory opaque (does the image store's file system support trusted.* attributes?): %w", err)
	}
	return nil
}

// whiteout translates one whiteout. It only hides what lower layers have: something that this layer itself has under the name stays.
func (u *unpacker) whiteout(parent int, dir, base string) error {
	if base == opaqueMarker {
		return setOpaque(parent)
	}
	if strings.HasPrefix(base, aufsPrefix) {
		return nil
	}
	hidden := strings.TrimPrefix(base, whiteoutPrefix)
	if hidden == "" || hidden == "." || hidden == ".." {
		return fmt.Errorf("a whiteout of nothing: %w", errdefs.ErrInvalidArgument)
	}
	err := unix.Mknodat(parent, hidden, unix.S_IFCHR, 0)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(parent, hidden, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	fd, err := u.dirs.open(path.Join(dir, hidden))
	if err != nil {
		return err
	}
	u.deferred.forget(path.Join(dir, hidden))
	return setOpaque(fd)
}

// remember notes a directory's times for the end.
func (u *unpacker) remember(name string, t dirTime) error {
	if u.times == nil {
		u.times = map[string]dirTime{}
	}
	if _, known := u.times[name]; !known {
		u.timesSize += len(name)
	}
	u.times[name] = t
	if u.timesSize < maxRemembered {
		return nil
	}
	// A few directories of a monstrous layer get the time of unpacking instead.
	return u.setDirTimes()
}

func (u *unpacker) setDirTimes() error {
	for name, t := range u.times {
		fd, err := u.dirs.open(name)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			continue // replaced by something else later in the tar
		}
		if err != nil {
			return fmt.Errorf("setting times of %.200q: %w", name, err)
		}
		if err := setTimes(fd, "", t.atime, t.mtime); err != nil {
			return fmt.Errorf("setting times of %.200q: %w", name, err)
		}
	}
	clear(u.times)
	u.timesSize = 0
	return nil
}
