package imagegc

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
)

// Policy is what a KubeletConfiguration says of images.
type Policy struct {
	High, Low int           // imageGCHighThresholdPercent, imageGCLowThresholdPercent
	MinAge    time.Duration // imageMinimumGCAge
	MaxAge    time.Duration // imageMaximumGCAge; 0: any
}

// Check refuses a policy that makes no sense.
func (p Policy) Check() error {
	switch {
	case p.High < 0 || p.High > 100:
		return fmt.Errorf("imageGCHighThresholdPercent %d is not between 0 and 100: %w", p.High, errdefs.ErrInvalidArgument)
	case p.Low < 0 || p.Low > 100:
		return fmt.Errorf("imageGCLowThresholdPercent %d is not between 0 and 100: %w", p.Low, errdefs.ErrInvalidArgument)
	case p.Low > p.High:
		return fmt.Errorf("imageGCLowThresholdPercent %d is higher than imageGCHighThresholdPercent %d: %w", p.Low, p.High, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Image is one that the runtime has.
type Image struct {
	ID       string
	Size     int64 // bytes
	Pinned   bool  // by the runtime: never removed
	InUse    bool  // by a container, running or not
	Detected time.Time
	Used     time.Time // zero: never since the agent started
}

// Disk is what images are on, in bytes.
type Disk struct{ Capacity, Available int64 }

// Plan is what to remove, in this order.
type Plan struct {
	Old []Image // whatever the disk is like
	// Space is removed one by one until Free bytes have been freed. Nothing, when the disk is not too full.
	Space   []Image
	Free    int64
	Percent int // of the disk that is used
}

// Decide makes a plan. since is when the agent started: before MaxAge has passed since, it does not know how long an image was unused.
func Decide(now, since time.Time, p Policy, disk Disk, images []Image) Plan {
	var plan Plan
	unused := make([]Image, 0, len(images))
	for _, image := range images {
		if !image.InUse && !image.Pinned {
			unused = append(unused, image)
		}
	}
	slices.SortFunc(unused, func(a, b Image) int {
		return cmp.Or(a.Used.Compare(b.Used), a.Detected.Compare(b.Detected), cmp.Compare(a.ID, b.ID))
	})
	if p.MaxAge > 0 && now.Sub(since) > p.MaxAge {
		var rest []Image
		for _, image := range unused {
			if now.Sub(image.Used) > p.MaxAge {
				plan.Old = append(plan.Old, image)
			} else {
				rest = append(rest, image)
			}
		}
		unused = rest
	}
	if disk.Capacity <= 0 {
		return plan
	}
	available := min(disk.Available, disk.Capacity)
	plan.Percent = 100 - int(available*100/disk.Capacity)
	if plan.Percent < p.High {
		return plan
	}
	plan.Free = disk.Capacity*int64(100-p.Low)/100 - available
	for _, image := range unused {
		if now.Sub(image.Detected) >= p.MinAge { // else it may have been pulled for a container that is just being made
			plan.Space = append(plan.Space, image)
		}
	}
	return plan
}

// formatSize is the kubelet's.
func formatSize(bytes int64) string {
	const step = 1024
	if bytes < step {
		return fmt.Sprintf("%d B", bytes)
	}
	size := float64(bytes)
	for _, unit := range []string{"KiB", "MiB", "GiB"} {
		if size /= step; size < step {
			return fmt.Sprintf("%.1f %s", size, unit)
		}
	}
	return fmt.Sprintf("%.1f TiB", size/step)
}
