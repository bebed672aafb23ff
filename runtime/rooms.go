package runtime

import (
	"context"
	"os"

	"github.com/shimd/shimd/image"
)

// This page holds what the runtime needs of the other rooms. The keeper's, the network's and the cgroups' doors are interfaces in their
// own packages (keeper.Keeper, network.Network, cgroups.Manager), with their contracts.

// Images is what the runtime needs of the image store. All methods may run at the same time for different containers;
// for one container the runtime serializes them.
type Images interface {
	// Get finds an image by ID, unique prefix, tag or digest. ErrNotFound.
	Get(ctx context.Context, ref string) (image.Image, error)
	// CreateRootfs makes a writable layer for the container on top of the image and keeps the image's layers from being removed until RemoveRootfs. Idempotent.
	CreateRootfs(ctx context.Context, container string, id image.ID) error
	// MountRootfs mounts it, detached: the descriptor is the mount, owned by the caller, and goes with it. It can be called again after that one is closed.
	MountRootfs(ctx context.Context, container string, opts image.RootfsOptions) (*os.File, error)
	// RootfsUsage measures the writable layer.
	RootfsUsage(ctx context.Context, container string) (FsBytes, inodes uint64, err error)
	// RemoveRootfs removes the writable layer; deletion of its files goes on in the background. Idempotent.
	RemoveRootfs(ctx context.Context, container string) error
	// MountImage mounts an image read-only, detached, for an image volume; subPath is resolved inside it. The image's layers are kept for the container until RemoveRootfs.
	MountImage(ctx context.Context, container string, id image.ID, subPath string, opts image.RootfsOptions) (*os.File, error)
	// Containers lists the keys that own writable layers, to find what a crash left.
	Containers(ctx context.Context) ([]string, error)
	// Root is the store's directory on disk, which statistics name as the mount point of writable layers.
	Root() string
}
