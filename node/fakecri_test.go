package node

import (
	"context"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fakeCRI is a container runtime of maps: containers run until the test ends them.
type fakeCRI struct {
	criv1.UnimplementedRuntimeServiceServer
	criv1.UnimplementedImageServiceServer

	endpoint string
	noEvents bool
	handlers []*criv1.RuntimeHandler

	mu         sync.Mutex
	count      int
	calls      []string
	sandboxes  map[string]*fakeSandbox
	containers map[string]*fakeContainer
	images     map[string]*criv1.Image
	listeners  map[chan *criv1.ContainerEventResponse]bool
	fail       map[string]error                           // by call
	exec       func(container string, cmd []string) int32 // nil: 0
	exits      map[string]int32                           // containers of these names end at once with the code
	pulling    chan struct{}                              // not nil: pulls wait until it is closed
}

type fakeSandbox struct {
	id     string
	config *criv1.PodSandboxConfig
	state  criv1.PodSandboxState
	at     int64
}

type fakeContainer struct {
	id, sandbox string
	config      *criv1.ContainerConfig
	status      *criv1.ContainerStatus
}

func startFakeCRI(t *testing.T) *fakeCRI {
	t.Helper()
	f := &fakeCRI{
		endpoint:  "unix://" + filepath.Join(t.TempDir(), "cri.sock"),
		sandboxes: map[string]*fakeSandbox{}, containers: map[string]*fakeContainer{}, images: map[string]*criv1.Image{},
		listeners: map[chan *criv1.ContainerEventResponse]bool{}, fail: map[string]error{}, exits: map[string]int32{},
	}
	listener, err := net.Listen("unix", f.endpoint[len("unix://"):])
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(f.count1))
	criv1.RegisterRuntimeServiceServer(server, f)
	criv1.RegisterImageServiceServer(server, f)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return f
}

// count1 notes calls that change something, and fails those that a test wants to fail.
func (f *fakeCRI) count1(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	name := filepath.Base(info.FullMethod)
	f.mu.Lock()
	f.calls = append(f.calls, name)
	err := f.fail[name]
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return handler(ctx, request)
}

func (f *fakeCRI) called(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, call := range f.calls {
		if call == name {
			n++
		}
	}
	return n
}

func (f *fakeCRI) setFail(name string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail[name] = err
}

func (f *fakeCRI) id(kind string) string {
	f.count++
	return fmt.Sprintf("%s-%d", kind, f.count)
}

// now grows with every call, so that orders by time are what they seem.
func (f *fakeCRI) now() int64 { return time.Now().UnixNano() }

func (f *fakeCRI) tell(kind criv1.ContainerEventType, c *fakeContainer) {
	event := &criv1.ContainerEventResponse{ContainerId: c.id, ContainerEventType: kind}
	if s := f.sandboxes[c.sandbox]; s != nil {
		event.PodSandboxStatus = &criv1.PodSandboxStatus{Id: s.id, Metadata: s.config.Metadata}
	}
	for listener := range f.listeners {
		listener <- event
	}
}

func (f *fakeCRI) Version(context.Context, *criv1.VersionRequest) (*criv1.VersionResponse, error) {
	return &criv1.VersionResponse{RuntimeName: "fake", RuntimeVersion: "1", RuntimeApiVersion: "v1"}, nil
}

func (f *fakeCRI) Status(context.Context, *criv1.StatusRequest) (*criv1.StatusResponse, error) {
	return &criv1.StatusResponse{RuntimeHandlers: f.handlers}, nil
}

func (f *fakeCRI) RunPodSandbox(_ context.Context, r *criv1.RunPodSandboxRequest) (*criv1.RunPodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := f.id("sandbox")
	f.sandboxes[id] = &fakeSandbox{id: id, config: r.Config, at: f.now()}
	return &criv1.RunPodSandboxResponse{PodSandboxId: id}, nil
}

func (f *fakeCRI) StopPodSandbox(_ context.Context, r *criv1.StopPodSandboxRequest) (*criv1.StopPodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.sandboxes[r.PodSandboxId]; s != nil {
		s.state = criv1.PodSandboxState_SANDBOX_NOTREADY
		for _, c := range f.containers {
			if c.sandbox == s.id {
				f.exit(c, 137)
			}
		}
	}
	return &criv1.StopPodSandboxResponse{}, nil
}

func (f *fakeCRI) RemovePodSandbox(_ context.Context, r *criv1.RemovePodSandboxRequest) (*criv1.RemovePodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.containers, func(_ string, c *fakeContainer) bool { return c.sandbox == r.PodSandboxId })
	delete(f.sandboxes, r.PodSandboxId)
	return &criv1.RemovePodSandboxResponse{}, nil
}

func (f *fakeCRI) PodSandboxStatus(_ context.Context, r *criv1.PodSandboxStatusRequest) (*criv1.PodSandboxStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sandboxes[r.PodSandboxId]
	if s == nil {
		return nil, status.Error(codes.NotFound, "no such sandbox")
	}
	return &criv1.PodSandboxStatusResponse{Status: &criv1.PodSandboxStatus{
		Id: s.id, Metadata: s.config.Metadata, State: s.state, CreatedAt: s.at, Network: &criv1.PodSandboxNetworkStatus{Ip: "127.0.0.1"},
	}}, nil
}

