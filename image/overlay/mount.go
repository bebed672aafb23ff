package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/userns"
)

// IDMap maps IDs as they are on disk on to IDs of the host, Length of them.
type IDMap struct{ ContainerID, HostID, Length uint32 }

// Spec says what is mounted. Directories are relative to Root.
type Spec struct {
	Root       string   // absolute; holds all the directories; one idmapped bind of it serves them all
	Lower      []string // the topmost first; at least one, without Upper at least two
	Upper      string   // "" for a read-only mount
	Work       string
	UIDs, GIDs []IDMap // both or none
	Context    string  // SELinux label of all files; "" for none
}

// Mounter mounts by the ways that the kernel has.
type Mounter struct {
	place      string // an empty directory to mount on, in namespaces of our own
	appendable bool
}

// maxParameter is what fsconfig takes of a string, with its NUL.
const maxParameter = 256

// New probes the kernel. place is an empty directory on which nothing is ever mounted in the host's mount namespace.
func New(place string) (*Mounter, error) {
	appendable, err := probeAppend(place)
	if err != nil {
		return nil, err
	}
	return &Mounter{place: place, appendable: appendable}, nil
}

// probeAppend finds out whether fsconfig takes lower directories one by one ("lowerdir+"). Before, all have to fit into one parameter of 255
// bytes, which leaves only mount(2).
func probeAppend(dir string) (bool, error) {
	if len(dir) >= maxParameter {
		dir = "/"
	}
	// Before Linux 6.5, overlayfs takes any parameter and refuses it only when the mount is made: then it takes one that does not exist, too.
	anything, err := takesParameter("no-such-parameter", dir)
	if err != nil || anything {
		return false, err
	}
	return takesParameter("lowerdir+", dir)
}

func takesParameter(name, value string) (bool, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return false, fmt.Errorf("opening overlayfs (is the kernel module there?): %w", err)
	}
	defer unix.Close(fs)
	err = unix.FsconfigSetString(fs, name, value)
	if err != nil && !errors.Is(err, unix.EINVAL) {
		return false, fmt.Errorf("probing overlayfs for %q: %w", name, err)
	}
	return err == nil, nil
}

// Mount answers the mount's descriptor, which the caller closes. The directories must not be removed before.
func (m *Mounter) Mount(spec Spec) (*os.File, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	if spec.Upper != "" {
		// What a volatile mount leaves behind when the machine dies with it: overlayfs refuses to mount again, since the content may be
		// torn. Containers do not outlive the boot, and within one boot nothing is lost.
		if err := os.RemoveAll(filepath.Join(spec.Root, spec.Work, "work", "incompat")); err != nil {
			return nil, fmt.Errorf("making the overlay mountable again: %w", err)
		}
	}
	mapped := len(spec.UIDs) > 0
	if m.appendable && !mapped {
		return mountNew(spec, spec.Root)
	}
	var result *os.File
	err := inMountNamespace(func() error {
		base := spec.Root
		if mapped {
			tree, err := idmapped(spec)
			if err != nil {
				return err
			}
			defer tree.Close()
			// Overlayfs takes layers only from mounts that are in the caller's namespace (detached ones from 6.15 on).
			if err := unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, m.place, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
				return fmt.Errorf("attaching the idmapped mount: %w", err)
			}
			base = m.place
			// Overlayfs makes its own directories as who mounts it: the host's root has no name on the idmapped mount, and the overlay
			// would be read-only.
			if err := userns.BecomeRoot(hostRoot(spec.UIDs), hostRoot(spec.GIDs)); err != nil {
				return err
			}
		}
		var err error
		if m.appendable {
			result, err = mountNew(spec, base)
		} else {
			result, err = mountClassic(spec, base, m.place)
		}
		return err
	})
	return result, err
}

