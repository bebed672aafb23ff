package cri

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cgroups"
	"github.com/shimd/shimd/image"
	"github.com/shimd/shimd/runtime"
	"github.com/shimd/shimd/runtime/request"
)

// fakeRuntime is a Runtime in memory. Its hooks, when set, answer instead.
type fakeRuntime struct {
	mu         sync.Mutex
	sandboxes  map[runtime.SandboxID]runtime.SandboxStatus
	containers map[runtime.ContainerID]runtime.ContainerStatus
	usage      uint64
	now        time.Time
	cidr       string
	updated    *request.Resources
	grace      time.Duration

	runtimeErr, networkErr error
	execSync               func(cmd []string, timeout time.Duration) ([]byte, []byte, int32, error)
	exec                   func(ctx context.Context, cmd []string, tty bool, s Streams) (int32, error)
	events                 chan runtime.Event
}

func newFakeRuntime() *fakeRuntime {
	return &fakeRuntime{
		sandboxes:  make(map[runtime.SandboxID]runtime.SandboxStatus),
		containers: make(map[runtime.ContainerID]runtime.ContainerStatus),
		now:        time.Unix(1000, 0),
		events:     make(chan runtime.Event, 1),
	}
}

func (f *fakeRuntime) sandbox(id runtime.SandboxID) (runtime.SandboxStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.sandboxes[id]
	if !ok {
		return s, fmt.Errorf("sandbox %s: %w", id, errdefs.ErrNotFound)
	}
	return s, nil
}

func (f *fakeRuntime) container(id runtime.ContainerID) (runtime.ContainerStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, ok := f.containers[id]
	if !ok {
		return c, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
	}
	return c, nil
}

func (f *fakeRuntime) RunSandbox(_ context.Context, cfg request.Sandbox) (runtime.SandboxID, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := runtime.SandboxID("sb-" + cfg.Metadata.Name)
	f.sandboxes[id] = runtime.SandboxStatus{ID: id, Config: cfg, State: runtime.SandboxReady, CreatedAt: f.now, IPs: []string{"10.1.2.3", "fd00::3"}, Info: map[string]string{"info": "{}"}}
	return id, nil
}

func (f *fakeRuntime) StopSandbox(_ context.Context, id runtime.SandboxID) error {
	s, err := f.sandbox(id)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s.State = runtime.SandboxNotReady
	f.sandboxes[id] = s
	return nil
}

func (f *fakeRuntime) RemoveSandbox(_ context.Context, id runtime.SandboxID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.sandboxes, id)
	return nil
}

func (f *fakeRuntime) SandboxStatus(_ context.Context, id runtime.SandboxID, _ bool) (runtime.SandboxStatus, []runtime.ContainerStatus, error) {
	s, err := f.sandbox(id)
	if err != nil {
		return s, nil, err
	}
	all, _ := f.Containers(context.Background())
	return s, all, nil
}

func (f *fakeRuntime) Sandboxes(context.Context) ([]runtime.SandboxStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []runtime.SandboxStatus
	for _, s := range f.sandboxes {
		out = append(out, s)
	}
	return out, nil
}

func (f *fakeRuntime) UpdateSandboxResources(_ context.Context, id runtime.SandboxID, _, res *request.Resources) error {
	_, err := f.sandbox(id)
	f.updated = res
	return err
}

func (f *fakeRuntime) CreateContainer(_ context.Context, sandbox runtime.SandboxID, cfg request.Container) (runtime.ContainerID, error) {
	if _, err := f.sandbox(sandbox); err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	id := runtime.ContainerID("ct-" + cfg.Metadata.Name)
	f.containers[id] = runtime.ContainerStatus{ID: id, Sandbox: sandbox, Config: cfg, State: runtime.ContainerCreated, CreatedAt: f.now, Info: map[string]string{"info": "{}"}}
	return id, nil
}

func (f *fakeRuntime) set(id runtime.ContainerID, state runtime.ContainerState) error {
	c, err := f.container(id)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c.State = state
	f.containers[id] = c
	return nil
}

