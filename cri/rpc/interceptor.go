package rpc

import (
	"context"
	"fmt"
	"log/slog"
	"path"
	"runtime/debug"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Interceptor goes around every call. Its methods may run at the same time.
type Interceptor struct {
	log      *slog.Logger
	duration *prometheus.HistogramVec
}

// NewInterceptor registers its histogram with metrics; nil metrics are kept to itself.
func NewInterceptor(log *slog.Logger, metrics prometheus.Registerer) (*Interceptor, error) {
	i := &Interceptor{
		log: log,
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "shimd_cri_request_duration_seconds",
			Help:    "Time that a CRI call took, by method and gRPC code.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 30, 120},
		}, []string{"method", "code"}),
	}
	if metrics == nil {
		return i, nil
	}
	if err := metrics.Register(i.duration); err != nil {
		return nil, fmt.Errorf("registering the metrics of CRI calls: %w", err)
	}
	return i, nil
}

// Unary goes around calls with one answer.
func (i *Interceptor) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	start := time.Now()
	about := &subject{}
	about.of(req)
	defer func() {
		if p := recover(); p != nil {
			err = i.panicked(ctx, info.FullMethod, p)
		}
		if err == nil {
			about.of(resp)
		} else {
			resp, err = nil, Error(err)
		}
		i.done(ctx, info.FullMethod, start, about, err)
	}()
	return handle(ctx, req)
}

// Stream goes around calls that stream their answers.
func (i *Interceptor) Stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	start := time.Now()
	defer func() {
		if p := recover(); p != nil {
			err = i.panicked(stream.Context(), info.FullMethod, p)
		}
		err = Error(err)
		i.done(stream.Context(), info.FullMethod, start, &subject{}, err)
	}()
	return handle(srv, stream)
}

// panicked keeps one broken call from ending the daemon and with it everybody else's calls.
func (i *Interceptor) panicked(ctx context.Context, method string, p any) error {
	i.log.LogAttrs(ctx, slog.LevelError, "panic in a CRI call", slog.String("method", path.Base(method)), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
	return fmt.Errorf("panic in %s: %v: %w", path.Base(method), p, errdefs.ErrInternal)
}

func (i *Interceptor) done(ctx context.Context, fullMethod string, start time.Time, about *subject, err error) {
	method, took, code := path.Base(fullMethod), time.Since(start), status.Code(err)
	i.duration.WithLabelValues(method, code.String()).Observe(took.Seconds())
	span := trace.SpanFromContext(ctx)
	span.SetAttributes(about.traced()...)

	attrs := append([]slog.Attr{slog.String("method", method)}, about.logged()...)
	attrs = append(attrs, slog.Duration("took", took))
	if err != nil {
		attrs = append(attrs, slog.String("code", code.String()), slog.String("error", status.Convert(err).Message()))
	}
	if sc := span.SpanContext(); sc.IsSampled() {
		attrs = append(attrs, slog.String("trace", sc.TraceID().String()))
	}
	i.log.LogAttrs(ctx, level(method, code), "cri", attrs...)
}

// level keeps what clients ask every second out of the log: calls that change nothing and succeed.
func level(method string, code codes.Code) slog.Level {
	switch code {
	case codes.OK:
		if polled(method) {
			return slog.LevelDebug
		}
		return slog.LevelInfo
	case codes.Canceled, codes.NotFound, codes.DeadlineExceeded:
		return slog.LevelInfo // part of the usual: the client gave up, or asks whether something is gone
	case codes.Unknown, codes.Internal, codes.DataLoss:
		return slog.LevelError
	default:
		return slog.LevelWarn
	}
}

func polled(method string) bool {
	for _, prefix := range []string{"List", "Stream"} {
		if strings.HasPrefix(method, prefix) {
			return true
		}
	}
	for _, suffix := range []string{"Status", "Stats", "Info", "Version", "Config", "ExecSync"} {
		if strings.HasSuffix(method, suffix) {
			return true
		}
	}
	return false
}
