package runtime

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"github.com/shimd/shimd/image"
	"github.com/shimd/shimd/runtime/request"
)

// CreateContainer makes a container, ready to start, in a sandbox that is ready.
//
// It is resumable: a client that asks again with the same metadata joins the creation under way, or gets the container that was made.
func (r *Runtime) CreateContainer(ctx context.Context, sandboxID SandboxID, cfg request.Container) (ContainerID, error) {
	s, err := r.findSandbox(sandboxID)
	if err != nil {
		return "", err
	}
	img, err := r.Images.Get(ctx, cfg.Image.Image)
	if err != nil {
		return "", fmt.Errorf("container %s: image %q is not on this node, pull it first: %w", cfg.Metadata.Name, cfg.Image.Image, err)
	}
	for {
		c, create, err := r.admitContainer(ctx, s, cfg, img)
		if err != nil {
			return "", err
		}
		if create == nil {
			return c.id, nil
		}
		if err := create.wait(ctx); err != nil {
			return "", fmt.Errorf("creating container %s: %w", cfg.Metadata.Name, err)
		}
		if !create.undoes {
			return c.id, nil
		}
	}
}

// admitContainer finds the container that the request means, or enters a new one and starts its creation.
// The flight is nil when the container is made already.
func (r *Runtime) admitContainer(ctx context.Context, s *sandbox, cfg request.Container, img image.Image) (*container, *flight, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.record.Phase != sandboxReady {
		return nil, nil, fmt.Errorf("sandbox %s is not ready (%s): %w", s.id, s.record.Phase, errdefs.ErrFailedPrecondition)
	}
	if c, ok := s.byName[cfg.Metadata]; ok {
		c.mu.Lock()
		defer c.mu.Unlock()
		switch {
		case !sameRequest(c.record.Config, cfg):
			return nil, nil, fmt.Errorf("container %s has the name %q (attempt %d) with another configuration: remove it, or raise the attempt: %w", c.id, cfg.Metadata.Name, cfg.Metadata.Attempt, errdefs.ErrAlreadyExists)
		case c.create != nil:
			return c, c.create, nil
		case c.record.Phase == containerMaking:
			c.create = r.removeHalfMade(ctx, c)
			return c, c.create, nil
		case c.record.Phase == containerExited:
			return nil, nil, fmt.Errorf("container %s has the name %q (attempt %d) and has exited: remove it, or raise the attempt: %w", c.id, cfg.Metadata.Name, cfg.Metadata.Attempt, errdefs.ErrAlreadyExists)
		}
		return c, nil, nil
	}
	c := r.newContainer(s, containerRecord{
		ID:        ContainerID(newID()),
		Sandbox:   s.id,
		Phase:     containerMaking,
		Config:    cfg,
		ImageID:   string(img.ID),
		ImageRef:  imageReference(img),
		CreatedAt: time.Now(),
		Resources: cfg.Resources,
		LogPath:   logPath(s.record.Config.LogDirectory, cfg.LogPath),
	})
	r.containers[c.id] = c
	s.containers[c.id] = c
	s.byName[cfg.Metadata] = c
	c.op.Lock()
	c.mu.Lock() // a creation that fails at once must find itself entered
	defer c.mu.Unlock()
	c.create = takeOff(ctx, func(ctx context.Context) error {
		defer c.op.Unlock()
		return r.createContainer(ctx, c, img)
	})
	return c, c.create, nil
}

// createContainer is the flow of CreateContainer:
//
//  1. record the intent
//  2. make and mount the root file system
//  3. compute the OCI spec, with the user that the image's files name
//  4. make the cgroup with its limits
//  5. make the streams
//  6. record it created
//
// What fails is undone by the steps of Remove.
func (r *Runtime) createContainer(ctx context.Context, c *container, img image.Image) (err error) {
	defer func() {
		if err != nil {
			ctx, cancel := teardown(ctx)
			defer cancel()
			if undo := r.removeContainerLocked(ctx, c); undo != nil {
				err = errors.Join(err, fmt.Errorf("undoing it: %w", undo))
			}
		}
		c.mu.Lock()
		c.create = nil
		c.mu.Unlock()
		if err == nil {
			r.announce(EventCreated, c.sandbox, c)
		}
	}()
	steps := []struct {
		name string
		do   func() error
	}{
		{"container.record", func() error { return r.recordContainer(c) }},
		{"container.rootfs", func() error { return r.makeRootfs(ctx, c, img) }},
		{"container.spec", func() error { return r.makeSpec(ctx, c, img) }},
		{"container.cgroup", func() error { return r.makeCgroup(ctx, c) }},
		{"container.streams", func() error { return makeStreams(c) }},
		{"container.created", func() error {
			return c.update(func(record *containerRecord) { record.Phase = containerCreated })
		}},
	}
	for _, step := range steps {
		if err := r.step(ctx, step.name, step.do); err != nil {
			return err
		}
	}
	return nil
}

// removeHalfMade takes away what a failed creation has left and could not undo.
func (r *Runtime) removeHalfMade(ctx context.Context, c *container) *flight {
	undo := takeOff(ctx, func(ctx context.Context) error {
		err := r.removeContainer(ctx, c)
		c.mu.Lock()
		c.create = nil
		c.mu.Unlock()
		return err
	})
	undo.undoes = true
	return undo
}

func (r *Runtime) recordContainer(c *container) error {
	if err := privateDir(c.dir, c.sandbox.snapshot().Config.Namespaces.User); err != nil {
		return fmt.Errorf("making the container's directory: %w", err)
	}
	return c.update(func(*containerRecord) {})
}

func (r *Runtime) makeRootfs(ctx context.Context, c *container, img image.Image) error {
	if err := r.labelContainer(c); err != nil {
		return err
	}
	if err := r.Images.CreateRootfs(ctx, string(c.id), img.ID); err != nil {
		return fmt.Errorf("making the root file system: %w", err)
	}
	return r.mountRootfs(ctx, c)
}

// mountRootfs mounts the container's root, detached: it belongs to nobody but the descriptor until the container takes it.
func (r *Runtime) mountRootfs(ctx context.Context, c *container) error {
	rootfs, err := r.Images.MountRootfs(ctx, string(c.id), r.rootfsOptions(c))
	if err != nil {
		return fmt.Errorf("mounting the root file system: %w", err)
	}
	c.mu.Lock()
	c.rootfs = rootfs
	c.mu.Unlock()
	return nil
}

func imageMappings(mappings []request.IDMapping) []image.IDMap {
	maps := make([]image.IDMap, 0, len(mappings))
	for _, m := range mappings {
		maps = append(maps, image.IDMap{ContainerID: m.ContainerID, HostID: m.HostID, Length: m.Length})
	}
	return maps
}

// imageReference is how the image can be found at a registry, if it came from one.
func imageReference(img image.Image) string {
	if len(img.RepoDigests) > 0 {
		return img.RepoDigests[0]
	}
	return string(img.ID)
}

func logPath(directory, path string) string {
	if directory == "" || path == "" {
		return ""
	}
	return filepath.Join(directory, path)
}