func (f *fakeRuntime) StartContainer(_ context.Context, id runtime.ContainerID) error {
	return f.set(id, runtime.ContainerRunning)
}

func (f *fakeRuntime) StopContainer(_ context.Context, id runtime.ContainerID, grace time.Duration) error {
	f.grace = grace
	return f.set(id, runtime.ContainerExited)
}

func (f *fakeRuntime) RemoveContainer(_ context.Context, id runtime.ContainerID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.containers, id)
	return nil
}

func (f *fakeRuntime) ContainerStatus(_ context.Context, id runtime.ContainerID, _ bool) (runtime.ContainerStatus, error) {
	return f.container(id)
}

func (f *fakeRuntime) Containers(context.Context) ([]runtime.ContainerStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []runtime.ContainerStatus
	for _, c := range f.containers {
		out = append(out, c)
	}
	return out, nil
}

func (f *fakeRuntime) UpdateContainerResources(_ context.Context, id runtime.ContainerID, res *request.Resources, _ map[string]string) error {
	_, err := f.container(id)
	f.updated = res
	return err
}

func (f *fakeRuntime) ReopenContainerLog(_ context.Context, id runtime.ContainerID) error {
	_, err := f.container(id)
	return err
}

func (f *fakeRuntime) ExecSync(_ context.Context, _ runtime.ContainerID, cmd []string, timeout time.Duration) ([]byte, []byte, int32, error) {
	return f.execSync(cmd, timeout)
}

func (f *fakeRuntime) Exec(ctx context.Context, _ runtime.ContainerID, cmd []string, tty bool, s Streams) (int32, error) {
	return f.exec(ctx, cmd, tty, s)
}

func (f *fakeRuntime) Attach(ctx context.Context, _ runtime.ContainerID, s Streams) error {
	_, err := f.exec(ctx, nil, s.TTY, s)
	return err
}

func (f *fakeRuntime) PortForward(_ context.Context, _ runtime.SandboxID, _ int32, stream io.ReadWriteCloser) error {
	_, err := io.Copy(stream, stream)
	return err
}

func (f *fakeRuntime) stats() *cgroups.Stats {
	pids := uint64(3)
	return &cgroups.Stats{
		Time:      f.now,
		CPU:       cgroups.CPUStats{UsageNanos: f.usage},
		Memory:    cgroups.MemoryStats{Usage: 300, WorkingSet: 200, RSS: 100, Limit: 1000},
		Processes: &pids,
	}
}

func (f *fakeRuntime) ContainerStats(_ context.Context, id runtime.ContainerID) (ContainerStats, error) {
	c, err := f.container(id)
	return ContainerStats{Status: c, Cgroup: f.stats()}, err
}

func (f *fakeRuntime) SandboxStats(_ context.Context, id runtime.SandboxID) (SandboxStats, error) {
	s, err := f.sandbox(id)
	return SandboxStats{Status: s, Cgroup: f.stats(), Time: f.now, Interfaces: []runtime.NetworkInterface{{Name: "eth0", RxBytes: 5}}}, err
}

func (f *fakeRuntime) ContainerProcesses(_ context.Context, id runtime.ContainerID) (runtime.ProcessUsage, error) {
	_, err := f.container(id)
	return runtime.ProcessUsage{Descriptors: 4, Sockets: 1}, err
}

