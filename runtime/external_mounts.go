package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The mounts of a bundle, in the container's directory.
const (
	rootfsName  = "rootfs"
	imagePrefix = "image-"
)

// attachBundle attaches the root file system and the image volumes to where the spec names them. What an earlier daemon, which died
// during a start, has attached there is taken away before: a root file system is never mounted twice.
func (r *Runtime) attachBundle(ctx context.Context, c *container) error {
	if err := detachBundle(c.dir); err != nil {
		return err
	}
	spec, err := c.readSpec()
	if err != nil {
		return err
	}
	if c.rootfs == nil { // created by an earlier daemon
		if err := r.remount(ctx, c); err != nil {
			return err
		}
	}
	if err := attach(c.rootfs, filepath.Join(c.dir, spec.Root.Path)); err != nil {
		return fmt.Errorf("attaching the root file system: %w", err)
	}
	for destination, mount := range c.bundle.images {
		if err := attach(mount, sourceOf(spec, destination)); err != nil {
			return fmt.Errorf("attaching the image volume at %s: %w", destination, err)
		}
	}
	return nil
}

func sourceOf(spec *specs.Spec, destination string) string {
	for _, mount := range spec.Mounts {
		if filepath.Clean(mount.Destination) == destination {
			return mount.Source
		}
	}
	return ""
}

// attach moves a detached mount to a place in the container's directory, which it makes: a directory or, for a volume that is one file, a file.
func attach(mount *os.File, place string) error {
	info, err := mount.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = os.MkdirAll(place, 0o711)
	} else {
		err = os.WriteFile(place, nil, 0o600)
	}
	if err != nil {
		return err
	}
	if err := unix.MoveMount(int(mount.Fd()), "", unix.AT_FDCWD, place, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("moving the mount to %s: %w", place, err)
	}
	return nil
}

// detachBundle takes away all mounts that attachBundle can have made. It is idempotent, and must have succeeded before a container's directory is
// removed with all that is in it.
func detachBundle(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, entry := range entries {
		if name := entry.Name(); name == rootfsName || strings.HasPrefix(name, imagePrefix) {
			errs = append(errs, unmount(filepath.Join(dir, name)))
		}
	}
	return errors.Join(errs...)
}
