package stats

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// What /metrics/resource shows: metrics-server and the HorizontalPodAutoscaler go by these names.
var (
	nodeCPU        = kind{"node_cpu_usage_seconds_total", "[STABLE] Cumulative cpu time consumed by the node in core-seconds", true}
	nodeMemory     = kind{"node_memory_working_set_bytes", "[STABLE] Current working set of the node in bytes", false}
	nodeSwap       = kind{"node_swap_usage_bytes", "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems", false}
	containerStart = kind{"container_start_time_seconds", "[STABLE] Start time of the container since unix epoch in seconds", false}
	containerCPU   = kind{"container_cpu_usage_seconds_total", "[STABLE] Cumulative cpu time consumed by the container in core-seconds", true}
	containerMem   = kind{"container_memory_working_set_bytes", "[STABLE] Current working set of the container in bytes", false}
	containerSwap  = kind{"container_swap_usage_bytes", "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems", false}
	containerLimit = kind{"container_swap_limit_bytes", "[ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems", false}
	podCPU         = kind{"pod_cpu_usage_seconds_total", "[STABLE] Cumulative cpu time consumed by the pod in core-seconds", true}
	podMemory      = kind{"pod_memory_working_set_bytes", "[STABLE] Current working set of the pod in bytes", false}
	podSwap        = kind{"pod_swap_usage_bytes", "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems", false}
	scrapeError    = kind{"scrape_error", "[ALPHA] (Deprecated since 1.29.0) 1 if there was an error while getting container metrics, 0 otherwise", false}
	resourceError  = kind{"resource_scrape_error", "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise", false}
)

// Resource is the page of /metrics/resource.
func (c *Collector) Resource() prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		ctx, cancel := context.WithTimeout(context.Background(), gatherTimeout)
		defer cancel()
		page, failed := newFamilies(), 0.0
		summary, err := c.Summary(ctx, true)
		if err != nil {
			failed = 1
			c.Log.Error("collecting /metrics/resource", "error", err)
		} else {
			resource(page, summary)
		}
		page.add(scrapeError, failed, time.Time{}, nil)
		page.add(resourceError, failed, time.Time{}, nil)
		return page.list(), nil
	})
}

// resource makes the page of a summary.
func resource(page *families, s *statsv1alpha1.Summary) {
	cpu := func(k kind, s *statsv1alpha1.CPUStats, with labels) {
		if s != nil && s.UsageCoreNanoSeconds != nil {
			page.add(k, float64(*s.UsageCoreNanoSeconds)/float64(time.Second), s.Time.Time, with)
		}
	}
	memory := func(k kind, s *statsv1alpha1.MemoryStats, with labels) {
		if s != nil && s.WorkingSetBytes != nil {
			page.add(k, float64(*s.WorkingSetBytes), s.Time.Time, with)
		}
	}
	swap := func(k kind, s *statsv1alpha1.SwapStats, with labels) {
		if s != nil && s.SwapUsageBytes != nil {
			page.add(k, float64(*s.SwapUsageBytes), s.Time.Time, with)
		}
	}
	cpu(nodeCPU, s.Node.CPU, nil)
	memory(nodeMemory, s.Node.Memory, nil)
	swap(nodeSwap, s.Node.Swap, nil)
	for _, pod := range s.Pods {
		for _, container := range pod.Containers {
			with := labels{{"container", container.Name}, {"namespace", pod.PodRef.Namespace}, {"pod", pod.PodRef.Name}}
			if container.StartTime.Unix() > 0 {
				page.add(containerStart, float64(container.StartTime.UnixNano())/float64(time.Second), time.Time{}, with)
			}
			cpu(containerCPU, container.CPU, with)
			memory(containerMem, container.Memory, with)
			swap(containerSwap, container.Swap, with)
			if s := container.Swap; s != nil && s.SwapAvailableBytes != nil {
				limit := *plus(s.SwapAvailableBytes, s.SwapUsageBytes)
				page.add(containerLimit, float64(limit), s.Time.Time, with)
			}
		}
		with := labels{{"namespace", pod.PodRef.Namespace}, {"pod", pod.PodRef.Name}}
		cpu(podCPU, pod.CPU, with)
		memory(podMemory, pod.Memory, with)
		swap(podSwap, pod.Swap, with)
	}
}