func (f *fakeRuntime) Events(ctx context.Context) (<-chan runtime.Event, error) {
	out := make(chan runtime.Event)
	go func() {
		defer close(out)
		for {
			select {
			case e, ok := <-f.events:
				if !ok {
					return
				}
				out <- e
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

func (f *fakeRuntime) UpdateConfig(_ context.Context, cidr string) error {
	f.cidr = cidr
	return nil
}

func (f *fakeRuntime) Conditions(context.Context) (error, error) { return f.runtimeErr, f.networkErr }
func (f *fakeRuntime) CgroupDriver() cgroups.Driver              { return cgroups.Systemd }
func (f *fakeRuntime) Handlers() []runtime.Handler {
	return []runtime.Handler{{RecursiveReadOnlyMounts: true, UserNamespaces: true}, {Name: "runc"}}
}
func (f *fakeRuntime) Info(context.Context) map[string]string {
	return map[string]string{"config": "{}"}
}

// fakeImages are images in memory, by name.
type fakeImages struct {
	images map[string]image.Image
	pulled image.PullRequest
	fail   error
}

func (f *fakeImages) Pull(_ context.Context, req image.PullRequest) (image.Image, error) {
	f.pulled = req
	if f.fail != nil {
		return image.Image{}, f.fail
	}
	return f.Get(context.Background(), req.Ref)
}

func (f *fakeImages) Get(_ context.Context, ref string) (image.Image, error) {
	for name, img := range f.images {
		if name == ref || string(img.ID) == ref {
			return img, nil
		}
	}
	return image.Image{}, fmt.Errorf("image %q: %w", ref, errdefs.ErrNotFound)
}

func (f *fakeImages) List(context.Context) ([]image.Image, error) {
	var out []image.Image
	for _, img := range f.images {
		out = append(out, img)
	}
	return out, nil
}

func (f *fakeImages) Remove(_ context.Context, ref string) error {
	for name, img := range f.images {
		if string(img.ID) == ref {
			delete(f.images, name)
		}
	}
	return nil
}

func (f *fakeImages) FsUsage(context.Context) (image.FsUsage, error) {
	return image.FsUsage{Timestamp: time.Unix(5, 0), Mountpoint: "/store", UsedBytes: 7, InodesUsed: 2}, nil
}

// served is a service behind a real gRPC connection.
type served struct {
	rt      *fakeRuntime
	images  *fakeImages
	metrics *prometheus.Registry
	log     *lockedBuffer
	criv1.RuntimeServiceClient
	criv1.ImageServiceClient
}

type lockedBuffer struct {
	mu   sync.Mutex
	text []byte
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p...)
	return len(p), nil
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}

func serve(t *testing.T) *served {
	t.Helper()
	s := &served{rt: newFakeRuntime(), images: &fakeImages{images: make(map[string]image.Image)}, metrics: prometheus.NewRegistry(), log: &lockedBuffer{}}
	service, err := New(Options{
		Runtime: s.rt, Images: s.images, Version: "1.2.3", Metrics: s.metrics,
		Logger: slog.New(slog.NewJSONHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(service.ServerOptions()...)
	service.Register(server)
	listener := bufconn.Listen(1 << 20)
	go func() { _ = server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///test", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		if err := service.Close(); err != nil {
			t.Error(err)
		}
	})
	s.RuntimeServiceClient = criv1.NewRuntimeServiceClient(conn)
	s.ImageServiceClient = criv1.NewImageServiceClient(conn)
	return s
}

// pod runs a sandbox named name, and answers its ID.
func (s *served) pod(t *testing.T, name string) string {
	t.Helper()
	resp, err := s.RunPodSandbox(t.Context(), &criv1.RunPodSandboxRequest{Config: &criv1.PodSandboxConfig{
		Metadata: &criv1.PodSandboxMetadata{Name: name, Namespace: "default", Uid: "uid-" + name},
		Labels:   map[string]string{"app": name},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetPodSandboxId()
}

// run creates and starts a container, and answers its ID.
func (s *served) run(t *testing.T, pod, name string) string {
	t.Helper()
	resp, err := s.CreateContainer(t.Context(), &criv1.CreateContainerRequest{PodSandboxId: pod, Config: &criv1.ContainerConfig{
		Metadata: &criv1.ContainerMetadata{Name: name},
		Image:    &criv1.ImageSpec{Image: "sha256:1", UserSpecifiedImage: "busybox"},
		Labels:   map[string]string{"app": name},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.StartContainer(t.Context(), &criv1.StartContainerRequest{ContainerId: resp.GetContainerId()}); err != nil {
		t.Fatal(err)
	}
	return resp.GetContainerId()
}
