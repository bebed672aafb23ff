package podmetrics

import (
	"maps"
	"slices"

	"github.com/shimd/shimd/cgroups"
)

// cgroupMetrics are those that pods and containers have alike.
func cgroupMetrics() []metric[cgroups.Stats] {
	return slices.Concat(cpuMetrics(), memoryMetrics(), hugetlbMetrics(), ioMetrics(), processMetrics(), pressureMetrics(), seenMetrics())
}

func cpuMetrics() []metric[cgroups.Stats] {
	return []metric[cgroups.Stats]{
		{"container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", counter, []string{"cpu"}, func(s cgroups.Stats) []reading {
			return []reading{{s.CPU.UsageNanos / nanosPerSecond, []string{"total"}}}
		}},
		{"container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", counter, nil,
			one(func(s cgroups.Stats) uint64 { return s.CPU.UserNanos / nanosPerSecond })},
		{"container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", counter, nil,
			one(func(s cgroups.Stats) uint64 { return s.CPU.SystemNanos / nanosPerSecond })},
		{"container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", counter, nil,
			one(func(s cgroups.Stats) uint64 { return s.CPU.Periods })},
		{"container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", counter, nil,
			one(func(s cgroups.Stats) uint64 { return s.CPU.ThrottledPeriods })},
		{"container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.", counter, nil,
			one(func(s cgroups.Stats) uint64 { return s.CPU.ThrottledNanos / nanosPerSecond })},
	}
}

func memoryMetrics() []metric[cgroups.Stats] {
	return []metric[cgroups.Stats]{
		{"container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed.", gauge, nil,
			one(func(s cgroups.Stats) uint64 { return s.Memory.Usage })},
		{"container_memory_working_set_bytes", "Current working set in bytes.", gauge, nil,
			one(func(s cgroups.Stats) uint64 { return s.Memory.WorkingSet })},
		{"container_memory_rss", "Size of RSS in bytes.", gauge, nil,
			one(func(s cgroups.Stats) uint64 { return s.Memory.RSS })},
		{"container_memory_cache", "Number of bytes of page cache memory.", gauge, nil,
			one(func(s cgroups.Stats) uint64 { return s.Memory.Cache })},
		{"container_memory_total_active_file_bytes", "Current total active file in bytes.", gauge, nil,
			one(func(s cgroups.Stats) uint64 { return s.Memory.ActiveFile })},
		{"container_memory_total_inactive_file_bytes", "Current total inactive file in bytes.", gauge, nil,
			one(func(s cgroups.Stats) uint64 { return s.Memory.InactiveFile })},
		{"container_memory_mapped_file", "Size of memory mapped files in bytes.", gauge, nil,
			one(func(s cgroups.Stats) uint64 { return s.Memory.MappedFile })},
		{"container_memory_kernel_usage", "Size of kernel memory allocated in bytes.", gauge, nil,
			one(func(s cgroups.Stats) uint64 { return s.Memory.KernelUsage })},
		{"container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes.", gauge, nil,
			one(func(s cgroups.Stats) uint64 { return s.Memory.MaxUsage })},
		{"container_memory_failcnt", "Number of memory usage hits limits.", counter, nil,
			one(func(s cgroups.Stats) uint64 { return s.Memory.FailCount })},
		{"container_memory_swap", "Container swap usage in bytes.", gauge, nil, some(func(s cgroups.Stats) (uint64, bool) {
			if s.Swap == nil {
				return 0, false
			}
			return s.Swap.Usage, true
		})},
		{"container_memory_failures_total", "Cumulative count of memory allocation failures.", counter, []string{"failure_type", "scope"}, func(s cgroups.Stats) []reading {
			return []reading{
				{s.Memory.PageFaults, []string{"pgfault", "container"}},
				{s.Memory.MajorPageFaults, []string{"pgmajfault", "container"}},
			}
		}},
	}
}

func hugetlbMetrics() []metric[cgroups.Stats] {
	bySize := func(value func(cgroups.HugetlbStats) uint64) func(cgroups.Stats) []reading {
		return func(s cgroups.Stats) []reading {
			var out []reading
			for _, size := range slices.Sorted(maps.Keys(s.Hugetlb)) {
				out = append(out, reading{value(s.Hugetlb[size]), []string{size}})
			}
			return out
		}
	}
	return []metric[cgroups.Stats]{
		{"container_hugetlb_usage_bytes", "Current hugepage usage in bytes.", gauge, []string{"pagesize"},
			bySize(func(h cgroups.HugetlbStats) uint64 { return h.Usage })},
		{"container_hugetlb_max_usage_bytes", "Maximum hugepage usage recorded in bytes.", gauge, []string{"pagesize"},
			bySize(func(h cgroups.HugetlbStats) uint64 { return h.Max })},
		{"container_hugetlb_failcnt", "Number of hugepage usage hits limits.", counter, []string{"pagesize"},
			bySize(func(h cgroups.HugetlbStats) uint64 { return h.FailCount })},
	}
}

