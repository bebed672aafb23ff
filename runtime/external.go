package runtime

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/errdefs"

	"github.com/shimd/shimd/keeper"
)

// isExternal tells whether an external OCI runtime runs the container.
func (r *Runtime) isExternal(c *container) bool {
	return c.sandbox.snapshot().Config.RuntimeHandler != ""
}

func (r *Runtime) rootfsPath(c *container) string { return "rootfs" }

func (r *Runtime) ociCgroupPath(c *container, s sandboxRecord) string {
	return string(r.Cgroups.ContainerPath(s.Cgroup, string(c.id)))
}

// imageVolumeSource names the source of an image volume in the spec. The built-in runtime takes the descriptor instead.
func (r *Runtime) imageVolumeSource(c *container, number int, _ *os.File) (string, error) {
	return fmt.Sprintf("/image-volume-%d", number), nil
}

func (r *Runtime) startExternal(ctx context.Context, c *container) (keeper.Started, error) {
	return keeper.Started{}, fmt.Errorf("external OCI runtimes: %w", errdefs.ErrNotImplemented)
}

func (r *Runtime) execExternal(ctx context.Context, c *container, e *execSession, cmd []string) error {
	return fmt.Errorf("external OCI runtimes: %w", errdefs.ErrNotImplemented)
}

func (r *Runtime) deleteExternal(ctx context.Context, c *container) error { return nil }
