package runtime

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/shimd/shimd/runtime/ocispec"
)

// fillVolume makes the directory of an image's VOLUME and fills it with what the image has at that path. The image is untrusted:
// both sides are resolved inside their roots, and a link is copied as a link.
func fillVolume(rootfs *os.File, volume ocispec.Volume) error {
	if err := os.MkdirAll(volume.HostPath, 0o755); err != nil {
		return err
	}
	to, err := os.OpenRoot(volume.HostPath)
	if err != nil {
		return err
	}
	defer to.Close()
	image, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", rootfs.Fd()))
	if err != nil {
		return err
	}
	defer image.Close()
	from, err := image.OpenRoot(strings.TrimPrefix(volume.Path, "/"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer from.Close()
	return copyDirectory(from, to, ".")
}

func copyDirectory(from, to *os.Root, name string) error {
	if err := copyAttributes(from, to, name); err != nil {
		return err
	}
	dir, err := from.Open(name)
	if err != nil {
		return err
	}
	entries, err := dir.ReadDir(-1)
	dir.Close()
	if err != nil {
		return err
	}
	for _, entry := range entries {
		child := path.Join(name, entry.Name())
		if err := copyEntry(from, to, child, entry); err != nil {
			return fmt.Errorf("%s: %w", child, err)
		}
	}
	return nil
}

func copyEntry(from, to *os.Root, name string, entry fs.DirEntry) error {
	switch {
	case entry.IsDir():
		if err := to.Mkdir(name, 0o700); err != nil {
			return err
		}
		return copyDirectory(from, to, name)
	case entry.Type()&fs.ModeSymlink != 0:
		target, err := from.Readlink(name)
		if err != nil {
			return err
		}
		if err := to.Symlink(target, name); err != nil {
			return err
		}
		return copyOwner(from, to, name)
	case entry.Type().IsRegular():
		return copyFile(from, to, name)
	}
	return nil // devices, sockets and FIFOs are not content
}

func copyFile(from, to *os.Root, name string) error {
	in, err := from.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := to.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	return copyAttributes(from, to, name)
}

func copyAttributes(from, to *os.Root, name string) error {
	info, err := from.Lstat(name)
	if err != nil {
		return err
	}
	if err := copyOwner(from, to, name); err != nil {
		return err
	}
	return to.Chmod(name, info.Mode()&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky))
}

func copyOwner(from, to *os.Root, name string) error {
	info, err := from.Lstat(name)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return to.Lchown(name, int(stat.Uid), int(stat.Gid))
}
