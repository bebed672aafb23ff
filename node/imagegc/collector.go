package imagegc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// period is how often it looks, as the kubelet does.
const period = 5 * time.Minute

// Reasons of events about the node.
const (
	InvalidDiskCapacity = "InvalidDiskCapacity"
	FreeDiskSpaceFailed = "FreeDiskSpaceFailed"
	ImageGCFailed       = "ImageGCFailed"
)

// Runtime is what is asked of the runtime; a CRI client has it.
type Runtime interface {
	ListContainers(ctx context.Context, in *criv1.ListContainersRequest, opts ...grpc.CallOption) (*criv1.ListContainersResponse, error)
	ContainerStatus(ctx context.Context, in *criv1.ContainerStatusRequest, opts ...grpc.CallOption) (*criv1.ContainerStatusResponse, error)
}

// Images is what is asked of the image service.
type Images interface {
	ListImages(ctx context.Context, in *criv1.ListImagesRequest, opts ...grpc.CallOption) (*criv1.ListImagesResponse, error)
	RemoveImage(ctx context.Context, in *criv1.RemoveImageRequest, opts ...grpc.CallOption) (*criv1.RemoveImageResponse, error)
	ImageFsInfo(ctx context.Context, in *criv1.ImageFsInfoRequest, opts ...grpc.CallOption) (*criv1.ImageFsInfoResponse, error)
}

// Options are what a collector is made of.
type Options struct {
	Policy  Policy
	Runtime Runtime
	Images  Images
	Warn    func(reason, message string) // an event about the node; may be nil
	Log     *slog.Logger
}

// Collector removes images. Its methods may be called at the same time: one waits for the other.
type Collector struct {
	Options
	mu    sync.Mutex
	since time.Time
	seen  map[string]Image
	now   func() time.Time
	disk  func(path string) (Disk, error)
}

// New checks the policy.
func New(options Options) (*Collector, error) {
	if err := options.Policy.Check(); err != nil {
		return nil, err
	}
	return &Collector{Options: options, since: time.Now(), seen: map[string]Image{}, now: time.Now, disk: statfs}, nil
}

