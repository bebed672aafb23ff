package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.26.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/shimd/shimd/config"
)

// telemetry is what the daemon tells about itself: metrics, and traces on demand.
type telemetry struct {
	registry *prometheus.Registry // nil without metrics
	steps    *prometheus.HistogramVec
	provider *sdktrace.TracerProvider // nil without traces
	tracer   trace.Tracer
	server   *http.Server
}

func newTelemetry(ctx context.Context, cfg config.Config) (*telemetry, error) {
	t := &telemetry{}
	if cfg.Metrics.Address != "" {
		t.registry = prometheus.NewRegistry()
		t.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
		t.steps = prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "shimd_step_duration_seconds",
			Help:    "How long a step of a flow took, such as sandbox.network or container.launch.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 18), // 0.1 ms to 13 s
		}, []string{"step", "outcome"})
		t.registry.MustRegister(t.steps)
	}
	if cfg.Tracing.Endpoint == "" {
		return t, nil
	}
	options := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(cfg.Tracing.Endpoint)}
	if cfg.Tracing.Insecure {
		options = append(options, otlptracegrpc.WithInsecure())
	}
	exporter, err := otlptracegrpc.New(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("tracing.endpoint %s: %w", cfg.Tracing.Endpoint, err)
	}
	t.provider = sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter),
		sdktrace.WithResource(resource.NewSchemaless(semconv.ServiceName("shimd"), semconv.ServiceVersion(version))))
	t.tracer = t.provider.Tracer("github.com/shimd/shimd/runtime")
	return t, nil
}

// registerer is nil, as an interface too, without metrics.
func (t *telemetry) registerer() prometheus.Registerer {
	if t.registry == nil {
		return nil
	}
	return t.registry
}

// tracerProvider is nil, as an interface too, without traces.
func (t *telemetry) tracerProvider() trace.TracerProvider {
	if t.provider == nil {
		return nil
	}
	return t.provider
}

// step is told of every step of the runtime's flows.
func (t *telemetry) step(ctx context.Context, name string, begin time.Time, err error) {
	if t.steps != nil {
		outcome := "ok"
		if err != nil {
			outcome = "error"
		}
		t.steps.WithLabelValues(name, outcome).Observe(time.Since(begin).Seconds())
	}
	if t.tracer != nil {
		_, span := t.tracer.Start(ctx, name, trace.WithTimestamp(begin))
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
}

// serve serves the metrics, if there is an address for them.
func (t *telemetry) serve(address string, log *slog.Logger) error {
	if address == "" {
		return nil
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("serving metrics at metrics.address of the configuration: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{}))
	t.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		if err := t.server.Serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
			log.Error("serving metrics", "error", err)
		}
	}()
	return nil
}

func (t *telemetry) close() {
	if t.server != nil {
		_ = t.server.Close()
	}
	if t.provider != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = t.provider.Shutdown(ctx) // what could not be sent is lost, and nobody waits for it
	}
}
