package layer

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// maxOpenDepth is how many directories are held open on the way down a tree that is removed. Whoever made the tree, a layer or a container,
// may have nested it deeper than this process has descriptors.
const maxOpenDepth = 64

// RemoveTree removes a name in dir and everything below it. It follows no link and crosses no mount, and takes trees of any depth: what
// lies too deep is first moved up into dir, under names that begin with name. It stops when ctx ends.
func RemoveTree(ctx context.Context, dir *os.File, name string) error {
	r := remover{ctx: ctx, top: int(dir.Fd()), name: name}
	queue := []string{name}
	for len(queue) > 0 {
		r.moved = nil
		if err := r.remove(r.top, queue[0], 0); err != nil {
			return fmt.Errorf("removing %q: %w", name, err)
		}
		queue = append(queue[1:], r.moved...)
	}
	return nil
}

type remover struct {
	ctx   context.Context // it lives as long as one removal
	top   int
	name  string
	count int
	moved []string
}

func (r *remover) remove(parent int, base string, depth int) error {
	err := unix.Unlinkat(parent, base, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	if depth >= maxOpenDepth {
		r.count++
		up := fmt.Sprintf("%.100s-deep-%d-%d", r.name, os.Getpid(), r.count)
		if err := unix.Renameat(parent, base, r.top, up); err != nil {
			return err
		}
		r.moved = append(r.moved, up)
		return nil
	}
	fd, err := unix.Openat2(parent, base, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(fd), base)
	defer dir.Close()
	for {
		// A few at a time: a directory may have millions.
		names, err := dir.Readdirnames(1024)
		if len(names) == 0 {
			if err != nil && !isEOF(err) {
				return err
			}
			break
		}
		for _, name := range names {
			if err := r.remove(fd, name, depth+1); err != nil {
				return err
			}
		}
		if _, err := dir.Seek(0, 0); err != nil {
			return err
		}
	}
	return unix.Unlinkat(parent, base, unix.AT_REMOVEDIR)
}
