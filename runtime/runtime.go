// Package runtime keeps pod sandboxes and containers: it makes them, starts, watches, measures and removes them, and
// finds them again after a crash of the daemon or of the keeper.
//
// What belongs here is the order of things: each flow (sandbox_run.go, container_create.go, ...) is one page of steps,
// each step one call into another room. What a container gets is computed by package ocispec, how it is launched by
// package launch, who waits for it is package keeper. Images, networks and cgroups stand behind interfaces (rooms.go).
// Nothing here knows CRI's types.
package runtime

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/shimd/shimd/cgroups"
	"github.com/shimd/shimd/keeper"
	"github.com/shimd/shimd/launch"
	"github.com/shimd/shimd/network"
	"github.com/shimd/shimd/runtime/ocispec"
	"github.com/shimd/shimd/runtime/ocispec/cdi"
	"github.com/shimd/shimd/runtime/request"
	"github.com/shimd/shimd/seccomp"
)

// seccompCacheSize is how many compiled filters are kept: pods use few different profiles.
const seccompCacheSize = 32

// Options are what Open needs. All fields without "may be" are required.
type Options struct {
	Root  string // on disk: files of sandboxes and volumes, which may grow
	State string // on tmpfs: records, pinned namespaces, FIFOs

	Images  Images
	Network network.Network
	Cgroups cgroups.Manager

	Host        ocispec.Host    // what this kernel and this daemon can do
	Machine     seccomp.Machine // what filters are compiled for
	SeccompRoot string          // where localhost profiles with relative names are
	CDI         *cdi.Registry   // may be nil: CDI devices are refused
	OCIRuntimes map[string]OCIRuntime
	PidsLimit   int64 // of a container; 0 or negative: none
	MaxLogLine  int   // bytes; 0: the keeper's default

	Logger *slog.Logger

	// Observe is told how long each step of a flow took; may be nil.
	Observe func(ctx context.Context, step string, begin time.Time, err error)
	// Fault lets tests fail a step, or end the process before its effect; may be nil.
	Fault func(step string) error
}

// OCIRuntime is an external OCI runtime, such as runc or crun, that a runtime handler names.
type OCIRuntime struct {
	Path string // of its binary
}

// Runtime keeps the node's sandboxes and containers. Its methods may all run at the same time.
type Runtime struct {
	Options

	keeper  keeper.Keeper
	lean    *os.File // the mount namespace of one mount, which containers' own are copied from
	visible *os.File // the same with proc and sysfs, for user namespaces
	filters *seccomp.Cache
	events  broadcaster

	mu         sync.RWMutex
	sandboxes  map[SandboxID]*sandbox
	byMetadata map[string]*sandbox // by metadataKey
	containers map[ContainerID]*container

	execMu    sync.Mutex
	execs     map[string]*awaited // processes that are not containers, by their name to the keeper
	recovered bool
	early     []keeper.Exit // told before the records were read

	stopping   chan struct{}
	background sync.WaitGroup
}

// New makes a runtime that knows nothing yet. Its OnExit and OnRestart are for the keeper's client, with which Recover then
// finds what an earlier daemon has left.
func New(options Options) (*Runtime, error) {
	for _, dir := range []string{
		filepath.Join(options.State, "sandboxes"), filepath.Join(options.State, "containers"),
		filepath.Join(options.Root, "sandboxes"), filepath.Join(options.Root, "volumes"),
	} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("making the runtime's directories: %w", err)
		}
	}
	lean, err := launch.LeanMountNamespace("/")
	if err != nil {
		return nil, err
	}
	visible, err := launch.VisibleMountNamespace("/")
	if err != nil {
		lean.Close()
		return nil, err
	}
	return &Runtime{
		Options:    options,
		lean:       lean,
		visible:    visible,
		filters:    seccomp.NewCache(options.Machine, seccompCacheSize),
		sandboxes:  make(map[SandboxID]*sandbox),
		byMetadata: make(map[string]*sandbox),
		containers: make(map[ContainerID]*container),
		execs:      make(map[string]*awaited),
		stopping:   make(chan struct{}),
	}, nil
}

// Close ends what the runtime itself runs. Sandboxes and containers live on.
func (r *Runtime) Close() error {
	close(r.stopping)
	r.background.Wait()
	r.lean.Close()
	r.visible.Close()
	return nil
}

// UpdateConfig takes the client's runtime configuration: the pod CIDR. "" changes nothing.
func (r *Runtime) UpdateConfig(_ context.Context, podCIDR string) error {
	if podCIDR == "" {
		return nil
	}
	return r.Network.SetPodCIDR(podCIDR)
}

// Conditions tells why the runtime or the network is not ready; nil when it is.
func (r *Runtime) Conditions(ctx context.Context) (runtimeErr, networkErr error) {
	if _, err := r.keeper.List(ctx); err != nil {
		runtimeErr = fmt.Errorf("the keeper does not answer: %w", err)
	}
	return runtimeErr, r.Network.Ready(ctx)
}

// CgroupDriver tells the client who owns the cgroup tree.
func (r *Runtime) CgroupDriver() cgroups.Driver { return r.Cgroups.Driver() }

// Handlers lists what a RuntimeClass can name. The first one, "", is the built-in runtime.
func (r *Runtime) Handlers() []Handler {
	handlers := []Handler{{Name: "", RecursiveReadOnlyMounts: true, UserNamespaces: true}}
	for name := range r.OCIRuntimes {
		handlers = append(handlers, Handler{Name: name})
	}
	slices.SortFunc(handlers, func(a, b Handler) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return handlers
}

func (r *Runtime) checkHandler(cfg request.Sandbox) error {
	name := cfg.RuntimeHandler
	if name == "" {
		return nil
	}
	if _, ok := r.OCIRuntimes[name]; !ok {
		return fmt.Errorf("runtime_handler %q is not configured: add [runtimes.%s] with its path to the configuration: %w", name, name, errdefs.ErrInvalidArgument)
	}
	if cfg.Namespaces.User != nil {
		return fmt.Errorf("runtime_handler %q: user namespaces are supported by the built-in runtime alone: %w", name, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Info is verbose information about the runtime: JSON by key.
func (r *Runtime) Info(context.Context) map[string]string {
	return map[string]string{
		"config":  mustJSON(map[string]string{"rootDir": r.Root, "stateDir": r.State}),
		"host":    mustJSON(r.Host),
		"network": mustJSON(r.Network.Info()),
		"cgroup":  mustJSON(map[string]any{"driver": r.Cgroups.Driver(), "version": r.Cgroups.Version(), "controllers": r.Cgroups.Controllers()}),
	}
}