func (s *Spec) check() error {
	least := 1
	if s.Upper == "" {
		least = 2
	}
	if len(s.Lower) < least {
		return fmt.Errorf("an overlay of %d lower directories: %w", len(s.Lower), errdefs.ErrInvalidArgument)
	}
	if (len(s.UIDs) == 0) != (len(s.GIDs) == 0) {
		return fmt.Errorf("user and group mappings have to come together: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// parameter is one option of overlayfs; value "" for a flag.
type parameter struct{ name, value string }

// options are the same for all ways. index and metacopy are off whatever the kernel's defaults: index would refuse a second mount of the
// same layers, metacopy would let attributes of an upper directory redirect to data elsewhere. volatile: unmounting does not sync, for
// nothing outlives the container.
func (s *Spec) options() []parameter {
	params := []parameter{{"index", "off"}, {"metacopy", "off"}}
	if s.Upper != "" {
		params = append(params, parameter{"volatile", ""})
	}
	if s.Context != "" {
		params = append(params, parameter{"context", s.Context})
	}
	return params
}

// mountNew uses fsopen, fsconfig and fsmount.
func mountNew(spec Spec, base string) (*os.File, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("opening overlayfs: %w", err)
	}
	defer unix.Close(fs)
	var held []*os.File
	defer func() {
		for _, f := range held {
			_ = f.Close()
		}
	}()
	set := func(name, path string) error {
		path = filepath.Join(base, path)
		if len(path) >= maxParameter {
			f, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			held = append(held, f)
			path = fmt.Sprintf("/proc/self/fd/%d", f.Fd())
		}
		if err := unix.FsconfigSetString(fs, name, path); err != nil {
			return fmt.Errorf("overlayfs option %s=%s: %w%s", name, path, err, kernelLog(fs))
		}
		return nil
	}
	for _, dir := range spec.Lower {
		if err := set("lowerdir+", dir); err != nil {
			return nil, err
		}
	}
	if spec.Upper != "" {
		if err := errors.Join(set("upperdir", spec.Upper), set("workdir", spec.Work)); err != nil {
			return nil, err
		}
	}
	for _, p := range spec.options() {
		if p.value == "" {
			err = unix.FsconfigSetFlag(fs, p.name)
		} else {
			err = unix.FsconfigSetString(fs, p.name, p.value)
		}
		if err != nil {
			return nil, fmt.Errorf("overlayfs option %s=%s: %w%s", p.name, p.value, err, kernelLog(fs))
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("creating the overlay of %d layers: %w%s", len(spec.Lower), err, kernelLog(fs))
	}
	attrs := 0
	if spec.Upper == "" {
		attrs = unix.MOUNT_ATTR_RDONLY
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return nil, fmt.Errorf("mounting the overlay: %w", err)
	}
	return os.NewFile(uintptr(fd), "overlay"), nil
}

// kernelLog reads what the kernel says about a configuration that it refused.
func kernelLog(fs int) string {
	var text strings.Builder
	buf := make([]byte, 1024)
	for range 8 {
		n, err := unix.Read(fs, buf)
		if err != nil || n <= 0 {
			break
		}
		text.WriteString(": ")
		text.WriteString(strings.TrimSpace(string(buf[:n])))
	}
	return text.String()
}

// mountClassic uses mount(2), whose options have to fit on one page: so directories go by their descriptors' numbers, relative to
// /proc/thread-self/fd. It runs on a thread with a working directory and a mount namespace of its own.
func mountClassic(spec Spec, base, place string) (*os.File, error) {
	var held []*os.File
	defer func() {
		for _, f := range held {
			_ = f.Close()
		}
	}()
	number := func(dir string) (string, error) {
		f, err := os.OpenFile(filepath.Join(base, dir), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", fmt.Errorf("opening a layer: %w", err)
		}
		held = append(held, f)
		return fmt.Sprint(f.Fd()), nil
	}
	var lower []string
	for _, dir := range spec.Lower {
		n, err := number(dir)
		if err != nil {
			return nil, err
		}
		lower = append(lower, n)
	}
	data := []string{"lowerdir=" + strings.Join(lower, ":")}
	if spec.Upper != "" {
		upper, err := number(spec.Upper)
		if err != nil {
			return nil, err
		}
		work, err := number(spec.Work)
		if err != nil {
			return nil, err
		}
		data = append(data, "upperdir="+upper, "workdir="+work)
	}
	for _, p := range spec.options() {
		switch {
		case p.name == "context":
			data = append(data, `context="`+p.value+`"`)
		case p.value == "":
			data = append(data, p.name)
		default:
			data = append(data, p.name+"="+p.value)
		}
	}
	if err := unix.Chdir("/proc/thread-self/fd"); err != nil {
		return nil, fmt.Errorf("entering /proc/thread-self/fd: %w", err)
	}
	var flags uintptr
	if spec.Upper == "" {
		flags = unix.MS_RDONLY
	}
	options := strings.Join(data, ",")
	if len(options) >= os.Getpagesize() {
		return nil, fmt.Errorf("an overlay of %d layers is too much for this kernel: %w", len(spec.Lower), errdefs.ErrFailedPrecondition)
	}
	if err := unix.Mount("overlay", place, "overlay", flags, options); err != nil {
		return nil, fmt.Errorf("mounting the overlay of %d layers: %w", len(spec.Lower), err)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, place, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("detaching the overlay: %w", err)
	}
	return os.NewFile(uintptr(fd), "overlay"), nil
}
