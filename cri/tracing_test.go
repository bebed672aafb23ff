package cri

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestCallsAreTraced(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	log := &lockedBuffer{}
	service, err := New(Options{
		Runtime: newFakeRuntime(), Images: &fakeImages{}, Logger: slog.New(slog.NewTextHandler(log, nil)),
		Tracer: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = service.Close() }()
	server := grpc.NewServer(service.ServerOptions()...)
	service.Register(server)
	listener := bufconn.Listen(1 << 20)
	go func() { _ = server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///test", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	const parent = "0af7651916cd43dd8448eb211c80319c"
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-"+parent+"-b7ad6b7169203331-01")
	_, _ = criv1.NewRuntimeServiceClient(conn).StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: "none"})
	server.GracefulStop() // the span has ended then

	ended := spans.Ended()
	if len(ended) != 1 || !strings.HasSuffix(ended[0].Name(), "RuntimeService/StartContainer") {
		t.Fatalf("spans are %v", ended)
	}
	if !slices.Contains(ended[0].Attributes(), attribute.String("cri.container", "none")) {
		t.Errorf("attributes are %v", ended[0].Attributes())
	}
	if !strings.Contains(log.String(), "trace="+parent) {
		t.Errorf("the log does not name the trace: %s", log)
	}
}
