// Package podmetrics words a sandbox's counters as the metrics of the kubelet's /metrics/cadvisor endpoint, so that dashboards and alerts keep
// working when the kubelet takes them from the runtime instead of from cAdvisor.
//
// It is pure: counters in, metrics out. CRI's values are whole numbers: metrics in seconds lose their fraction.
package podmetrics

import (
	"strconv"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cgroups"
	"github.com/shimd/shimd/runtime"
)

// metric describes one metric and reads its samples from a T.
type metric[T any] struct {
	name   string
	help   string
	kind   criv1.MetricType
	labels []string // besides the base labels
	read   func(T) []reading
}

// reading is one sample: its value, and the values of the metric's own labels.
type reading struct {
	value  uint64
	labels []string
}

const (
	counter = criv1.MetricType_COUNTER
	gauge   = criv1.MetricType_GAUGE
)

// baseLabels are on every metric, as cAdvisor has them.
func baseLabels() []string { return []string{"container", "id", "image", "name", "namespace", "pod"} }

// Descriptors are the metrics that Of can have. They do not change while the daemon runs.
func Descriptors() []*criv1.MetricDescriptor {
	var out []*criv1.MetricDescriptor
	out = append(out, describe(cgroupMetrics())...)
	out = append(out, describe(containerMetrics())...)
	return append(out, describe(networkMetrics())...)
}

func describe[T any](metrics []metric[T]) []*criv1.MetricDescriptor {
	var out []*criv1.MetricDescriptor
	for _, m := range metrics {
		out = append(out, &criv1.MetricDescriptor{Name: m.name, Help: m.help, LabelKeys: append(baseLabels(), m.labels...)})
	}
	return out
}

// Of answers the metrics of a sandbox: of its whole cgroup and its network, and of each of its containers.
func Of(s runtime.SandboxStats) *criv1.PodSandboxMetrics {
	meta := s.Status.Config.Metadata
	pod := []string{"", string(s.Status.ID), "", "", meta.Namespace, meta.Name}
	out := &criv1.PodSandboxMetrics{PodSandboxId: string(s.Status.ID)}
	if s.Cgroup != nil {
		out.Metrics = sample(out.Metrics, cgroupMetrics(), *s.Cgroup, pod)
	}
	out.Metrics = sample(out.Metrics, networkMetrics(), s, pod)
	for _, c := range s.Containers {
		cfg := c.Status.Config
		image := cfg.Image.UserSpecified
		if image == "" {
			image = cfg.Image.Image
		}
		labels := []string{cfg.Metadata.Name, string(c.Status.ID), image, string(c.Status.ID), meta.Namespace, meta.Name}
		cm := &criv1.ContainerMetrics{ContainerId: string(c.Status.ID)}
		if c.Cgroup != nil {
			cm.Metrics = sample(cm.Metrics, cgroupMetrics(), *c.Cgroup, labels)
		}
		cm.Metrics = sample(cm.Metrics, containerMetrics(), c, labels)
		out.ContainerMetrics = append(out.ContainerMetrics, cm)
	}
	return out
}

func sample[T any](to []*criv1.Metric, metrics []metric[T], from T, base []string) []*criv1.Metric {
	for _, m := range metrics {
		for _, r := range m.read(from) {
			labels := append(append(make([]string, 0, len(base)+len(r.labels)), base...), r.labels...)
			to = append(to, &criv1.Metric{Name: m.name, MetricType: m.kind, LabelValues: labels, Value: &criv1.UInt64Value{Value: r.value}})
		}
	}
	return to
}

// one makes a single sample without labels of its own.
func one[T any](value func(T) uint64) func(T) []reading {
	return func(t T) []reading { return []reading{{value: value(t)}} }
}

// some makes a sample when there is something to tell.
func some[T any](value func(T) (uint64, bool)) func(T) []reading {
	return func(t T) []reading {
		if v, ok := value(t); ok {
			return []reading{{value: v}}
		}
		return nil
	}
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }

const (
	nanosPerSecond  = 1e9
	microsPerSecond = 1e6
)

// pressure reads the total of one kind of stall.
func pressure(of func(cgroups.Stats) *cgroups.PSI, line func(*cgroups.PSI) cgroups.PSIData) func(cgroups.Stats) []reading {
	return some(func(s cgroups.Stats) (uint64, bool) {
		p := of(s)
		if p == nil {
			return 0, false
		}
		return line(p).TotalMicros / microsPerSecond, true
	})
}
