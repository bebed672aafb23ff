package podmetrics

import (
	"slices"

	"github.com/shimd/shimd/runtime"
	"github.com/shimd/shimd/runtime/request"
)

// containerMetrics are those that only containers have: what they were given, and what they write.
func containerMetrics() []metric[runtime.ContainerStats] {
	return slices.Concat(specMetrics(), heldMetrics(), []metric[runtime.ContainerStats]{
		{"container_start_time_seconds", "Start time of the container since unix epoch in seconds.", gauge, nil, some(func(s runtime.ContainerStats) (uint64, bool) {
			return uint64(max(s.Status.StartedAt.Unix(), 0)), !s.Status.StartedAt.IsZero()
		})},
		{"container_oom_events_total", "Count of out of memory events observed for the container.", counter, nil, some(func(s runtime.ContainerStats) (uint64, bool) {
			if s.OOMKills == nil {
				return 0, false
			}
			return *s.OOMKills, true
		})},
		{"container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", gauge, []string{"device"}, func(s runtime.ContainerStats) []reading {
			return []reading{{s.WritableLayer.UsedBytes, []string{s.WritableLayer.Mountpoint}}}
		}},
		{"container_fs_inodes_used", "Number of inodes that are consumed by the container on this filesystem.", gauge, []string{"device"}, func(s runtime.ContainerStats) []reading {
			return []reading{{s.WritableLayer.InodesUsed, []string{s.WritableLayer.Mountpoint}}}
		}},
		{"container_fs_limit_bytes", "Number of bytes that can be consumed by the container on this filesystem.", gauge, []string{"device"}, whole(func(f runtime.FsUsage) uint64 { return f.SizeBytes })},
		{"container_fs_inodes_total", "Number of Inodes", gauge, []string{"device"}, whole(func(f runtime.FsUsage) uint64 { return f.Inodes })},
		{"container_fs_inodes_free", "Number of available Inodes", gauge, []string{"device"}, whole(func(f runtime.FsUsage) uint64 { return f.InodesFree })},
	})
}

// whole reads what is known of the file system that a container writes to; one of unknown size has nothing to tell.
func whole(value func(runtime.FsUsage) uint64) func(runtime.ContainerStats) []reading {
	return func(s runtime.ContainerStats) []reading {
		if s.WritableLayer.SizeBytes == 0 {
			return nil
		}
		return []reading{{value(s.WritableLayer), []string{s.WritableLayer.Mountpoint}}}
	}
}

func specMetrics() []metric[runtime.ContainerStats] {
	// limit reads a resource that is in force; a limit that is not set, or none (negative), is 0, as cAdvisor has it.
	limit := func(value func(*request.Resources) int64) func(runtime.ContainerStats) []reading {
		return some(func(s runtime.ContainerStats) (uint64, bool) {
			if s.Status.Resources == nil {
				return 0, false
			}
			return uint64(max(value(s.Status.Resources), 0)), true
		})
	}
	return []metric[runtime.ContainerStats]{
		{"container_spec_cpu_period", "CPU period of the container.", gauge, nil, limit(func(r *request.Resources) int64 { return r.CPUPeriod })},
		{"container_spec_cpu_quota", "CPU quota of the container.", gauge, nil, limit(func(r *request.Resources) int64 { return r.CPUQuota })},
		{"container_spec_cpu_shares", "CPU share of the container.", gauge, nil, limit(func(r *request.Resources) int64 { return r.CPUShares })},
		{"container_spec_memory_limit_bytes", "Memory limit for the container.", gauge, nil, limit(func(r *request.Resources) int64 { return r.MemoryLimit })},
		{"container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", gauge, nil, limit(func(r *request.Resources) int64 { return r.MemorySwapLimit })},
		// CRI has no such limit, but the metric is expected to be there.
		{"container_spec_memory_reservation_limit_bytes", "Memory reservation limit for the container.", gauge, nil, limit(func(*request.Resources) int64 { return 0 })},
	}
}

// heldMetrics are what the container's processes hold.
func heldMetrics() []metric[runtime.ContainerStats] {
	held := func(value func(*runtime.ProcessUsage) uint64) func(runtime.ContainerStats) []reading {
		return some(func(s runtime.ContainerStats) (uint64, bool) {
			if s.Processes == nil {
				return 0, false
			}
			return value(s.Processes), true
		})
	}
	return []metric[runtime.ContainerStats]{
		{"container_file_descriptors", "Number of open file descriptors for the container.", gauge, nil, held(func(u *runtime.ProcessUsage) uint64 { return u.Descriptors })},
		{"container_sockets", "Number of open sockets for the container.", gauge, nil, held(func(u *runtime.ProcessUsage) uint64 { return u.Sockets })},
		{"container_ulimits_soft", "Soft ulimit values for the container root process.", gauge, []string{"ulimit"}, func(s runtime.ContainerStats) []reading {
			if s.Processes == nil || s.Processes.OpenFiles == nil {
				return nil
			}
			return []reading{{*s.Processes.OpenFiles, []string{"max_open_files"}}}
		}},
	}
}

// networkMetrics are the sandbox's, which owns the network.
func networkMetrics() []metric[runtime.SandboxStats] {
	byInterface := func(value func(runtime.NetworkInterface) uint64) func(runtime.SandboxStats) []reading {
		return func(s runtime.SandboxStats) []reading {
			var out []reading
			for _, n := range s.Interfaces {
				out = append(out, reading{value(n), []string{n.Name}})
			}
			return out
		}
	}
	type nic = runtime.NetworkInterface
	label := []string{"interface"}
	return []metric[runtime.SandboxStats]{
		{"container_network_receive_bytes_total", "Cumulative count of bytes received.", counter, label, byInterface(func(n nic) uint64 { return n.RxBytes })},
		{"container_network_receive_packets_total", "Cumulative count of packets received.", counter, label, byInterface(func(n nic) uint64 { return n.RxPackets })},
		{"container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving.", counter, label, byInterface(func(n nic) uint64 { return n.RxDropped })},
		{"container_network_receive_errors_total", "Cumulative count of errors encountered while receiving.", counter, label, byInterface(func(n nic) uint64 { return n.RxErrors })},
		{"container_network_transmit_bytes_total", "Cumulative count of bytes transmitted.", counter, label, byInterface(func(n nic) uint64 { return n.TxBytes })},
		{"container_network_transmit_packets_total", "Cumulative count of packets transmitted.", counter, label, byInterface(func(n nic) uint64 { return n.TxPackets })},
		{"container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting.", counter, label, byInterface(func(n nic) uint64 { return n.TxDropped })},
		{"container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting.", counter, label, byInterface(func(n nic) uint64 { return n.TxErrors })},
	}
}
