package translate

import (
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cgroups"
	"github.com/shimd/shimd/runtime"
)

// Rate answers the CPU use of a container or sandbox in nanoseconds per second, from the sample that was taken at a time; nil when there is no
// earlier one to compare with.
type Rate func(id string, at time.Time, usageNanos uint64) *uint64

// ToContainerStats answers a container's counters as CRI words them. Those of one that does not run have no cpu and memory.
func ToContainerStats(s runtime.ContainerStats, rate Rate) *criv1.ContainerStats {
	out := &criv1.ContainerStats{
		Attributes: &criv1.ContainerAttributes{
			Id:          string(s.Status.ID),
			Metadata:    toContainerMetadata(s.Status.Config.Metadata),
			Labels:      s.Status.Config.Labels,
			Annotations: s.Status.Config.Annotations,
		},
		WritableLayer: &criv1.FilesystemUsage{
			Timestamp:  nanos(s.WritableLayer.Timestamp),
			FsId:       &criv1.FilesystemIdentifier{Mountpoint: s.WritableLayer.Mountpoint},
			UsedBytes:  count(s.WritableLayer.UsedBytes),
			InodesUsed: count(s.WritableLayer.InodesUsed),
		},
	}
	if cg := s.Cgroup; cg != nil {
		out.Cpu = toCPU(string(s.Status.ID), cg, rate)
		out.Memory = toMemory(cg)
		out.Swap = toSwap(cg)
		out.Io = toIO(cg)
	}
	return out
}

// ToSandboxStats answers a sandbox's counters as CRI words them.
func ToSandboxStats(s runtime.SandboxStats, rate Rate) *criv1.PodSandboxStats {
	linux := &criv1.LinuxPodSandboxStats{Network: toNetwork(s)}
	if cg := s.Cgroup; cg != nil {
		linux.Cpu = toCPU(string(s.Status.ID), cg, rate)
		linux.Memory = toMemory(cg)
		linux.Io = toIO(cg)
		if cg.Processes != nil {
			linux.Process = &criv1.ProcessUsage{Timestamp: nanos(cg.Time), ProcessCount: count(*cg.Processes)}
		}
	}
	for _, c := range s.Containers {
		linux.Containers = append(linux.Containers, ToContainerStats(c, rate))
	}
	return &criv1.PodSandboxStats{
		Attributes: &criv1.PodSandboxAttributes{
			Id:          string(s.Status.ID),
			Metadata:    toSandboxMetadata(s.Status.Config.Metadata),
			Labels:      s.Status.Config.Labels,
			Annotations: s.Status.Config.Annotations,
		},
		Linux: linux,
	}
}

func toCPU(id string, cg *cgroups.Stats, rate Rate) *criv1.CpuUsage {
	out := &criv1.CpuUsage{
		Timestamp:            nanos(cg.Time),
		UsageCoreNanoSeconds: count(cg.CPU.UsageNanos),
		Psi:                  toPSI(cg.CPU.PSI),
	}
	if r := rate(id, cg.Time, cg.CPU.UsageNanos); r != nil {
		out.UsageNanoCores = count(*r)
	}
	return out
}

func toMemory(cg *cgroups.Stats) *criv1.MemoryUsage {
	m := cg.Memory
	out := &criv1.MemoryUsage{
		Timestamp:       nanos(cg.Time),
		WorkingSetBytes: count(m.WorkingSet),
		UsageBytes:      count(m.Usage),
		RssBytes:        count(m.RSS),
		PageFaults:      count(m.PageFaults),
		MajorPageFaults: count(m.MajorPageFaults),
		Psi:             toPSI(m.PSI),
	}
	if m.Limit > 0 {
		out.AvailableBytes = count(left(m.Limit, m.WorkingSet))
	}
	return out
}

func toSwap(cg *cgroups.Stats) *criv1.SwapUsage {
	if cg.Swap == nil {
		return nil
	}
	out := &criv1.SwapUsage{Timestamp: nanos(cg.Time), SwapUsageBytes: count(cg.Swap.Usage)}
	if cg.Swap.Limit > 0 {
		out.SwapAvailableBytes = count(left(cg.Swap.Limit, cg.Swap.Usage))
	}
	return out
}

// toIO has nothing but pressure to tell: CRI has no counters of bytes.
func toIO(cg *cgroups.Stats) *criv1.IoUsage {
	if cg.IO == nil || cg.IO.PSI == nil {
		return nil
	}
	return &criv1.IoUsage{Timestamp: nanos(cg.Time), Psi: toPSI(cg.IO.PSI)}
}

func toPSI(p *cgroups.PSI) *criv1.PsiStats {
	if p == nil {
		return nil
	}
	data := func(d cgroups.PSIData) *criv1.PsiData {
		const nanosPerMicro = 1000
		return &criv1.PsiData{Total: d.TotalMicros * nanosPerMicro, Avg10: d.Avg10, Avg60: d.Avg60, Avg300: d.Avg300}
	}
	return &criv1.PsiStats{Full: data(p.Full), Some: data(p.Some)}
}

func toNetwork(s runtime.SandboxStats) *criv1.NetworkUsage {
	if len(s.Interfaces) == 0 {
		return nil
	}
	out := &criv1.NetworkUsage{Timestamp: nanos(s.Time)}
	for i, n := range s.Interfaces {
		usage := &criv1.NetworkInterfaceUsage{
			Name:     n.Name,
			RxBytes:  count(n.RxBytes),
			RxErrors: count(n.RxErrors),
			TxBytes:  count(n.TxBytes),
			TxErrors: count(n.TxErrors),
		}
		if i == 0 {
			out.DefaultInterface = usage
			continue
		}
		out.Interfaces = append(out.Interfaces, usage)
	}
	return out
}

func count(n uint64) *criv1.UInt64Value { return &criv1.UInt64Value{Value: n} }

// left is what remains of a limit; use can be above it for a moment.
func left(limit, used uint64) uint64 {
	if used > limit {
		return 0
	}
	return limit - used
}
