// Package cri serves CRI v1, the interface that the kubelet, crictl and critest speak, on top of a Runtime and a store of Images.
//
// A handler is one screen: check and translate the request (package translate), one call into a room, translate the answer. What goes around
// every call (log, metric, trace, gRPC code) is package rpc's; the connections of exec, attach and port-forward package streaming's; the
// metrics that the kubelet passes on to Prometheus package podmetrics'. What a sandbox or a container is belongs to package runtime: nothing here
// keeps state about them, but for the last CPU sample of whatever was asked about.
package cri

import (
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/rpc"
	"github.com/shimd/shimd/cri/streaming"
)

// maxMessage is the most that one message may take either way, in bytes. The kubelet's client has the same limit.
const maxMessage = 16 << 20

// defaultStreamingAddress is any free port on loopback.
const defaultStreamingAddress = "127.0.0.1:0"

// Options are what a Service needs. Runtime and Images must be set.
type Options struct {
	Runtime          Runtime
	Images           Images
	Version          string                // of the runtime, semver; "" is 0.0.0
	StreamingAddress string                // loopback address and port of the streaming server; "" is any port of 127.0.0.1
	Logger           *slog.Logger          // nil: nothing is logged
	Metrics          prometheus.Registerer // nil: no metrics
	Tracer           trace.TracerProvider  // nil: no traces
}

// Service is CRI's two services and what they run on.
type Service struct {
	runtime     *runtimeService
	images      *imageService
	streams     *streaming.Server
	interceptor *rpc.Interceptor
	tracer      trace.TracerProvider
}

// runtimeService is CRI's RuntimeService. Embedding the Unsafe interface makes a method that is missing an error of the compiler.
type runtimeService struct {
	criv1.UnsafeRuntimeServiceServer
	runtime Runtime
	streams *streaming.Server
	version string
	cores   *cores
}

// imageService is CRI's ImageService.
type imageService struct {
	criv1.UnsafeImageServiceServer
	images  Images
	runtime Runtime // for its handlers
}

// New makes a service and starts its streaming server.
func New(o Options) (*Service, error) {
	if o.Runtime == nil || o.Images == nil {
		return nil, fmt.Errorf("a CRI service needs a runtime and images: %w", errdefs.ErrInvalidArgument)
	}
	if o.Version == "" {
		o.Version = "0.0.0"
	}
	if o.StreamingAddress == "" {
		o.StreamingAddress = defaultStreamingAddress
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	interceptor, err := rpc.NewInterceptor(o.Logger, o.Metrics)
	if err != nil {
		return nil, err
	}
	streams, err := streaming.Listen(o.StreamingAddress, o.Runtime, o.Logger)
	if err != nil {
		return nil, err
	}
	return &Service{
		runtime:     &runtimeService{runtime: o.Runtime, streams: streams, version: o.Version, cores: newCores(time.Now)},
		images:      &imageService{images: o.Images, runtime: o.Runtime},
		streams:     streams,
		interceptor: interceptor,
		tracer:      o.Tracer,
	}, nil
}

// ServerOptions are what the gRPC server of the service must be made with: grpc.NewServer(service.ServerOptions()...).
func (s *Service) ServerOptions() []grpc.ServerOption {
	opts := []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(s.interceptor.Unary),
		grpc.ChainStreamInterceptor(s.interceptor.Stream),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
	}
	if s.tracer != nil {
		opts = append(opts, grpc.StatsHandler(otelgrpc.NewServerHandler(
			otelgrpc.WithTracerProvider(s.tracer),
			otelgrpc.WithPropagators(propagation.TraceContext{}), // the kubelet's traces go on here
		)))
	}
	return opts
}

// Register adds CRI's services to a server that was made with ServerOptions.
func (s *Service) Register(server *grpc.Server) {
	criv1.RegisterRuntimeServiceServer(server, s.runtime)
	criv1.RegisterImageServiceServer(server, s.images)
}

// Close ends all streams and answers when they have ended. Stop the gRPC server first.
func (s *Service) Close() error {
	return s.streams.Close()
}
