// Package metrics has what the agent counts of its own work, under the kubelet's names, so that dashboards and alerts made for it go on working.
//
// Inside: the counters, and a gRPC interceptor that counts calls of the runtime. Not inside: numbers of pods and nodes (package stats), and serving them
// (package server).
package metrics

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc"
)

// Metrics are one agent's. All methods may be called by many goroutines, and on nil, which counts nothing.
type Metrics struct {
	Registry *prometheus.Registry // for /metrics
	Probes   *prometheus.Registry // for /metrics/probes

	operations, operationErrors, probes *prometheus.CounterVec
	operationTime, workTime             *prometheus.HistogramVec
	podStart, podFirst                  prometheus.Histogram
	requests                            *prometheus.CounterVec
	inflight                            *prometheus.GaugeVec
	requestTime                         *prometheus.HistogramVec
	evictions                           *prometheus.CounterVec
}

// Counts are how many pods and containers there are, by state (running, created, exited) for the latter.
type Counts struct {
	Pods, Desired int
	Containers    map[string]int
}

// New makes them for a node. count is asked whenever somebody looks.
func New(node string, count func() Counts) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	}
	starts := []float64{0.1, 0.25, 0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600} // seconds, not the kubelet's first ones only
	one := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: starts})
	}
	m := &Metrics{
		Registry: prometheus.NewRegistry(), Probes: prometheus.NewRegistry(),
		operations:      counter("kubelet_runtime_operations_total", "Cumulative number of runtime operations by operation type.", "operation_type"),
		operationErrors: counter("kubelet_runtime_operations_errors_total", "Cumulative number of runtime operation errors by operation type.", "operation_type"),
		operationTime: histogram("kubelet_runtime_operations_duration_seconds", "Duration in seconds of runtime operations. Broken down by operation type.",
			prometheus.ExponentialBuckets(.005, 2.5, 14), "operation_type"),
		workTime: histogram("kubelet_pod_worker_duration_seconds", "Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync",
			prometheus.DefBuckets, "operation_type"),
		podStart: one("kubelet_pod_start_duration_seconds", "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run"),
		podFirst: one("kubelet_pod_start_sli_duration_seconds", "Duration in seconds to start a pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started"),
		requests: counter("kubelet_http_requests_total", "Number of the http requests received since the server started", "long_running", "method", "path", "server_type"),
		inflight: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kubelet_http_inflight_requests", Help: "Number of the inflight http requests"},
			[]string{"long_running", "method", "path", "server_type"}),
		requestTime: histogram("kubelet_http_requests_duration_seconds", "Duration in seconds to serve http requests", prometheus.DefBuckets, "long_running", "method", "path", "server_type"),
		evictions:   counter("kubelet_evictions", "Cumulative number of pod evictions by eviction signal", "eviction_signal"),
		probes:      counter("prober_probe_total", "Cumulative number of a liveness, readiness or startup probe for a container by result.", "container", "namespace", "pod", "pod_uid", "probe_type", "result"),
	}
	name := prometheus.NewGauge(prometheus.GaugeOpts{Name: "kubelet_node_name", Help: "The node's name. The count is always 1.", ConstLabels: prometheus.Labels{"node": node}})
	name.Set(1)
	m.Registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), name, counts{count},
		m.operations, m.operationErrors, m.operationTime, m.workTime, m.podStart, m.podFirst, m.requests, m.inflight, m.requestTime, m.evictions,
	)
	m.Probes.MustRegister(m.probes)
	return m
}

// counts tells of pods when it is asked.
type counts struct{ count func() Counts }

var (
	runningPods       = prometheus.NewDesc("kubelet_running_pods", "Number of pods that have a running pod sandbox", nil, nil)
	runningContainers = prometheus.NewDesc("kubelet_running_containers", "Number of containers currently running", []string{"container_state"}, nil)
	desiredPods       = prometheus.NewDesc("kubelet_desired_pods", "The number of pods the kubelet is being instructed to run.", nil, nil)
)

func (counts) Describe(to chan<- *prometheus.Desc) {
	to <- runningPods
	to <- runningContainers
	to <- desiredPods
}

func (c counts) Collect(to chan<- prometheus.Metric) {
	now := c.count()
	to <- prometheus.MustNewConstMetric(runningPods, prometheus.GaugeValue, float64(now.Pods))
	to <- prometheus.MustNewConstMetric(desiredPods, prometheus.GaugeValue, float64(now.Desired))
	for state, n := range now.Containers {
		to <- prometheus.MustNewConstMetric(runningContainers, prometheus.GaugeValue, float64(n), state)
	}
}

