package server

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	utilexec "k8s.io/utils/exec"
)

// fakePods has one pod, "web", with one container, "app".
type fakePods struct{ pod *corev1.Pod }

func newPods() *fakePods {
	return &fakePods{&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "uid-1"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "nginx"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{
			Name: "app", ContainerID: "shimd://c1", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
			LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ContainerID: "shimd://c0"}},
		}}},
	}}
}

func (f *fakePods) Pods() []*corev1.Pod { return []*corev1.Pod{f.pod} }
func (f *fakePods) Healthy() error      { return nil }
func (f *fakePods) Pod(namespace, name string) (*corev1.Pod, bool) {
	return f.pod, namespace == f.pod.Namespace && name == f.pod.Name
}

// fakeRuntime has a streaming server of Kubernetes' own, with one command in it, echo: it writes its arguments and its input, and ends with code 3 if
// there was input.
type fakeRuntime struct {
	streams *httptest.Server
	logs    map[string]string // by container

	mu    sync.Mutex
	asked []string
	next  http.HandlerFunc
}

func newRuntime(t *testing.T) *fakeRuntime {
	f := &fakeRuntime{logs: map[string]string{}}
	f.streams = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		next := f.next
		f.mu.Unlock()
		next(w, r)
	}))
	t.Cleanup(f.streams.Close)
	return f
}

func (f *fakeRuntime) serve(what string, next http.HandlerFunc) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, what)
	f.next = next
	return f.streams.URL + "/token"
}

func (f *fakeRuntime) ListPodSandbox(_ context.Context, in *criv1.ListPodSandboxRequest, _ ...grpc.CallOption) (*criv1.ListPodSandboxResponse, error) {
	answer := &criv1.ListPodSandboxResponse{}
	if in.Filter.LabelSelector["io.kubernetes.pod.uid"] == "uid-1" {
		answer.Items = []*criv1.PodSandbox{{Id: "s1"}}
	}
	return answer, nil
}

func (f *fakeRuntime) ListContainers(_ context.Context, in *criv1.ListContainersRequest, _ ...grpc.CallOption) (*criv1.ListContainersResponse, error) {
	answer := &criv1.ListContainersResponse{}
	labels := map[string]string{
		"io.kubernetes.pod.uid": "uid-1", "io.kubernetes.pod.name": "web", "io.kubernetes.pod.namespace": "default", "io.kubernetes.container.name": "app",
	}
	for key, value := range in.Filter.LabelSelector {
		if labels[key] != value {
			return answer, nil
		}
	}
	answer.Containers = []*criv1.Container{{Id: "c1", Metadata: &criv1.ContainerMetadata{Name: "app"}, Image: &criv1.ImageSpec{Image: "nginx"}, Labels: labels}}
	return answer, nil
}

func (f *fakeRuntime) ContainerStatus(_ context.Context, in *criv1.ContainerStatusRequest, _ ...grpc.CallOption) (*criv1.ContainerStatusResponse, error) {
	path, ok := f.logs[in.ContainerId]
	if !ok {
		return nil, status.Error(codes.NotFound, "no such container")
	}
	return &criv1.ContainerStatusResponse{Status: &criv1.ContainerStatus{LogPath: path, State: criv1.ContainerState_CONTAINER_EXITED}}, nil
}

func (f *fakeRuntime) ExecSync(_ context.Context, in *criv1.ExecSyncRequest, _ ...grpc.CallOption) (*criv1.ExecSyncResponse, error) {
	if in.Cmd[0] == "false" {
		return &criv1.ExecSyncResponse{ExitCode: 1, Stderr: []byte("no")}, nil
	}
	return &criv1.ExecSyncResponse{Stdout: []byte(strings.Join(in.Cmd, "+"))}, nil
}

func (f *fakeRuntime) Exec(_ context.Context, in *criv1.ExecRequest, _ ...grpc.CallOption) (*criv1.ExecResponse, error) {
	o := &remotecommand.Options{Stdin: in.Stdin, Stdout: in.Stdout, Stderr: in.Stderr, TTY: in.Tty}
	return &criv1.ExecResponse{Url: f.serve("exec "+in.ContainerId, func(w http.ResponseWriter, r *http.Request) {
		remotecommand.ServeExec(w, r, echo{}, "", "", in.ContainerId, in.Cmd, o, time.Hour, time.Minute, slices.Clone(remotecommand.SupportedStreamingProtocols))
	})}, nil
}

