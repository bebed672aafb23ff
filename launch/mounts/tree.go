package mounts

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	maxSymlinks   = 40  // as the kernel has it
	maxComponents = 512 // of one destination with its symlinks expanded
)

// Tree is the container's tree of mounts while it is being prepared: its root and the mounts that will stand on it, none of which is
// attached yet. It answers where in it a destination is, the way the kernel would once they all are attached, and never leaves it.
//
// The root is an image, so it is hostile: any component may be a symbolic link, or a file where a directory should be. A volume may even be
// changed by another container meanwhile. So a path is walked component by component, each opened relative to the last one's descriptor
// without following links; links are expanded here, ".." goes back to the descriptor it came from, and nothing is ever resolved twice
// (CVE-2021-30465, CVE-2024-45310).
type Tree struct {
	mounts map[string]node // by destination with its links resolved; the last mounted on top
}

// node is a mount: a descriptor, or one that only the child can make, by the number its maker gave.
type node struct {
	root *os.File
	made int
}

// Target is where a mount goes. Either File is set, an O_PATH descriptor of the place, owned by the caller; or the place is Path below the
// mount Made, which the child makes itself ("" for its root) and which is a kernel's file system without links of a container's making.
type Target struct {
	File *os.File
	Made int
	Path string
	Real string // the destination with its links resolved, from the container's root
}

// NewTree starts a tree with its root, which stays the caller's.
func NewTree(root *os.File) *Tree {
	return &Tree{mounts: map[string]node{"/": {root: root}}}
}

// Attach puts a detached mount at a place. It stays the caller's and must live as long as the tree.
func (t *Tree) Attach(at Target, mount *os.File) { t.mounts[at.Real] = node{root: mount} }

// AttachMade puts a mount of the child's making at a place; number is the caller's, above 0.
func (t *Tree) AttachMade(at Target, number int) { t.mounts[at.Real] = node{made: number} }

// Directory finds a destination that is a directory, and makes what is missing of it. ErrInvalidArgument if something else is there.
func (t *Tree) Directory(destination string) (Target, error) {
	return t.resolve(destination, true)
}

// File finds a destination that is no directory, and makes what is missing of it. ErrInvalidArgument if a directory is there.
func (t *Tree) File(destination string) (Target, error) {
	return t.resolve(destination, false)
}

// step is a place on the way: an open descriptor, or none below a mount of the child's.
type step struct {
	name  string
	fd    int // -1 below a mount of the child's
	made  int
	mount bool // the root of a mount
}

type walk struct {
	tree  *Tree
	steps []step // from the root down
	links int
	count int
}

func (w *walk) close() {
	for _, s := range w.steps {
		if s.fd >= 0 {
			_ = unix.Close(s.fd)
		}
	}
}

func (w *walk) real() string {
	names := make([]string, len(w.steps))
	for i, s := range w.steps {
		names[i] = s.name
	}
	return "/" + strings.TrimPrefix(strings.Join(names, "/"), "/")
}

// enter goes into the mount that stands at the current place, if any.
func (w *walk) enter() error {
	n, ok := w.tree.mounts[w.real()]
	if !ok {
		return nil
	}
	last := &w.steps[len(w.steps)-1]
	if last.fd >= 0 {
		_ = unix.Close(last.fd)
	}
	last.fd, last.made, last.mount = -1, n.made, true
	if n.root == nil {
		return nil
	}
	fd, err := unix.FcntlInt(n.root.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		last.fd = fd
	}
	return err
}

func (t *Tree) resolve(destination string, directory bool) (Target, error) {
	if !path.IsAbs(destination) || strings.ContainsRune(destination, 0) {
		return Target{}, fmt.Errorf("mount destination %q is not an absolute path: %w", destination, errdefs.ErrInvalidArgument)
	}
	w := &walk{tree: t}
	defer w.close()
	w.steps = []step{{name: "", fd: -1}}
	if err := w.enter(); err != nil {
		return Target{}, fmt.Errorf("resolving %q in the container: %w", destination, err)
	}
	pending := strings.Split(destination, "/")
	for len(pending) > 0 {
		name := pending[0]
		pending = pending[1:]
		if name == "" || name == "." {
			continue
		}
		if w.count++; w.count > maxComponents {
			return Target{}, fmt.Errorf("resolving %q in the container: %w", destination, unix.ENAMETOOLONG)
		}
		if name == ".." {
			w.up()
			continue
		}
		last := !hasName(pending)
		link, err := w.down(name, directory || !last)
		if err != nil {
			return Target{}, fmt.Errorf("resolving %q in the container: %q: %w", destination, path.Join(w.real(), name), atFault(err))
		}
		if link != "" {
			if path.IsAbs(link) {
				w.top()
			}
			pending = append(strings.Split(link, "/"), pending...)
		}
	}
	return w.target(), nil
}

// atFault makes errors of an image or a request those of who sent it.
func atFault(err error) error {
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENAMETOOLONG) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return err
}

func hasName(components []string) bool {
	for _, c := range components {
		if c != "" && c != "." {
			return true
		}
	}
	return false
}

func (w *walk) up() {
	if n := len(w.steps); n > 1 {
		if w.steps[n-1].fd >= 0 {
			_ = unix.Close(w.steps[n-1].fd)
		}
		w.steps = w.steps[:n-1]
	}
}

func (w *walk) top() {
	for len(w.steps) > 1 {
		w.up()
	}
}

// down goes one component further, making it when it is missing. It answers a symbolic link's text instead of going into it.
func (w *walk) down(name string, directory bool) (link string, err error) {
	at := w.steps[len(w.steps)-1]
	if at.fd < 0 { // below a mount of the child's, where it will look itself
		w.steps = append(w.steps, step{name: name, fd: -1, made: at.made})
		return "", w.enter()
	}
	fd, err := unix.Openat(at.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		fd, err = create(at.fd, name, directory)
	}
	if err != nil {
		return "", err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return "", err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		defer unix.Close(fd)
		if w.links++; w.links > maxSymlinks {
			return "", unix.ELOOP
		}
		return readlink(fd)
	}
	if isDirectory := st.Mode&unix.S_IFMT == unix.S_IFDIR; isDirectory != directory {
		_ = unix.Close(fd)
		if directory {
			return "", unix.ENOTDIR
		}
		return "", unix.EISDIR
	}
	w.steps = append(w.steps, step{name: name, fd: fd, made: at.made})
	return "", w.enter()
}

// create makes a directory or an empty file and opens it. Somebody may have put something else there meanwhile: it is opened like
// anything found, without following a link.
func create(dir int, name string, directory bool) (int, error) {
	var err error
	if directory {
		err = unix.Mkdirat(dir, name, 0o755)
	} else {
		err = unix.Mknodat(dir, name, unix.S_IFREG|0o644, 0)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, fmt.Errorf("creating it: %w", err)
	}
	return unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

func readlink(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", err
	}
	if n == 0 {
		return "", unix.ENOENT
	}
	return string(buf[:n]), nil
}

func (w *walk) target() Target {
	last := &w.steps[len(w.steps)-1]
	t := Target{Real: w.real()}
	if last.fd >= 0 {
		t.File = os.NewFile(uintptr(last.fd), t.Real)
		last.fd = -1
		return t
	}
	t.Made = last.made
	for i := len(w.steps) - 1; !w.steps[i].mount; i-- {
		t.Path = path.Join(w.steps[i].name, t.Path)
	}
	return t
}
