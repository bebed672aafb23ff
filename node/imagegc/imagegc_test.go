package imagegc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestDecide(t *testing.T) {
	ago := func(d time.Duration) time.Time { return start.Add(-d) }
	images := []Image{
		{ID: "used", InUse: true, Used: start, Detected: ago(time.Hour), Size: 1},
		{ID: "pinned", Pinned: true, Detected: ago(time.Hour), Size: 1},
		{ID: "new", Detected: ago(time.Second), Size: 1},
		{ID: "recent", Used: ago(time.Minute), Detected: ago(time.Hour), Size: 1},
		{ID: "older", Used: ago(2 * time.Hour), Detected: ago(3 * time.Hour), Size: 1},
		{ID: "never b", Detected: ago(time.Hour), Size: 1},
		{ID: "never a", Detected: ago(2 * time.Hour), Size: 1},
	}
	policy := Policy{High: 85, Low: 80, MinAge: 2 * time.Minute}
	aged := policy
	aged.MaxAge = 90 * time.Minute
	for name, test := range map[string]struct {
		policy Policy
		since  time.Time
		disk   Disk
		want   string // old, space, free, percent
	}{
		"room":             {policy, ago(time.Hour), Disk{1000, 160}, "[] [] 0 84"},
		"no disk":          {policy, ago(time.Hour), Disk{}, "[] [] 0 0"},
		"full":             {policy, ago(time.Hour), Disk{1000, 100}, "[] [never a never b older recent] 100 90"},
		"more than all":    {policy, ago(time.Hour), Disk{1000, 2000}, "[] [] 0 0"},
		"old":              {aged, ago(2 * time.Hour), Disk{1000, 900}, "[never a never b new older] [] 0 10"},
		"old and full":     {aged, ago(2 * time.Hour), Disk{1000, 0}, "[never a never b new older] [recent] 200 100"},
		"started too late": {aged, ago(time.Hour), Disk{1000, 900}, "[] [] 0 10"},
	} {
		plan := Decide(start, test.since, test.policy, test.disk, images)
		got := fmt.Sprint(ids(plan.Old), " ", ids(plan.Space), " ", plan.Free, " ", plan.Percent)
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func ids(images []Image) []string {
	list := make([]string, 0, len(images))
	for _, image := range images {
		list = append(list, image.ID)
	}
	return list
}

func TestPolicyCheck(t *testing.T) {
	for _, p := range []Policy{{High: 101}, {High: -1}, {High: 50, Low: -1}, {High: 50, Low: 101}, {High: 50, Low: 51}} {
		if p.Check() == nil {
			t.Errorf("%+v is taken", p)
		}
	}
	if err := (Policy{High: 100, Low: 100}).Check(); err != nil {
		t.Error(err)
	}
}

func TestFormatSize(t *testing.T) {
	for size, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1 << 20: "1.0 MiB", 3 << 29: "1.5 GiB", 1 << 41: "2.0 TiB", 1 << 51: "2048.0 TiB"} {
		if got := formatSize(size); got != want {
			t.Errorf("%d: %s", size, got)
		}
	}
}

// fake is a runtime with images of 100 bytes.
type fake struct {
	images  []string
	stuck   string // can't be removed
	removed []string
}

func (f *fake) ListContainers(context.Context, *criv1.ListContainersRequest, ...grpc.CallOption) (*criv1.ListContainersResponse, error) {
	return &criv1.ListContainersResponse{Containers: []*criv1.Container{{Id: "c1", ImageId: "sha256:app"}, {Id: "c2", ImageRef: "registry/tool@sha256:1"}, {Id: "gone"}}}, nil
}

func (f *fake) ContainerStatus(_ context.Context, in *criv1.ContainerStatusRequest, _ ...grpc.CallOption) (*criv1.ContainerStatusResponse, error) {
	if in.ContainerId == "gone" {
		return nil, status.Error(codes.NotFound, "no such container")
	}
	return &criv1.ContainerStatusResponse{Status: &criv1.ContainerStatus{Mounts: []*criv1.Mount{{Image: &criv1.ImageSpec{Image: "sha256:volume"}}, {}}}}, nil
}

func (f *fake) ListImages(context.Context, *criv1.ListImagesRequest, ...grpc.CallOption) (*criv1.ListImagesResponse, error) {
	answer := &criv1.ListImagesResponse{}
	for _, id := range f.images {
		image := &criv1.Image{Id: id, Size: 100, Pinned: id == "sha256:pause"}
		if id == "sha256:tool" {
			image.RepoDigests = []string{"registry/tool@sha256:1"}
		}
		answer.Images = append(answer.Images, image)
	}
	return answer, nil
}

func (f *fake) RemoveImage(_ context.Context, in *criv1.RemoveImageRequest, _ ...grpc.CallOption) (*criv1.RemoveImageResponse, error) {
	if in.Image.Image == f.stuck {
		return nil, errors.New("read-only file system")
	}
	f.removed = append(f.removed, in.Image.Image)
	f.images = slices.DeleteFunc(f.images, func(id string) bool { return id == in.Image.Image })
	return &criv1.RemoveImageResponse{}, nil
}

func (f *fake) ImageFsInfo(context.Context, *criv1.ImageFsInfoRequest, ...grpc.CallOption) (*criv1.ImageFsInfoResponse, error) {
	return &criv1.ImageFsInfoResponse{ImageFilesystems: []*criv1.FilesystemUsage{{FsId: &criv1.FilesystemIdentifier{Mountpoint: "/images"}}}}, nil
}

func TestCollect(t *testing.T) {
	f := &fake{images: []string{"sha256:a", "sha256:app", "sha256:b", "sha256:c", "sha256:pause", "sha256:tool", "sha256:volume"}}
	var events []string
	c, err := New(Options{Policy: Policy{High: 85, Low: 80, MinAge: time.Minute}, Runtime: f, Images: f, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Warn: func(reason, message string) { events = append(events, reason+": "+message) }})
	if err != nil {
		t.Fatal(err)
	}
	now, disk := start, Disk{Capacity: 2000, Available: 1000}
	c.now, c.disk = func() time.Time { return now }, func(string) (Disk, error) { return disk, nil }
	if err := c.Collect(t.Context()); err != nil || f.removed != nil {
		t.Fatalf("with room: %v, removed %v", err, f.removed)
	}
	now, disk.Available = now.Add(time.Hour), 250 // 150 are missing to 20 %
	if err := c.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"sha256:a", "sha256:b"}, f.removed); diff != "" {
		t.Error(diff)
	}
	now, f.stuck = now.Add(time.Hour), "sha256:c"
	if err := c.Collect(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "wanted to free 150 bytes, but freed 0 bytes space with errors in image deletion: removing image sha256:c") {
		t.Errorf("an image that can't be removed: %v", err)
	}
	now, f.stuck = now.Add(time.Hour), ""
	const message = "Insufficient free disk space on the node's image filesystem (88% of 2.0 KiB used). Failed to free sufficient space by deleting unused images (freed 100 bytes). Investigate disk usage, as it could be used by active images, logs, volumes, or other data."
	if err := c.Collect(t.Context()); err == nil || err.Error() != message {
		t.Errorf("not enough: %v", err)
	}
	disk.Capacity = 0
	if err := c.Collect(t.Context()); err == nil {
		t.Error("no capacity: no error")
	}
	if diff := cmp.Diff([]string{"FreeDiskSpaceFailed: " + message, "InvalidDiskCapacity: invalid capacity 0 on image filesystem"}, events); diff != "" {
		t.Error(diff)
	}
	f.images = append(f.images, "sha256:d")
	if freed, err := c.RemoveUnused(t.Context()); err != nil || freed != 0 {
		t.Errorf("one just pulled: %d, %v", freed, err)
	}
	now = now.Add(time.Hour)
	if freed, err := c.RemoveUnused(t.Context()); err != nil || freed != 100 {
		t.Errorf("all unused: %d, %v", freed, err)
	}
	if diff := cmp.Diff([]string{"sha256:app", "sha256:pause", "sha256:tool", "sha256:volume"}, f.images); diff != "" {
		t.Error(diff)
	}
}