func (f *fakeRuntime) Attach(_ context.Context, in *criv1.AttachRequest, _ ...grpc.CallOption) (*criv1.AttachResponse, error) {
	o := &remotecommand.Options{Stdin: in.Stdin, Stdout: in.Stdout, Stderr: in.Stderr, TTY: in.Tty}
	return &criv1.AttachResponse{Url: f.serve("attach "+in.ContainerId, func(w http.ResponseWriter, r *http.Request) {
		remotecommand.ServeAttach(w, r, echo{}, "", "", in.ContainerId, o, time.Hour, time.Minute, slices.Clone(remotecommand.SupportedStreamingProtocols))
	})}, nil
}

func (f *fakeRuntime) PortForward(_ context.Context, in *criv1.PortForwardRequest, _ ...grpc.CallOption) (*criv1.PortForwardResponse, error) {
	return &criv1.PortForwardResponse{Url: f.serve("portforward "+in.PodSandboxId, func(w http.ResponseWriter, r *http.Request) {
		portforward.ServePortForward(w, r, echo{}, in.PodSandboxId, "", &portforward.V4Options{Ports: in.Port}, time.Hour, time.Minute, slices.Clone(portforward.SupportedProtocols))
	})}, nil
}

type echo struct{}

func (echo) ExecInContainer(_ context.Context, _, _, _ string, cmd []string, in io.Reader, out, _ io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	fmt.Fprintln(out, strings.Join(cmd, " "))
	if resize != nil {
		if size, ok := <-resize; ok {
			fmt.Fprintf(out, "%dx%d\n", size.Width, size.Height)
		}
	}
	if in == nil {
		return nil
	}
	if n, err := io.Copy(out, in); err != nil || n == 0 {
		return err
	}
	return utilexec.CodeExitError{Err: fmt.Errorf("command exited with code 3"), Code: 3}
}

func (echo) AttachContainer(_ context.Context, _, _, container string, _ io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize) error {
	fmt.Fprint(out, "attached to ", container)
	return nil
}

func (echo) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	fmt.Fprintf(stream, "port %d: ", port)
	_, err := io.CopyN(stream, stream, 5)
	return err
}

// fakeReviews knows two tokens and what their owners may do.
type fakeReviews struct {
	mu      sync.Mutex
	tokens  int
	access  []string
	failing error
}

func (f *fakeReviews) Token(_ context.Context, token string) (authenticationv1.TokenReviewStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tokens++
	if user, ok := strings.CutPrefix(token, "token-of-"); ok {
		return authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: user, Groups: []string{"users"}}}, f.failing
	}
	return authenticationv1.TokenReviewStatus{Error: "unknown"}, f.failing
}

// Access: admin may do all, viewer may get pods and metrics.
func (f *fakeReviews) Access(_ context.Context, spec authorizationv1.SubjectAccessReviewSpec) (authorizationv1.SubjectAccessReviewStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := spec.ResourceAttributes
	f.access = append(f.access, fmt.Sprint(spec.User, " ", spec.Groups, " ", a.Verb, " ", a.Resource, "/", a.Subresource, " ", a.Name))
	may := spec.User == "admin" || spec.User == "viewer" && a.Verb == "get" && (a.Subresource == "pods" || a.Subresource == "metrics")
	return authorizationv1.SubjectAccessReviewStatus{Allowed: may}, f.failing
}

// newServer is one that lets everybody do everything, unless change says otherwise.
func newServer(t *testing.T, change func(*Options)) *Server {
	t.Helper()
	off := false
	options := Options{
		Config: &kubeletconfig.KubeletConfiguration{Port: 10250}, NodeName: "node-1", CertDir: t.TempDir(), Pods: newPods(), Runtime: newRuntime(t),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	options.Config.Authentication.Webhook.Enabled = &off
	anonymous := true
	options.Config.Authentication.Anonymous.Enabled = &anonymous
	options.Config.Authorization.Mode = kubeletconfig.KubeletAuthorizationModeAlwaysAllow
	if change != nil {
		change(&options)
	}
	s, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// start serves over TLS on loopback.
func start(t *testing.T, s *Server) *httptest.Server {
	t.Helper()
	web := httptest.NewUnstartedServer(s.Handler())
	web.TLS = s.tls
	web.StartTLS()
	t.Cleanup(web.Close)
	return web
}
