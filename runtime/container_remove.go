package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
)

// RemoveContainer kills the container, if it runs, and removes all that it has. It is idempotent.
func (r *Runtime) RemoveContainer(ctx context.Context, id ContainerID) error {
	c, err := r.findContainer(id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, teardownTimeout)
	defer cancel()
	return r.removeContainer(ctx, c)
}

func (r *Runtime) removeContainer(ctx context.Context, c *container) error {
	c.op.Lock()
	defer c.op.Unlock()
	return r.removeContainerLocked(ctx, c)
}

// removeContainerLocked is the flow of RemoveContainer, and undoes a creation:
//
//  1. kill it
//  2. remove its cgroup
//  3. let the root file system go
//  4. remove files, streams and record
//
// All steps run even if one fails. The record goes last, so that what failed can be asked for again.
func (r *Runtime) removeContainerLocked(ctx context.Context, c *container) error {
	if c.isRemoved() {
		return nil
	}
	steps := []struct {
		name string
		do   func() error
	}{
		{"container.kill", func() error { return r.endContainer(ctx, c, 0) }},
		{"container.external", func() error { return r.deleteExternal(ctx, c) }},
		{"container.rmcgroup", func() error { return r.removeCgroup(ctx, c) }},
		{"container.rmrootfs", func() error { c.release(); return r.Images.RemoveRootfs(ctx, string(c.id)) }},
		{"container.rmfiles", func() error { return os.RemoveAll(c.files) }},
	}
	var errs []error
	for _, step := range steps {
		errs = append(errs, r.step(ctx, step.name, step.do))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing container %s (ask again to finish): %w", c.id, err)
	}
	if err := r.step(ctx, "container.remove", func() error { return os.RemoveAll(c.dir) }); err != nil {
		return fmt.Errorf("removing container %s: %w", c.id, err)
	}
	r.forgetContainer(c)
	r.announce(EventDeleted, c.sandbox, c)
	return nil
}

func (r *Runtime) forgetContainer(c *container) {
	r.mu.Lock()
	delete(r.containers, c.id)
	r.mu.Unlock()
	c.sandbox.mu.Lock()
	delete(c.sandbox.containers, c.id)
	if c.sandbox.byName[c.record.Config.Metadata] == c {
		delete(c.sandbox.byName, c.record.Config.Metadata)
	}
	c.sandbox.mu.Unlock()
	c.mu.Lock()
	c.removed = true
	owed := c.owed
	c.mu.Unlock()
	if owed {
		r.acknowledge(string(c.id))
	}
}

func (r *Runtime) removeCgroup(ctx context.Context, c *container) error {
	path := c.snapshot().Cgroup
	if path == "" {
		return nil
	}
	if err := r.Cgroups.Remove(ctx, path); err != nil {
		return fmt.Errorf("removing cgroup %s: %w", path, err)
	}
	return nil
}
