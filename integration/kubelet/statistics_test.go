package kubelet_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// summary is the part of the Summary API that the test looks at.
type summary struct {
	Pods []struct {
		PodRef     struct{ Name, UID string }
		StartTime  time.Time
		Containers []struct {
			Name   string
			CPU    cpuStats
			Memory memoryStats
			Rootfs fsStats
			Logs   fsStats
		}
		CPU     cpuStats
		Memory  memoryStats
		Network *struct {
			Name             string
			RxBytes, TxBytes *uint64
		}
		Volume       []struct{ Name string }
		ProcessStats *struct {
			ProcessCount *uint64 `json:"process_count"`
		} `json:"process_stats"`
		EphemeralStorage *fsStats `json:"ephemeral-storage"`
	}
	Node struct {
		Runtime *struct{ ImageFs, ContainerFs *fsStats }
	}
}

type cpuStats struct{ UsageNanoCores, UsageCoreNanoSeconds *uint64 }

type memoryStats struct{ AvailableBytes, UsageBytes, WorkingSetBytes, RSSBytes, PageFaults, MajorPageFaults *uint64 }

type fsStats struct{ AvailableBytes, CapacityBytes, UsedBytes, InodesFree, Inodes, InodesUsed *uint64 }

func testStatistics(t *testing.T, n *node) {
	var s summary
	eventually(t, "the summary has the web pod with rates", func() bool {
		text, err := n.kubelet.Get(t.Context(), "/stats/summary")
		if err != nil {
			t.Fatal(err)
		}
		s = summary{}
		if err := json.Unmarshal(text, &s); err != nil {
			t.Fatal(err)
		}
		for _, pod := range s.Pods {
			if pod.PodRef.Name == "web-node" && pod.CPU.UsageNanoCores != nil {
				return true
			}
		}
		return false
	}, func() string { return "" })
	if s.Node.Runtime == nil || s.Node.Runtime.ImageFs == nil || s.Node.Runtime.ImageFs.UsedBytes == nil || *s.Node.Runtime.ImageFs.UsedBytes == 0 {
		t.Errorf("images' use of the disk: %+v", s.Node.Runtime)
	}
	for _, pod := range s.Pods {
		if pod.PodRef.Name != "web-node" {
			continue
		}
		if pod.StartTime.IsZero() || pod.Network == nil || pod.Network.Name != "eth0" || pod.Network.RxBytes == nil || *pod.Network.RxBytes == 0 ||
			pod.ProcessStats == nil || *pod.ProcessStats.ProcessCount < 2 || pod.EphemeralStorage == nil {
			t.Errorf("the web pod: %+v", pod)
		}
		wantUsage(t, "the web pod", pod.CPU, pod.Memory)
		if len(pod.Containers) != 2 {
			t.Errorf("the web pod has statistics of %d containers, not 2", len(pod.Containers))
		}
		for _, c := range pod.Containers {
			wantUsage(t, "container "+c.Name, c.CPU, c.Memory)
			if c.Memory.AvailableBytes == nil || *c.Memory.AvailableBytes == 0 || *c.Memory.AvailableBytes > 64<<20 {
				t.Errorf("container %s has %v bytes of memory left", c.Name, c.Memory.AvailableBytes)
			}
			if c.Rootfs.UsedBytes == nil || c.Rootfs.InodesUsed == nil || c.Rootfs.CapacityBytes == nil || *c.Rootfs.CapacityBytes == 0 || c.Logs.UsedBytes == nil {
				t.Errorf("container %s: root %+v, logs %+v", c.Name, c.Rootfs, c.Logs)
			}
		}
	}
	wantMetrics(t, n)
}

func wantUsage(t *testing.T, what string, cpu cpuStats, memory memoryStats) {
	t.Helper()
	if cpu.UsageCoreNanoSeconds == nil || *cpu.UsageCoreNanoSeconds == 0 || cpu.UsageNanoCores == nil {
		t.Errorf("%s: CPU %+v", what, cpu)
	}
	if memory.WorkingSetBytes == nil || *memory.WorkingSetBytes == 0 || memory.UsageBytes == nil || memory.RSSBytes == nil || memory.PageFaults == nil || memory.MajorPageFaults == nil {
		t.Errorf("%s: memory %+v", what, memory)
	}
}

func wantMetrics(t *testing.T, n *node) {
	t.Helper()
	for path, wanted := range map[string][]string{
		"/metrics/resource": {
			`container_cpu_usage_seconds_total\{container="server",namespace="default",pod="web-node"\} \S+`,
			`container_memory_working_set_bytes\{container="server",namespace="default",pod="web-node"\} [1-9]`,
			`container_start_time_seconds\{container="server",namespace="default",pod="web-node"\} [1-9]`,
			`pod_cpu_usage_seconds_total\{namespace="default",pod="web-node"\} \S+`,
			`pod_memory_working_set_bytes\{namespace="default",pod="web-node"\} [1-9]`,
			`(?m)^resource_scrape_error 0`,
		},
		"/metrics/cadvisor": {
			`container_cpu_usage_seconds_total\{[^}]*container="server"[^}]*\} \S+`,
			`container_memory_working_set_bytes\{[^}]*container="server"[^}]*\} [1-9]`,
			`container_spec_memory_limit_bytes\{[^}]*container="server"[^}]*\} 6.7108864e\+07`,
			`container_network_receive_bytes_total\{[^}]*interface="eth0"[^}]*pod="web-node"[^}]*\} [1-9]`,
			`container_fs_usage_bytes\{[^}]*container="server"[^}]*\} \S+`,
			`container_processes\{[^}]*container="server"[^}]*\} [1-9]`,
			`container_oom_events_total\{`,
			`container_file_descriptors\{[^}]*container="server"[^}]*\} [1-9]`,
			`container_sockets\{[^}]*container="server"[^}]*\} [1-9]`,
			`container_threads_max\{[^}]*container="server"[^}]*\} [0-9]`,
			`container_ulimits_soft\{[^}]*container="server"[^}]*ulimit="max_open_files"\} [1-9]`,
			`container_spec_memory_reservation_limit_bytes\{[^}]*container="server"[^}]*\} 0`,
			`(?m)^machine_cpu_cores`,
		},
		"/metrics/probes": {`prober_probe_total\{container="server"`},
	} {
		text, err := n.kubelet.Get(t.Context(), path)
		if err != nil {
			t.Error(err)
			continue
		}
		if keep := os.Getenv(keepVariable); keep != "" {
			if err := os.WriteFile(filepath.Join(keep, filepath.Base(path)+".txt"), text, 0o644); err != nil {
				t.Error(err)
			}
		}
		for _, expression := range wanted {
			if !regexp.MustCompile(expression).Match(text) {
				name, _, _ := strings.Cut(strings.TrimPrefix(expression, "(?m)^"), `\{`)
				var same []string
				for line := range strings.Lines(string(text)) {
					if strings.HasPrefix(line, name+"{") && len(same) < 4 {
						same = append(same, line)
					}
				}
				t.Errorf("%s has nothing like %s; of that name:\n%s", path, expression, strings.Join(same, ""))
			}
		}
	}
}