// Run looks again and again until the context ends. A failure is told when it is not the first one in a row: a runtime may be just starting.
func (c *Collector) Run(ctx context.Context) {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for failed := false; ; {
		err := c.Collect(ctx)
		if err != nil && ctx.Err() == nil {
			c.Log.Error("collecting unused images", "error", err)
			if failed {
				c.warn(ImageGCFailed, err.Error())
			}
		}
		failed = err != nil
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (c *Collector) warn(reason, message string) {
	if c.Warn != nil {
		c.Warn(reason, message)
	}
}

// Collect is one round. Its errors are worded as the kubelet's, which become events.
func (c *Collector) Collect(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	images, err := c.look(ctx)
	if err != nil {
		return err
	}
	answer, err := c.Images.ImageFsInfo(ctx, &criv1.ImageFsInfoRequest{})
	if err != nil {
		return fmt.Errorf("asking the runtime where images are: %w", err)
	}
	if len(answer.ImageFilesystems) == 0 {
		return fmt.Errorf("the runtime tells of no file system of images: %w", errdefs.ErrUnavailable)
	}
	disk, err := c.disk(answer.ImageFilesystems[0].GetFsId().GetMountpoint())
	if err != nil {
		return err
	}
	plan := Decide(c.now(), c.since, c.Policy, disk, images)
	var failures []error
	for _, image := range plan.Old {
		failures = append(failures, c.remove(ctx, image))
	}
	if err := errors.Join(failures...); err != nil {
		return fmt.Errorf("wanted to free images older than %v, encountered errors in image deletion: %w", c.Policy.MaxAge, err)
	}
	if disk.Capacity <= 0 {
		err := fmt.Errorf("invalid capacity 0 on image filesystem: %w", errdefs.ErrUnavailable)
		c.warn(InvalidDiskCapacity, "invalid capacity 0 on image filesystem")
		return err
	}
	if plan.Percent < c.Policy.High {
		return nil
	}
	c.Log.Info("the disk of images is over the high threshold", "percent", plan.Percent, "free", plan.Free)
	freed, err := c.free(ctx, plan.Space, plan.Free)
	if err != nil {
		return err
	}
	if freed < plan.Free {
		message := fmt.Sprintf("Insufficient free disk space on the node's image filesystem (%d%% of %s used). "+
			"Failed to free sufficient space by deleting unused images (freed %d bytes). "+
			"Investigate disk usage, as it could be used by active images, logs, volumes, or other data.",
			plan.Percent, formatSize(disk.Capacity), freed)
		c.warn(FreeDiskSpaceFailed, message)
		return fmt.Errorf("%s", message)
	}
	return nil
}

// RemoveUnused removes all images that may be removed, and answers how many bytes they were: before pods are evicted for want of disk space.
func (c *Collector) RemoveUnused(ctx context.Context) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	images, err := c.look(ctx)
	if err != nil {
		return 0, err
	}
	everything := Policy{MinAge: c.Policy.MinAge} // with thresholds of 0 any disk is too full
	plan := Decide(c.now(), c.since, everything, Disk{Capacity: 1}, images)
	const all = 1<<63 - 1
	return c.free(ctx, plan.Space, all)
}

// free removes images until so many bytes are freed. One that can't be removed is passed over.
func (c *Collector) free(ctx context.Context, images []Image, wanted int64) (int64, error) {
	freed := int64(0)
	var failures []error
	for _, image := range images {
		if err := c.remove(ctx, image); err != nil {
			failures = append(failures, err)
			continue
		}
		if freed += image.Size; freed >= wanted {
			break
		}
	}
	if err := errors.Join(failures...); err != nil {
		return freed, fmt.Errorf("wanted to free %d bytes, but freed %d bytes space with errors in image deletion: %w", wanted, freed, err)
	}
	return freed, nil
}

func (c *Collector) remove(ctx context.Context, image Image) error {
	c.Log.Info("removing an image", "image", image.ID, "size", image.Size, "used", image.Used)
	if _, err := c.Images.RemoveImage(ctx, &criv1.RemoveImageRequest{Image: &criv1.ImageSpec{Image: image.ID}}); err != nil {
		return fmt.Errorf("removing image %s: %w", image.ID, err)
	}
	delete(c.seen, image.ID)
	return nil
}

// look lists images with what is known of their use. Images are listed first: a container that is made in between keeps its own one.
func (c *Collector) look(ctx context.Context) ([]Image, error) {
	answer, err := c.Images.ListImages(ctx, &criv1.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	used, err := c.used(ctx)
	if err != nil {
		return nil, err
	}
	now := c.now()
	seen := make(map[string]Image, len(answer.Images))
	images := make([]Image, 0, len(answer.Images))
	for _, listed := range answer.Images {
		image, known := c.seen[listed.Id]
		if !known {
			image = Image{ID: listed.Id, Detected: now}
		}
		image.Size, image.Pinned, image.InUse = int64(listed.Size), listed.Pinned, used[listed.Id]
		for _, name := range append(listed.RepoTags, listed.RepoDigests...) {
			image.InUse = image.InUse || used[name]
		}
		if image.InUse {
			image.Used = now
		}
		seen[listed.Id] = image
		images = append(images, image)
	}
	c.seen = seen
	return images, nil
}

// used are the images of all containers, dead ones too, and those mounted in them as volumes, by whatever name the runtime has for them.
func (c *Collector) used(ctx context.Context) (map[string]bool, error) {
	answer, err := c.Runtime.ListContainers(ctx, &criv1.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("listing containers: %w", err)
	}
	used := map[string]bool{}
	for _, container := range answer.Containers {
		for _, name := range []string{container.ImageId, container.ImageRef, container.GetImage().GetImage()} {
			used[name] = true
		}
		details, err := c.Runtime.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: container.Id})
		if code(err) == codes.NotFound {
			continue // gone in between
		} else if err != nil {
			return nil, fmt.Errorf("asking for the mounts of container %s: %w", container.Id, err)
		}
		for _, mount := range details.GetStatus().GetMounts() {
			used[mount.GetImage().GetImage()] = true
		}
	}
	delete(used, "")
	return used, nil
}

func code(err error) codes.Code {
	var carrier interface{ GRPCStatus() *status.Status }
	if errors.As(err, &carrier) {
		return carrier.GRPCStatus().Code()
	}
	return codes.Unknown
}

func statfs(path string) (Disk, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return Disk{}, fmt.Errorf("asking for the size of the file system of %q: %w", path, err)
	}
	return Disk{Capacity: int64(s.Blocks) * s.Bsize, Available: int64(s.Bavail) * s.Bsize}, nil
}
