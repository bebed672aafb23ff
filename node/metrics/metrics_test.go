package metrics

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/grpc"
)

func TestMetrics(t *testing.T) {
	m := New("node-1", func() Counts { return Counts{Pods: 2, Desired: 3, Containers: map[string]int{"running": 4}} })
	call := m.Interceptor()
	for _, err := range []error{nil, errors.New("no")} {
		got := call(t.Context(), "/runtime.v1.RuntimeService/RunPodSandbox", nil, nil, nil, func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return err })
		if !errors.Is(got, err) {
			t.Errorf("got %v", got)
		}
	}
	handler := m.Requests("readwrite", http.NotFoundHandler())
	for _, path := range []string{"/metrics/cadvisor", "/metrics/evil", "/exec/a/b/c"} {
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), "EVIL", path, http.NoBody))
	}
	m.Started(time.Unix(1, 0), time.Unix(2, 0), time.Unix(3, 0))
	m.Work("sync", time.Second)
	m.Evicted("memory.available")
	const want = `# HELP kubelet_desired_pods The number of pods the kubelet is being instructed to run.
# TYPE kubelet_desired_pods gauge
kubelet_desired_pods 3
# HELP kubelet_http_requests_total Number of the http requests received since the server started
# TYPE kubelet_http_requests_total counter
kubelet_http_requests_total{long_running="false",method="other",path="metrics/cadvisor",server_type="readwrite"} 1
kubelet_http_requests_total{long_running="false",method="other",path="other",server_type="readwrite"} 1
kubelet_http_requests_total{long_running="true",method="other",path="exec",server_type="readwrite"} 1
# HELP kubelet_node_name The node's name. The count is always 1.
# TYPE kubelet_node_name gauge
kubelet_node_name{node="node-1"} 1
# HELP kubelet_running_containers Number of containers currently running
# TYPE kubelet_running_containers gauge
kubelet_running_containers{container_state="running"} 4
# HELP kubelet_running_pods Number of pods that have a running pod sandbox
# TYPE kubelet_running_pods gauge
kubelet_running_pods 2
# HELP kubelet_runtime_operations_errors_total Cumulative number of runtime operation errors by operation type.
# TYPE kubelet_runtime_operations_errors_total counter
kubelet_runtime_operations_errors_total{operation_type="run_podsandbox"} 1
# HELP kubelet_runtime_operations_total Cumulative number of runtime operations by operation type.
# TYPE kubelet_runtime_operations_total counter
kubelet_runtime_operations_total{operation_type="run_podsandbox"} 2
`
	got := page(t, m.Registry, "kubelet_desired_pods", "kubelet_http_requests_total", "kubelet_node_name",
		"kubelet_running_containers", "kubelet_running_pods", "kubelet_runtime_operations_errors_total", "kubelet_runtime_operations_total")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// page is what a registry shows of some names.
func page(t *testing.T, registry *prometheus.Registry, names ...string) string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, family := range families {
		if slices.Contains(names, family.GetName()) {
			if _, err := expfmt.MetricFamilyToText(&text, family); err != nil {
				t.Fatal(err)
			}
		}
	}
	return text.String()
}

func TestProbesAreForgotten(t *testing.T) {
	m := New("n", func() Counts { return Counts{} })
	m.Probed(Probe{UID: "1", Kind: "Liveness"}, "successful")
	m.Probed(Probe{UID: "2", Kind: "Liveness"}, "failed")
	m.Forget("1")
	if got := page(t, m.Probes, "prober_probe_total"); strings.Contains(got, `pod_uid="1"`) || !strings.Contains(got, `pod_uid="2"`) {
		t.Error(got)
	}
}

func TestOperation(t *testing.T) {
	for method, want := range map[string]string{
		"/runtime.v1.RuntimeService/CreateContainer": "create_container", "/runtime.v1.ImageService/PullImage": "pull_image",
		"/runtime.v1.RuntimeService/ListPodSandbox": "list_podsandbox", "/runtime.v1.RuntimeService/Version": "version", "Exec": "exec",
	} {
		if got := operation(method); got != want {
			t.Errorf("%s: %s", method, got)
		}
	}
}

func TestNilCountsNothing(t *testing.T) {
	var m *Metrics
	m.Started(time.Time{}, time.Time{}, time.Time{})
	m.Work("sync", 0)
	m.Evicted("")
	m.Probed(Probe{}, "")
	m.Forget("")
	if m.Requests("", http.NotFoundHandler()) == nil {
		t.Error("no handler")
	}
}
