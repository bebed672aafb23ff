package volume

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Names in a volume whose content is exchanged as a whole, as the kubelet's AtomicWriter has them: programs watch ..data.
//
//	VOLUME/..data -> ..2026_01_31_23_59_59.abc   exchanged by rename
//	VOLUME/..2026_01_31_23_59_59.abc/KEY         the content
//	VOLUME/KEY -> ..data/KEY                     what people open
const (
	dataLink    = "..data"
	dataLinkNew = "..data_tmp"
	reserved    = ".."
)

const (
	maxName = 255
	maxPath = 4096
)

// file is one of a volume whose content comes from the API server.
type file struct {
	data  []byte
	mode  fs.FileMode
	owner int // a user ID; noOwner: stays root's
}

const noOwner = -1

// content is all files of such a volume, by path.
type content map[string]file

// checkPath says whether a file can have a path: relative, no .. in it, nothing that starts with .. at its beginning.
func checkPath(name string) error {
	switch {
	case name == "" || path.Clean(name) == ".":
		return fmt.Errorf("a path is empty: %w", errdefs.ErrInvalidArgument)
	case strings.ContainsRune(name, 0):
		return fmt.Errorf("path %q holds a NUL: %w", name, errdefs.ErrInvalidArgument)
	case path.IsAbs(name):
		return fmt.Errorf("path %q is not relative: %w", name, errdefs.ErrInvalidArgument)
	case len(name) > maxPath:
		return fmt.Errorf("a path is longer than %d bytes: %w", maxPath, errdefs.ErrInvalidArgument)
	case leadsUp(name):
		return fmt.Errorf("path %q leads upwards: %w", name, errdefs.ErrInvalidArgument)
	case strings.HasPrefix(path.Clean(name), reserved):
		return fmt.Errorf("path %q starts with ..: %w", name, errdefs.ErrInvalidArgument)
	}
	for part := range strings.SplitSeq(name, "/") {
		if len(part) > maxName {
			return fmt.Errorf("a part of path %q is longer than %d bytes: %w", name, maxName, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func leadsUp(name string) bool { return slices.Contains(strings.Split(name, "/"), "..") }

// clean checks all paths, and spells them the shortest way.
func (c content) clean() (content, error) {
	cleaned := make(content, len(c))
	for name, f := range c {
		if err := checkPath(name); err != nil {
			return nil, err
		}
		cleaned[path.Clean(name)] = f
	}
	return cleaned, nil
}

// write makes a volume hold exactly some files, so that who follows ..data sees all of the old or all of the new. Content that is there already
// is not written again. group, where there is one, can read everything.
//
// A container that may mount can make its read-only volume writable, and plant links in it. So nothing here leaves the volume's directory
// (os.Root), and of the links only names are believed, after a check.
func write(dir string, files content, group *int64) error {
	files, err := files.clean()
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("opening the volume: %w", err)
	}
	defer root.Close()
	current, err := currentData(root)
	if err != nil {
		return err
	}
	if current == "" || !holds(root, current, files) {
		if current, err = exchange(root, files, group); err != nil {
			return err
		}
	}
	if err := showKeys(root, files); err != nil {
		return err
	}
	return sweep(root, current, files)
}

// currentData is the directory that ..data leads to; "": there is none that we could have made.
func currentData(root *os.Root) (string, error) {
	name, err := root.Readlink(dataLink)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err == nil && isDataName(name) {
		if info, err := root.Lstat(name); err == nil && info.IsDir() {
			return name, nil
		}
	}
	if err := root.RemoveAll(dataLink); err != nil {
		return "", fmt.Errorf("removing what is not a link of ours at %s: %w", dataLink, err)
	}
	return "", nil
}

func isDataName(name string) bool {
	return strings.HasPrefix(name, reserved) && len(name) > len(reserved) && !strings.Contains(name, "/") && name != dataLink && name != dataLinkNew
}

// holds compares. Whatever can't be read as a plain file is a difference.
func holds(root *os.Root, name string, files content) bool {
	data, err := root.OpenRoot(name)
	if err != nil {
		return false
	}
	defer data.Close()
	found := 0
	err = fs.WalkDir(data.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		wanted, ok := files[name]
		if !ok || !entry.Type().IsRegular() || !same(data, name, wanted.data) {
			return errdefs.ErrFailedPrecondition
		}
		found++
		return nil
	})
	return err == nil && found == len(files)
}

func same(data *os.Root, name string, wanted []byte) bool {
	f, err := data.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0) // a FIFO could have taken its place
	if err != nil {
		return false
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() != int64(len(wanted)) {
		return false
	}
	text, err := io.ReadAll(io.LimitReader(f, int64(len(wanted))+1))
	return err == nil && bytes.Equal(text, wanted)
}

// exchange writes the files into a directory of their own, and lets ..data lead there.
func exchange(root *os.Root, files content, group *int64) (string, error) {
	name := time.Now().UTC().Format("..2006_01_02_15_04_05.") + strings.ToLower(rand.Text()[:10])
	if err := root.Mkdir(name, 0o755); err != nil {
		return "", fmt.Errorf("making the directory of the content: %w", err)
	}
	err := fill(root, name, files, group)
	if err == nil {
		err = root.RemoveAll(dataLinkNew)
	}
	if err == nil {
		err = root.Symlink(name, dataLinkNew)
	}
	if err == nil {
		err = root.Rename(dataLinkNew, dataLink)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("writing the content: %w", err), root.RemoveAll(name))
	}
	return name, nil
}

func fill(root *os.Root, name string, files content, group *int64) error {
	data, err := root.OpenRoot(name)
	if err != nil {
		return err
	}
	defer data.Close()
	made := map[string]bool{}
	for name, f := range files {
		if err := makeParents(data, path.Dir(name), made, group); err != nil {
			return err
		}
		if err := f.create(data, name, group); err != nil {
			return err
		}
	}
	return giveDirectory(data, ".", 0o755, group)
}

func makeParents(data *os.Root, dir string, made map[string]bool, group *int64) error {
	if dir == "." || made[dir] {
		return nil
	}
	if err := makeParents(data, path.Dir(dir), made, group); err != nil {
		return err
	}
	if err := data.Mkdir(dir, 0o755); err != nil {
		return err
	}
	made[dir] = true
	return giveDirectory(data, dir, 0o755, group)
}

// create writes one file. Its owner and mode are set on what was opened.
func (f file) create(data *os.Root, name string, group *int64) (err error) {
	out, err := data.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := out.Write(f.data); err != nil {
		return err
	}
	mode, gid := f.mode&fs.ModePerm, -1
	if group != nil {
		mode, gid = mode|groupReads, int(*group)
	}
	if f.owner != noOwner || gid != -1 {
		if err := out.Chown(f.owner, gid); err != nil {
			return err
		}
	}
	return out.Chmod(mode)
}

// showKeys makes the links that people open. What else has such a name stays: it is the mount point of another volume.
func showKeys(root *os.Root, files content) error {
	for name := range files {
		key, _, _ := strings.Cut(name, "/")
		target := dataLink + "/" + key
		switch now, err := root.Readlink(key); {
		case err == nil && now == target:
			continue
		case err == nil:
			if err := root.Remove(key); err != nil {
				return fmt.Errorf("replacing link %s: %w", key, err)
			}
		case !errors.Is(err, fs.ErrNotExist):
			continue
		}
		if err := root.Symlink(target, key); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("making link %s: %w", key, err)
		}
	}
	return nil
}

// sweep removes the links of keys that are gone, and content that nothing leads to any more.
func sweep(root *os.Root, current string, files content) error {
	keys := map[string]bool{}
	for name := range files {
		key, _, _ := strings.Cut(name, "/")
		keys[key] = true
	}
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return fmt.Errorf("listing the volume: %w", err)
	}
	var problems error
	for _, entry := range entries {
		name := entry.Name()
		switch {
		case name == dataLink || name == current || keys[name]:
		case strings.HasPrefix(name, reserved):
			problems = errors.Join(problems, root.RemoveAll(name))
		case entry.Type()&fs.ModeSymlink != 0:
			problems = errors.Join(problems, root.Remove(name))
		}
	}
	if problems != nil {
		return fmt.Errorf("removing old content: %w", problems)
	}
	return nil
}
