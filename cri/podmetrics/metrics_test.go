package podmetrics

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cgroups"
	"github.com/shimd/shimd/runtime"
	"github.com/shimd/shimd/runtime/request"
)

// full has something to tell for every metric.
func full() runtime.SandboxStats {
	pids, limit, oom, files := uint64(3), uint64(100), uint64(1), uint64(1024)
	psi := &cgroups.PSI{Some: cgroups.PSIData{TotalMicros: 5e6}, Full: cgroups.PSIData{TotalMicros: 2e6}}
	cg := &cgroups.Stats{
		Time: time.Unix(1000, 0),
		CPU:  cgroups.CPUStats{UsageNanos: 3e9, UserNanos: 2e9, SystemNanos: 1e9, Periods: 7, ThrottledPeriods: 4, ThrottledNanos: 6e9, PSI: psi},
		Memory: cgroups.MemoryStats{Usage: 10, WorkingSet: 9, RSS: 8, Cache: 7, MappedFile: 6, KernelUsage: 5, MaxUsage: 11, FailCount: 2, ActiveFile: 3, InactiveFile: 1,
			PageFaults: 100, MajorPageFaults: 1, PSI: psi},
		Swap:      &cgroups.SwapStats{Usage: 4},
		IO:        &cgroups.IOStats{Devices: []cgroups.DeviceIO{{Major: 8, Minor: 1, ReadBytes: 1, WriteBytes: 2, ReadOps: 3, WriteOps: 4}}, PSI: psi},
		Processes: &pids, PidsLimit: &limit,
		Hugetlb: map[string]cgroups.HugetlbStats{"2MB": {Usage: 1, Max: 2, FailCount: 3}},
	}
	return runtime.SandboxStats{
		Status: runtime.SandboxStatus{ID: "sb", Config: request.Sandbox{Metadata: request.SandboxMetadata{Name: "web", Namespace: "prod"}}},
		Cgroup: cg,
		Interfaces: []runtime.NetworkInterface{
			{Name: "eth0", RxBytes: 1, RxPackets: 2, RxErrors: 3, RxDropped: 4, TxBytes: 5, TxPackets: 6, TxErrors: 7, TxDropped: 8},
		},
		Containers: []runtime.ContainerStats{{
			Status: runtime.ContainerStatus{
				ID: "ct", StartedAt: time.Unix(900, 0), Resources: &request.Resources{CPUQuota: -1, CPUPeriod: 100000, CPUShares: 2, MemoryLimit: 50, MemorySwapLimit: 60},
				Config: request.Container{Metadata: request.ContainerMetadata{Name: "nginx"}, Image: request.ImageRef{Image: "sha256:1", UserSpecified: "nginx:1"}},
			},
			Cgroup: cg, OOMKills: &oom, WritableLayer: runtime.FsUsage{Mountpoint: "/store", UsedBytes: 12, InodesUsed: 13, SizeBytes: 14, Inodes: 15, InodesFree: 16},
			Processes: &runtime.ProcessUsage{Descriptors: 21, Sockets: 4, OpenFiles: &files},
		}},
	}
}

func TestMetricsMatchTheirDescriptors(t *testing.T) {
	keys := make(map[string][]string)
	for _, d := range Descriptors() {
		if _, twice := keys[d.GetName()]; twice {
			t.Errorf("%s is described twice", d.GetName())
		}
		if d.GetHelp() == "" {
			t.Errorf("%s has no help", d.GetName())
		}
		keys[d.GetName()] = d.GetLabelKeys()
	}
	got := Of(full())
	used := make(map[string]bool)
	for _, m := range slices.Concat(got.GetMetrics(), got.GetContainerMetrics()[0].GetMetrics()) {
		used[m.GetName()] = true
		if len(m.GetLabelValues()) != len(keys[m.GetName()]) {
			t.Errorf("%s has labels %v for keys %v", m.GetName(), m.GetLabelValues(), keys[m.GetName()])
		}
		if counts := strings.HasSuffix(m.GetName(), "_total") && m.GetName() != "container_fs_inodes_total"; counts && m.GetMetricType() != criv1.MetricType_COUNTER {
			t.Errorf("%s is not a counter", m.GetName())
		}
	}
	for name := range keys {
		if !used[name] {
			t.Errorf("%s is described and never sent", name)
		}
	}
}

