package cri

import (
	"context"
	"io"
	"time"

	"github.com/shimd/shimd/cgroups"
	"github.com/shimd/shimd/image"
	"github.com/shimd/shimd/runtime"
	"github.com/shimd/shimd/runtime/request"
)

// Runtime is what the CRI service needs of the runtime. All methods may run at the same time.
//
// IDs may be given in full or by a unique prefix. Errors are of the kinds of github.com/containerd/errdefs. Everything that takes an ID answers
// ErrNotFound for one that does not exist, except where CRI wants success.
type Runtime interface {
	// RunSandbox makes a sandbox ready. It is resumable: the same metadata after a timeout or a crash joins the run under way, or finishes it; a sandbox that
	// is ready already is answered again. ErrAlreadyExists when the metadata is taken by a sandbox with another configuration.
	RunSandbox(ctx context.Context, cfg request.Sandbox) (runtime.SandboxID, error)
	// StopSandbox stops its containers by SIGKILL and takes its network away. Idempotent; nil for an unknown ID.
	StopSandbox(ctx context.Context, id runtime.SandboxID) error
	// RemoveSandbox stops and removes it and its containers. Idempotent; nil for an unknown ID.
	RemoveSandbox(ctx context.Context, id runtime.SandboxID) error
	SandboxStatus(ctx context.Context, id runtime.SandboxID, verbose bool) (runtime.SandboxStatus, []runtime.ContainerStatus, error)
	// Sandboxes lists all, in no order. The answer is the caller's.
	Sandboxes(ctx context.Context) ([]runtime.SandboxStatus, error)
	UpdateSandboxResources(ctx context.Context, id runtime.SandboxID, overhead, resources *request.Resources) error

	// CreateContainer is resumable as RunSandbox is, by sandbox and metadata. ErrFailedPrecondition when the sandbox is not ready.
	CreateContainer(ctx context.Context, sandbox runtime.SandboxID, cfg request.Container) (runtime.ContainerID, error)
	// StartContainer runs it. A container that runs already is success; one that has exited is ErrFailedPrecondition.
	StartContainer(ctx context.Context, id runtime.ContainerID) error
	// StopContainer sends its stop signal, and SIGKILL after the grace period (0: at once). Idempotent; nil for an unknown ID.
	StopContainer(ctx context.Context, id runtime.ContainerID, grace time.Duration) error
	// RemoveContainer kills and removes it. Idempotent; nil for an unknown ID.
	RemoveContainer(ctx context.Context, id runtime.ContainerID) error
	ContainerStatus(ctx context.Context, id runtime.ContainerID, verbose bool) (runtime.ContainerStatus, error)
	Containers(ctx context.Context) ([]runtime.ContainerStatus, error)
	UpdateContainerResources(ctx context.Context, id runtime.ContainerID, res *request.Resources, annotations map[string]string) error
	ReopenContainerLog(ctx context.Context, id runtime.ContainerID) error

	// ExecSync runs a command to its end. Output beyond 16 MiB a stream is cut. timeout 0 is none; on expiry the command is killed and the error is context.DeadlineExceeded.
	ExecSync(ctx context.Context, id runtime.ContainerID, cmd []string, timeout time.Duration) (stdout, stderr []byte, exitCode int32, err error)
	// Exec runs a command on the client's streams until it ends. resize carries terminal sizes, closed by the caller.
	Exec(ctx context.Context, id runtime.ContainerID, cmd []string, tty bool, streams Streams) (exitCode int32, err error)
	// Attach connects to a running container's streams until they or the client end.
	Attach(ctx context.Context, id runtime.ContainerID, streams Streams) error
	// PortForward connects to port on the loopback addresses inside the sandbox's network namespace and copies until either side ends.
	PortForward(ctx context.Context, id runtime.SandboxID, port int32, stream io.ReadWriteCloser) error

	ContainerStats(ctx context.Context, id runtime.ContainerID) (ContainerStats, error)
	// SandboxStats answers the pod's own counters and each running container's.
	SandboxStats(ctx context.Context, id runtime.SandboxID) (SandboxStats, error)
	// ContainerProcesses answers what a running container's processes hold. It is slower than the counters.
	ContainerProcesses(ctx context.Context, id runtime.ContainerID) (runtime.ProcessUsage, error)

	// Events delivers every event from now on until ctx ends; the channel closes then, or with err set when the reader is too slow.
	Events(ctx context.Context) (<-chan runtime.Event, error)

	// UpdateConfig takes the client's runtime configuration: the pod CIDR.
	UpdateConfig(ctx context.Context, podCIDR string) error
	// Conditions: nil when runtime and network are ready, else why not, in words.
	Conditions(ctx context.Context) (runtimeErr, networkErr error)
	CgroupDriver() cgroups.Driver
	// Handlers lists the runtime handlers with their features; "" is the default one.
	Handlers() []runtime.Handler
	// Info is verbose information about the runtime: JSON by key.
	Info(ctx context.Context) map[string]string
}

// Short names for the runtime's types.
type (
	// Streams are a client's ends of exec and attach.
	Streams = runtime.Streams
	// ContainerStats are a container's counters.
	ContainerStats = runtime.ContainerStats
	// SandboxStats are a sandbox's counters.
	SandboxStats = runtime.SandboxStats
)

// Images is what the CRI service needs of the image store. All methods may run at the same time.
type Images interface {
	// Pull fetches what is missing and answers the image. The same pull asked twice at once is done once.
	Pull(ctx context.Context, req image.PullRequest) (image.Image, error)
	// Get finds an image by ID (also a unique prefix, with or without "sha256:"), tag, or digest. ErrNotFound.
	Get(ctx context.Context, ref string) (image.Image, error)
	List(ctx context.Context) ([]image.Image, error)
	// Remove removes the image with all its names when ref is its ID or its only name, else just that name. Idempotent; nil for one that is not there.
	// Layers used by containers stay until those are removed.
	Remove(ctx context.Context, ref string) error
	FsUsage(ctx context.Context) (image.FsUsage, error)
}