// operations are the kubelet's names of CRI's calls, where they are not made of the call's own.
var operations = map[string]string{
	"RunPodSandbox": "run_podsandbox", "StopPodSandbox": "stop_podsandbox", "RemovePodSandbox": "remove_podsandbox",
	"PodSandboxStatus": "podsandbox_status", "ListPodSandbox": "list_podsandbox", "PodSandboxStats": "podsandbox_stats", "ListPodSandboxStats": "list_podsandbox_stats",
	"ListPodSandboxMetrics": "list_podsandbox_metrics", "UpdateContainerResources": "update_container", "ImageFsInfo": "image_fs_info",
}

// operation is the kubelet's name of a gRPC method: "/runtime.v1.RuntimeService/CreateContainer" is "create_container".
func operation(method string) string {
	call := method[strings.LastIndex(method, "/")+1:]
	if known, ok := operations[call]; ok {
		return known
	}
	var name strings.Builder
	for i, r := range call {
		if i > 0 && r >= 'A' && r <= 'Z' {
			name.WriteByte('_')
		}
		name.WriteString(strings.ToLower(string(r)))
	}
	return name.String()
}

// Interceptor counts the calls of a connection to the runtime.
func (m *Metrics) Interceptor() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, call grpc.UnaryInvoker, options ...grpc.CallOption) error {
		begun := time.Now()
		err := call(ctx, method, request, answer, conn, options...)
		if m == nil {
			return err
		}
		name := operation(method)
		m.operations.WithLabelValues(name).Inc()
		m.operationTime.WithLabelValues(name).Observe(time.Since(begun).Seconds())
		if err != nil {
			m.operationErrors.WithLabelValues(name).Inc()
		}
		return err
	}
}

// Work counts one round of work on a pod: "create", "update", "sync" or "terminate".
func (m *Metrics) Work(kind string, took time.Duration) {
	if m != nil {
		m.workTime.WithLabelValues(kind).Observe(took.Seconds())
	}
}

// Started counts a pod that runs for the first time: seen is when the agent first heard of it, created when it was made.
func (m *Metrics) Started(created, seen, now time.Time) {
	if m == nil {
		return
	}
	m.podStart.Observe(now.Sub(seen).Seconds())
	if !created.IsZero() {
		m.podFirst.Observe(now.Sub(created).Seconds())
	}
}

// Evicted counts a pod that was evicted, by the signal that it was evicted for.
func (m *Metrics) Evicted(signal string) {
	if m != nil {
		m.evictions.WithLabelValues(signal).Inc()
	}
}

// Probe is one kind of probe ("Liveness", "Readiness" or "Startup") of one container.
type Probe struct{ Namespace, Pod, UID, Container, Kind string }

// Probed counts one result of a probe: "successful", "failed" or "unknown".
func (m *Metrics) Probed(p Probe, result string) {
	if m != nil {
		m.probes.WithLabelValues(p.Container, p.Namespace, p.Pod, p.UID, p.Kind, result).Inc()
	}
}

// Forget drops what was counted for a pod that is gone.
func (m *Metrics) Forget(uid string) {
	if m != nil {
		m.probes.DeletePartialMatch(prometheus.Labels{"pod_uid": uid})
	}
}

// roots are the paths that requests are counted by; all others are "other", so that nobody makes series at will.
var roots = map[string]bool{
	"healthz": true, "pods": true, "stats": true, "metrics": true, "metrics/cadvisor": true, "metrics/probes": true, "metrics/resource": true, "run": true,
	"exec": true, "attach": true, "portForward": true, "containerLogs": true, "configz": true, "runningpods": true, "checkpoint": true, "logs": true, "debug": true,
}

// root is a path's first part, or its first two below /metrics.
func root(path string) string {
	parts := strings.SplitN(strings.TrimPrefix(path, "/"), "/", 3)
	name := parts[0]
	if name == "metrics" && len(parts) > 1 && parts[1] != "" {
		name += "/" + parts[1]
	}
	if !roots[name] {
		return "other"
	}
	return name
}

var methods = map[string]bool{http.MethodOptions: true, http.MethodGet: true, http.MethodHead: true, http.MethodPost: true, http.MethodPut: true, http.MethodDelete: true, http.MethodTrace: true, http.MethodConnect: true}

// Requests counts what a server is asked. kind is "readwrite" or "readonly".
func (m *Metrics) Requests(kind string, next http.Handler) http.Handler {
	if m == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, method, long := root(r.URL.Path), r.Method, "false"
		if !methods[method] {
			method = "other"
		}
		if path == "exec" || path == "attach" || path == "debug" { // the kubelet's idea of long
			long = "true"
		}
		begun := time.Now()
		m.requests.WithLabelValues(long, method, path, kind).Inc()
		gauge := m.inflight.WithLabelValues(long, method, path, kind)
		gauge.Inc()
		defer func() {
			gauge.Dec()
			m.requestTime.WithLabelValues(long, method, path, kind).Observe(time.Since(begun).Seconds())
		}()
		next.ServeHTTP(w, r)
	})
}
