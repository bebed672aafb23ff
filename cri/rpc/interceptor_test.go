package rpc

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func newTest(t *testing.T) (*Interceptor, *bytes.Buffer) {
	t.Helper()
	log := &bytes.Buffer{}
	i, err := NewInterceptor(slog.New(slog.NewTextHandler(log, nil)), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return i, log
}

func TestLogLineHasSubjectAndNoSecrets(t *testing.T) {
	i, log := newTest(t)
	const secret = "hunter2"
	req := &criv1.CreateContainerRequest{PodSandboxId: "pod1", Config: &criv1.ContainerConfig{
		Metadata: &criv1.ContainerMetadata{Name: "web"}, Image: &criv1.ImageSpec{Image: "sha256:1"},
		Envs: []*criv1.KeyValue{{Key: "PASSWORD", Value: []byte(secret)}}, Args: []string{secret}, Annotations: map[string]string{"a": secret},
	}}
	_, err := i.Unary(context.Background(), req, &grpc.UnaryServerInfo{FullMethod: "/runtime.v1.RuntimeService/CreateContainer"}, func(context.Context, any) (any, error) {
		return &criv1.CreateContainerResponse{ContainerId: "ct1"}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"level=INFO", "method=CreateContainer", "sandbox=pod1", "container=ct1", "name=web", "image=sha256:1", "took="} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in %s", want, log)
		}
	}
	if strings.Contains(log.String(), secret) || strings.Count(log.String(), "\n") != 1 {
		t.Errorf("log is %s", log)
	}
}

func TestPanicIsAnInternalError(t *testing.T) {
	i, log := newTest(t)
	resp, err := i.Unary(context.Background(), nil, &grpc.UnaryServerInfo{FullMethod: "/x/Status"}, func(context.Context, any) (any, error) { panic("boom") })
	if resp != nil || status.Code(err) != codes.Internal || !strings.Contains(log.String(), "boom") {
		t.Errorf("answered %v, %v, log %s", resp, err, log)
	}
	err = i.Stream(nil, fakeStream{}, &grpc.StreamServerInfo{FullMethod: "/x/Events"}, func(any, grpc.ServerStream) error { panic("boom") })
	if status.Code(err) != codes.Internal {
		t.Errorf("answered %v", err)
	}
}

type fakeStream struct{ grpc.ServerStream }

func (fakeStream) Context() context.Context { return context.Background() }

func TestLevels(t *testing.T) {
	for _, c := range []struct {
		method string
		code   codes.Code
		want   slog.Level
	}{
		{"ListContainers", codes.OK, slog.LevelDebug},
		{"StreamContainers", codes.OK, slog.LevelDebug},
		{"ContainerStatus", codes.OK, slog.LevelDebug},
		{"ExecSync", codes.OK, slog.LevelDebug},
		{"RunPodSandbox", codes.OK, slog.LevelInfo},
		{"UpdateRuntimeConfig", codes.OK, slog.LevelDebug},
		{"ContainerStatus", codes.NotFound, slog.LevelInfo},
		{"RunPodSandbox", codes.InvalidArgument, slog.LevelWarn},
		{"RunPodSandbox", codes.Unknown, slog.LevelError},
	} {
		if got := level(c.method, c.code); got != c.want {
			t.Errorf("level(%s, %v) = %v, want %v", c.method, c.code, got, c.want)
		}
	}
}

func TestMetricsAreRegisteredOnce(t *testing.T) {
	reg := prometheus.NewRegistry()
	if _, err := NewInterceptor(slog.Default(), reg); err != nil {
		t.Fatal(err)
	}
	var already prometheus.AlreadyRegisteredError
	if _, err := NewInterceptor(slog.Default(), reg); !errors.As(err, &already) {
		t.Errorf("second: %v", err)
	}
}