func TestValues(t *testing.T) {
	got := Of(full())
	want := []string{
		"container_cpu_usage_seconds_total[nginx ct nginx:1 ct prod web total] 3",
		"container_memory_working_set_bytes[nginx ct nginx:1 ct prod web] 9",
		"container_memory_failures_total[nginx ct nginx:1 ct prod web pgmajfault container] 1",
		"container_fs_writes_bytes_total[nginx ct nginx:1 ct prod web 8:1] 2",
		"container_processes[nginx ct nginx:1 ct prod web] 3",
		"container_pressure_cpu_stalled_seconds_total[nginx ct nginx:1 ct prod web] 2",
		"container_pressure_io_waiting_seconds_total[nginx ct nginx:1 ct prod web] 5",
		"container_spec_cpu_quota[nginx ct nginx:1 ct prod web] 0",
		"container_spec_memory_limit_bytes[nginx ct nginx:1 ct prod web] 50",
		"container_start_time_seconds[nginx ct nginx:1 ct prod web] 900",
		"container_last_seen[nginx ct nginx:1 ct prod web] 1000",
		"container_oom_events_total[nginx ct nginx:1 ct prod web] 1",
		"container_hugetlb_usage_bytes[nginx ct nginx:1 ct prod web 2MB] 1",
		"container_file_descriptors[nginx ct nginx:1 ct prod web] 21",
		"container_sockets[nginx ct nginx:1 ct prod web] 4",
		"container_ulimits_soft[nginx ct nginx:1 ct prod web max_open_files] 1024",
		"container_memory_total_active_file_bytes[nginx ct nginx:1 ct prod web] 3",
		"container_memory_total_inactive_file_bytes[nginx ct nginx:1 ct prod web] 1",
		"container_fs_limit_bytes[nginx ct nginx:1 ct prod web /store] 14",
		"container_fs_inodes_free[nginx ct nginx:1 ct prod web /store] 16",
		"container_threads_max[nginx ct nginx:1 ct prod web] 100",
		"container_spec_memory_reservation_limit_bytes[nginx ct nginx:1 ct prod web] 0",
	}
	have := render(got.GetContainerMetrics()[0].GetMetrics())
	for _, w := range want {
		if !slices.Contains(have, w) {
			t.Errorf("no %s", w)
		}
	}
	pod := render(got.GetMetrics())
	for _, w := range []string{
		"container_network_receive_bytes_total[ sb   prod web eth0] 1",
		"container_network_transmit_packets_dropped_total[ sb   prod web eth0] 8",
		"container_memory_usage_bytes[ sb   prod web] 10",
	} {
		if !slices.Contains(pod, w) {
			t.Errorf("no %s in the pod's", w)
		}
	}
}

func render(metrics []*criv1.Metric) []string {
	var out []string
	for _, m := range metrics {
		out = append(out, fmt.Sprintf("%s%v %d", m.GetName(), m.GetLabelValues(), m.GetValue().GetValue()))
	}
	return out
}

// What the kernel does not tell is left out, not sent as 0.
func TestNothingIsMadeUp(t *testing.T) {
	got := Of(runtime.SandboxStats{Containers: []runtime.ContainerStats{{}}})
	if len(got.GetMetrics()) != 0 {
		t.Errorf("a sandbox without counters has %v", got.GetMetrics())
	}
	have := render(got.GetContainerMetrics()[0].GetMetrics())
	want := []string{"container_fs_usage_bytes[      ] 0", "container_fs_inodes_used[      ] 0"}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Error(diff)
	}
}