func ioMetrics() []metric[cgroups.Stats] {
	byDevice := func(value func(cgroups.DeviceIO) uint64) func(cgroups.Stats) []reading {
		return func(s cgroups.Stats) []reading {
			var out []reading
			for _, d := range devices(s) {
				out = append(out, reading{value(d), []string{number(d.Major) + ":" + number(d.Minor)}})
			}
			return out
		}
	}
	return []metric[cgroups.Stats]{
		{"container_fs_reads_bytes_total", "Cumulative count of bytes read.", counter, []string{"device"},
			byDevice(func(d cgroups.DeviceIO) uint64 { return d.ReadBytes })},
		{"container_fs_writes_bytes_total", "Cumulative count of bytes written.", counter, []string{"device"},
			byDevice(func(d cgroups.DeviceIO) uint64 { return d.WriteBytes })},
		{"container_fs_reads_total", "Cumulative count of reads completed.", counter, []string{"device"},
			byDevice(func(d cgroups.DeviceIO) uint64 { return d.ReadOps })},
		{"container_fs_writes_total", "Cumulative count of writes completed.", counter, []string{"device"},
			byDevice(func(d cgroups.DeviceIO) uint64 { return d.WriteOps })},
		{"container_blkio_device_usage_total", "Blkio device bytes usage.", counter, []string{"device", "major", "minor", "operation"}, func(s cgroups.Stats) []reading {
			var out []reading
			for _, d := range devices(s) {
				major, minor := number(d.Major), number(d.Minor)
				out = append(out,
					reading{d.ReadBytes, []string{major + ":" + minor, major, minor, "Read"}},
					reading{d.WriteBytes, []string{major + ":" + minor, major, minor, "Write"}})
			}
			return out
		}},
	}
}

func devices(s cgroups.Stats) []cgroups.DeviceIO {
	if s.IO == nil {
		return nil
	}
	return s.IO.Devices
}

// processMetrics come from the pids controller, which counts threads.
func processMetrics() []metric[cgroups.Stats] {
	optional := func(value func(cgroups.Stats) *uint64) func(cgroups.Stats) []reading {
		return some(func(s cgroups.Stats) (uint64, bool) {
			if v := value(s); v != nil {
				return *v, true
			}
			return 0, false
		})
	}
	return []metric[cgroups.Stats]{
		{"container_processes", "Number of tasks running inside the container, as its pids controller counts them.", gauge, nil,
			optional(func(s cgroups.Stats) *uint64 { return s.Processes })},
		{"container_threads", "Number of threads running inside the container.", gauge, nil,
			optional(func(s cgroups.Stats) *uint64 { return s.Processes })},
		{"container_threads_max", "Maximum number of threads allowed inside the container, infinity if value is zero.", gauge, nil,
			some(func(s cgroups.Stats) (uint64, bool) {
				if s.PidsLimit == nil {
					return 0, s.Processes != nil
				}
				return *s.PidsLimit, true
			})},
	}
}

func pressureMetrics() []metric[cgroups.Stats] {
	cpu := func(s cgroups.Stats) *cgroups.PSI { return s.CPU.PSI }
	memory := func(s cgroups.Stats) *cgroups.PSI { return s.Memory.PSI }
	io := func(s cgroups.Stats) *cgroups.PSI {
		if s.IO == nil {
			return nil
		}
		return s.IO.PSI
	}
	full := func(p *cgroups.PSI) cgroups.PSIData { return p.Full }
	waiting := func(p *cgroups.PSI) cgroups.PSIData { return p.Some }
	return []metric[cgroups.Stats]{
		{"container_pressure_cpu_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to CPU congestion.", counter, nil, pressure(cpu, full)},
		{"container_pressure_cpu_waiting_seconds_total", "Total time duration tasks in the container have waited due to CPU congestion.", counter, nil, pressure(cpu, waiting)},
		{"container_pressure_memory_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to memory congestion.", counter, nil, pressure(memory, full)},
		{"container_pressure_memory_waiting_seconds_total", "Total time duration tasks in the container have waited due to memory congestion.", counter, nil, pressure(memory, waiting)},
		{"container_pressure_io_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to IO congestion.", counter, nil, pressure(io, full)},
		{"container_pressure_io_waiting_seconds_total", "Total time duration tasks in the container have waited due to IO congestion.", counter, nil, pressure(io, waiting)},
	}
}

func seenMetrics() []metric[cgroups.Stats] {
	return []metric[cgroups.Stats]{
		{"container_last_seen", "Last time a container was seen by the exporter.", gauge, nil,
			one(func(s cgroups.Stats) uint64 { return uint64(max(s.Time.Unix(), 0)) })},
	}
}
