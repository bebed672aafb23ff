package stats

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Cadvisor is the page of /metrics/cadvisor: the runtime's metrics of pods and containers, as the kubelet shows them with
// PodAndContainerStatsFromCRI, and what is said of the machine.
func (c *Collector) Cadvisor() prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		ctx, cancel := context.WithTimeout(context.Background(), gatherTimeout)
		defer cancel()
		page := newFamilies()
		c.machine(page)
		descriptors, err := c.Runtime.ListMetricDescriptors(ctx, &criv1.ListMetricDescriptorsRequest{})
		if err == nil {
			var metrics *criv1.ListPodSandboxMetricsResponse
			if metrics, err = c.Runtime.ListPodSandboxMetrics(ctx, &criv1.ListPodSandboxMetricsRequest{}); err == nil {
				runtimeMetrics(page, descriptors.Descriptors, metrics.PodMetrics)
			}
		}
		if err != nil {
			err = fmt.Errorf("asking the runtime for the metrics of pods: %w", err)
		}
		return page.list(), err
	})
}

// runtimeMetrics adds what the runtime tells. A metric without a descriptor, or with another number of labels, is left out.
func runtimeMetrics(page *families, descriptors []*criv1.MetricDescriptor, pods []*criv1.PodSandboxMetrics) {
	type described struct {
		help  string
		names []string
		order []int // of the names
	}
	known := map[string]described{}
	for _, d := range descriptors {
		order := make([]int, len(d.LabelKeys))
		for i := range order {
			order[i] = i
		}
		slices.SortFunc(order, func(a, b int) int { return strings.Compare(d.LabelKeys[a], d.LabelKeys[b]) })
		known[d.Name] = described{d.Help, d.LabelKeys, order}
	}
	add := func(m *criv1.Metric) {
		d, ok := known[m.Name]
		if !ok || len(d.names) != len(m.LabelValues) || m.Value == nil {
			return
		}
		with := make(labels, len(d.order))
		for to, from := range d.order {
			with[to] = [2]string{d.names[from], m.LabelValues[from]}
		}
		when := time.Time{}
		if m.Timestamp > 0 {
			when = time.Unix(0, m.Timestamp)
		}
		page.add(kind{m.Name, d.help, m.MetricType == criv1.MetricType_COUNTER}, float64(m.Value.Value), when, with)
	}
	for _, pod := range pods {
		for _, m := range pod.Metrics {
			add(m)
		}
		for _, container := range pod.ContainerMetrics {
			for _, m := range container.Metrics {
				add(m)
			}
		}
	}
}

// machine adds what cAdvisor says of the machine.
func (c *Collector) machine(page *families) {
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(text))
	}
	with := labels{
		{"boot_id", read(filepath.Join(c.Proc, "sys/kernel/random/boot_id"))},
		{"machine_id", read("/etc/machine-id")},
		{"system_uuid", read("/sys/class/dmi/id/product_uuid")},
	}
	gauge := func(name, help string, value int) {
		page.add(kind{name, help, false}, float64(value), time.Time{}, with)
	}
	text, err := os.ReadFile(filepath.Join(c.Proc, "cpuinfo"))
	failed := 0.0
	if err != nil {
		failed = 1
	}
	cores, physical, sockets := parseProcessors(text)
	gauge("machine_cpu_cores", "Number of logical CPU cores.", cores)
	gauge("machine_cpu_physical_cores", "Number of physical CPU cores.", physical)
	gauge("machine_cpu_sockets", "Number of CPU sockets.", sockets)
	if text, err = os.ReadFile(filepath.Join(c.Proc, "meminfo")); err != nil {
		failed = 1
	}
	const kilobyte = 1024
	info := parsePairs(text)
	gauge("machine_memory_bytes", "Amount of memory installed on the machine.", int(info["MemTotal"]*kilobyte))
	gauge("machine_swap_bytes", "Amount of swap memory available on the machine.", int(info["SwapTotal"]*kilobyte))
	page.add(kind{"machine_scrape_error", "1 if there was an error while getting machine metrics, 0 otherwise.", false}, failed, time.Time{}, nil)
}

// parseProcessors counts in /proc/cpuinfo. Where it tells nothing of cores and sockets (arm64, many virtual machines), each processor is a core, all of one socket.
func parseProcessors(text []byte) (logical, physical, sockets int) {
	cores, packages := map[string]bool{}, map[string]bool{}
	socket := ""
	for line := range bytes.Lines(text) {
		key, value, _ := strings.Cut(string(line), ":")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "processor":
			logical++
		case "physical id":
			socket = value
			packages[value] = true
		case "core id":
			cores[socket+"/"+value] = true
		}
	}
	physical, sockets = len(cores), len(packages)
	if physical == 0 {
		physical = logical
	}
	if sockets == 0 {
		sockets = min(logical, 1)
	}
	return logical, physical, sockets
}
