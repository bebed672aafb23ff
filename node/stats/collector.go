package stats

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Runtime is what is asked of the runtime; a CRI client has it.
type Runtime interface {
	ListPodSandbox(ctx context.Context, in *criv1.ListPodSandboxRequest, opts ...grpc.CallOption) (*criv1.ListPodSandboxResponse, error)
	ListContainers(ctx context.Context, in *criv1.ListContainersRequest, opts ...grpc.CallOption) (*criv1.ListContainersResponse, error)
	ListPodSandboxStats(ctx context.Context, in *criv1.ListPodSandboxStatsRequest, opts ...grpc.CallOption) (*criv1.ListPodSandboxStatsResponse, error)
	ListMetricDescriptors(ctx context.Context, in *criv1.ListMetricDescriptorsRequest, opts ...grpc.CallOption) (*criv1.ListMetricDescriptorsResponse, error)
	ListPodSandboxMetrics(ctx context.Context, in *criv1.ListPodSandboxMetricsRequest, opts ...grpc.CallOption) (*criv1.ListPodSandboxMetricsResponse, error)
}

// Images is what is asked of the image service.
type Images interface {
	ImageFsInfo(ctx context.Context, in *criv1.ImageFsInfoRequest, opts ...grpc.CallOption) (*criv1.ImageFsInfoResponse, error)
}

// Options are what a collector is made of.
type Options struct {
	NodeName string
	RootDir  string // the agent's own: its file system is "nodefs"
	LogDir   string // of the logs of pods
	Socket   string // the runtime's, to find its process by; empty: it is not shown
	// PodsCgroup is the control group that all pods are in, "/kubepods" or below another one; empty: it is not shown.
	PodsCgroup string
	Runtime    Runtime
	Images     Images
	// Pod answers a pod by its UID, VolumePath where a volume of it is, or "" for one that has no place on this node.
	Pod        func(uid string) (*corev1.Pod, bool)
	VolumePath func(pod *corev1.Pod, volume *corev1.Volume) string
	Pods       func() []*corev1.Pod // all of them, for Claims
	Log        *slog.Logger
	// Proc and Cgroups are where the kernel tells; empty: /proc and /sys/fs/cgroup.
	Proc, Cgroups string
}

// Collector finds out when it is asked. It may be used by many goroutines.
type Collector struct {
	Options
	rates *rates
	sizes *sizes
}

// New makes a collector; it asks nobody yet.
func New(options Options) *Collector {
	if options.Proc == "" {
		options.Proc = "/proc"
	}
	if options.Cgroups == "" {
		options.Cgroups = "/sys/fs/cgroup"
	}
	return &Collector{Options: options, rates: newRates(), sizes: newSizes()}
}

// Summary tells of the node and all of its pods that run. onlyCPUAndMemory leaves out what has to be searched for on disks.
func (c *Collector) Summary(ctx context.Context, onlyCPUAndMemory bool) (*statsv1alpha1.Summary, error) {
	summary := &statsv1alpha1.Summary{Pods: []statsv1alpha1.PodStats{}}
	node, err := c.node()
	if err != nil {
		return nil, err
	}
	summary.Node = *node
	disk := &statsv1alpha1.FsStats{}
	if !onlyCPUAndMemory {
		if disk, err = fileSystem(c.RootDir); err != nil {
			return nil, err
		}
		summary.Node.Fs = disk
		if summary.Node.Runtime, err = c.images(ctx); err != nil {
			return nil, err
		}
		summary.Node.Rlimit = c.limits()
		summary.Node.Network = c.network()
	} else {
		summary.Node.IO = nil
	}
	if summary.Pods, err = c.pods(ctx, onlyCPUAndMemory, disk); err != nil {
		return nil, err
	}
	return summary, nil
}

// images are the file systems of images and of what containers write. Runtimes that keep both in one place tell of one.
func (c *Collector) images(ctx context.Context) (*statsv1alpha1.RuntimeStats, error) {
	answer, err := c.Images.ImageFsInfo(ctx, &criv1.ImageFsInfoRequest{})
	if err != nil {
		return nil, fmt.Errorf("asking the runtime for its file systems: %w", err)
	}
	if len(answer.ImageFilesystems) == 0 {
		return nil, fmt.Errorf("the runtime tells of no file system of images")
	}
	both := &statsv1alpha1.RuntimeStats{ImageFs: runtimeFileSystem(answer.ImageFilesystems[0])}
	both.ContainerFs = both.ImageFs
	if len(answer.ContainerFilesystems) > 0 {
		both.ContainerFs = runtimeFileSystem(answer.ContainerFilesystems[0])
	}
	return both, nil
}

func runtimeFileSystem(usage *criv1.FilesystemUsage) *statsv1alpha1.FsStats {
	answer := &statsv1alpha1.FsStats{}
	if whole, err := fileSystem(usage.GetFsId().GetMountpoint()); err == nil { // on another machine's disk nothing is known of the whole
		answer = whole
	}
	answer.Time = at(usage.Timestamp)
	answer.UsedBytes, answer.InodesUsed = value(usage.UsedBytes), value(usage.InodesUsed)
	return answer
}

func at(nanoseconds int64) metav1.Time {
	if nanoseconds <= 0 {
		return metav1.Now()
	}
	return metav1.NewTime(time.Unix(0, nanoseconds))
}

// value is nil where the runtime says nothing.
func value(v *criv1.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	return &v.Value
}

func number(n uint64) *uint64 { return &n }