func matches(labels, selector map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func (f *fakeCRI) ListPodSandbox(_ context.Context, r *criv1.ListPodSandboxRequest) (*criv1.ListPodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	answer := &criv1.ListPodSandboxResponse{}
	for _, s := range f.sandboxes {
		if matches(s.config.Labels, r.GetFilter().GetLabelSelector()) {
			answer.Items = append(answer.Items, &criv1.PodSandbox{
				Id: s.id, Metadata: s.config.Metadata, State: s.state, CreatedAt: s.at, Labels: s.config.Labels, Annotations: s.config.Annotations,
			})
		}
	}
	return answer, nil
}

func (f *fakeCRI) CreateContainer(_ context.Context, r *criv1.CreateContainerRequest) (*criv1.CreateContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := &fakeContainer{id: f.id("container"), sandbox: r.PodSandboxId, config: r.Config}
	c.status = &criv1.ContainerStatus{
		Id: c.id, Metadata: r.Config.Metadata, CreatedAt: f.now(), Labels: r.Config.Labels, Annotations: r.Config.Annotations, ImageRef: r.Config.Image.Image,
	}
	f.containers[c.id] = c
	return &criv1.CreateContainerResponse{ContainerId: c.id}, nil
}

func (f *fakeCRI) StartContainer(_ context.Context, r *criv1.StartContainerRequest) (*criv1.StartContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[r.ContainerId]
	c.status.State, c.status.StartedAt = criv1.ContainerState_CONTAINER_RUNNING, f.now()
	f.tell(criv1.ContainerEventType_CONTAINER_STARTED_EVENT, c)
	if code, ok := f.exits[c.config.Metadata.Name]; ok {
		f.exit(c, code)
	}
	return &criv1.StartContainerResponse{}, nil
}

// exit ends a running container; the lock is held.
func (f *fakeCRI) exit(c *fakeContainer, code int32) {
	if c.status.State != criv1.ContainerState_CONTAINER_RUNNING {
		return
	}
	c.status.State, c.status.ExitCode, c.status.FinishedAt = criv1.ContainerState_CONTAINER_EXITED, code, f.now()
	f.tell(criv1.ContainerEventType_CONTAINER_STOPPED_EVENT, c)
}

// end ends the running container of a name, as if by itself.
func (f *fakeCRI) end(name string, code int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.containers {
		if c.config.Metadata.Name == name {
			f.exit(c, code)
		}
	}
}

func (f *fakeCRI) StopContainer(_ context.Context, r *criv1.StopContainerRequest) (*criv1.StopContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.containers[r.ContainerId]; c != nil {
		f.exit(c, 143)
	}
	return &criv1.StopContainerResponse{}, nil
}

func (f *fakeCRI) RemoveContainer(_ context.Context, r *criv1.RemoveContainerRequest) (*criv1.RemoveContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.containers, r.ContainerId)
	return &criv1.RemoveContainerResponse{}, nil
}

func (f *fakeCRI) ListContainers(_ context.Context, r *criv1.ListContainersRequest) (*criv1.ListContainersResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	answer := &criv1.ListContainersResponse{}
	for _, c := range f.containers {
		if matches(c.config.Labels, r.GetFilter().GetLabelSelector()) {
			answer.Containers = append(answer.Containers, &criv1.Container{Id: c.id, PodSandboxId: c.sandbox, Metadata: c.config.Metadata, State: c.status.State})
		}
	}
	return answer, nil
}

func (f *fakeCRI) ContainerStatus(_ context.Context, r *criv1.ContainerStatusRequest) (*criv1.ContainerStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[r.ContainerId]
	if c == nil {
		return nil, status.Error(codes.NotFound, "no such container")
	}
	s := c.status
	return &criv1.ContainerStatusResponse{Status: &criv1.ContainerStatus{
		Id: s.Id, Metadata: s.Metadata, State: s.State, CreatedAt: s.CreatedAt, StartedAt: s.StartedAt, FinishedAt: s.FinishedAt,
		ExitCode: s.ExitCode, Labels: s.Labels, Annotations: s.Annotations, ImageRef: s.ImageRef,
	}}, nil
}

func (f *fakeCRI) ExecSync(_ context.Context, r *criv1.ExecSyncRequest) (*criv1.ExecSyncResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[r.ContainerId]
	if c == nil {
		return nil, status.Error(codes.NotFound, "no such container")
	}
	if f.exec == nil {
		return &criv1.ExecSyncResponse{}, nil
	}
	return &criv1.ExecSyncResponse{ExitCode: f.exec(c.config.Metadata.Name, r.Cmd)}, nil
}

func (f *fakeCRI) GetContainerEvents(_ *criv1.GetEventsRequest, stream grpc.ServerStreamingServer[criv1.ContainerEventResponse]) error {
	if f.noEvents {
		return status.Error(codes.Unimplemented, "no events here")
	}
	events := make(chan *criv1.ContainerEventResponse, 1000)
	f.mu.Lock()
	f.listeners[events] = true
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.listeners, events)
		f.mu.Unlock()
	}()
	for {
		select {
		case event := <-events:
			if err := stream.Send(event); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

func (f *fakeCRI) ImageStatus(_ context.Context, r *criv1.ImageStatusRequest) (*criv1.ImageStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &criv1.ImageStatusResponse{Image: f.images[r.Image.Image]}, nil
}

func (f *fakeCRI) PullImage(ctx context.Context, r *criv1.PullImageRequest) (*criv1.PullImageResponse, error) {
	if f.pulling != nil {
		select {
		case <-f.pulling:
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.images[r.Image.Image] = &criv1.Image{Id: r.Image.Image, Uid: &criv1.Int64Value{Value: 0}}
	return &criv1.PullImageResponse{ImageRef: r.Image.Image}, nil
}
