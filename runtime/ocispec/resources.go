package ocispec

import (
	"fmt"
	"maps"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimd/shimd/runtime/request"
)

// Resources translates the limits of a container or pod. What the request leaves at zero is not set. Device rules and the limit of
// processes are not among CRI's resources: Generate adds them. The notes say which limits this host cannot keep and were left out.
func Resources(res *request.Resources, host Host) (*specs.LinuxResources, []string, error) {
	out := &specs.LinuxResources{}
	if res == nil {
		return out, nil, nil
	}
	cpu, err := cpuLimits(res)
	if err != nil {
		return nil, nil, err
	}
	out.CPU = cpu
	memory, notes, err := memoryLimits(res, host)
	if err != nil {
		return nil, nil, err
	}
	out.Memory = memory
	pages, more, err := hugepageLimits(res, host)
	if err != nil {
		return nil, nil, err
	}
	out.HugepageLimits = pages
	if len(res.Unified) > 0 {
		if host.CgroupVersion != 2 {
			return nil, nil, unmet("linux.resources.unified: this host has cgroup v1")
		}
		out.Unified = maps.Clone(res.Unified)
	}
	return out, append(notes, more...), nil
}

func cpuLimits(res *request.Resources) (*specs.LinuxCPU, error) {
	if res.CPUPeriod < 0 || res.CPUShares < 0 {
		return nil, invalid("linux.resources: cpu_period %d and cpu_shares %d cannot be negative", res.CPUPeriod, res.CPUShares)
	}
	cpu := &specs.LinuxCPU{Cpus: res.CPUSetCPUs, Mems: res.CPUSetMems}
	if res.CPUPeriod != 0 {
		period := uint64(res.CPUPeriod)
		cpu.Period = &period
	}
	if quota := res.CPUQuota; quota != 0 {
		if quota < 0 {
			quota = -1
		}
		cpu.Quota = &quota
	}
	if res.CPUShares != 0 {
		shares := uint64(res.CPUShares)
		cpu.Shares = &shares
	}
	if *cpu == (specs.LinuxCPU{}) {
		return nil, nil
	}
	return cpu, nil
}

// memoryLimits: swap means memory plus swap, in CRI and here. A limit of memory alone leaves no swap, as in every other runtime:
// else the container would swap instead of meeting its limit.
func memoryLimits(res *request.Resources, host Host) (*specs.LinuxMemory, []string, error) {
	limit, swap := res.MemoryLimit, res.MemorySwapLimit
	if limit < -1 {
		return nil, nil, invalid("linux.resources.memory_limit_in_bytes: %d is negative", limit)
	}
	if swap > 0 && limit > swap {
		return nil, nil, invalid("linux.resources.memory_swap_limit_in_bytes: %d (memory plus swap) is below memory_limit_in_bytes %d", swap, limit)
	}
	if limit == 0 && swap == 0 {
		return nil, nil, nil
	}
	memory := &specs.LinuxMemory{}
	if limit != 0 {
		memory.Limit = &limit
	}
	if !host.SwapAccounting {
		if swap != 0 && swap != limit {
			return memory, []string{"memory_swap_limit_in_bytes was left out: this kernel does not account for swap"}, nil
		}
		return memory, nil, nil
	}
	if swap == 0 {
		swap = limit
	}
	memory.Swap = &swap
	return memory, nil, nil
}

// hugepageLimits keeps the sizes that the kernel has. The kubelet sends zero limits for sizes that a pod does not use, of which one may be unknown here.
func hugepageLimits(res *request.Resources, host Host) ([]specs.LinuxHugepageLimit, []string, error) {
	if !host.Hugetlb {
		// A note on zero limits would be a line for every container that the kubelet ever makes.
		if !slices.ContainsFunc(res.HugepageLimits, func(l request.HugepageLimit) bool { return l.Limit != 0 }) {
			return nil, nil, nil
		}
		return nil, []string{"hugepage_limits were left out: the hugetlb controller is missing"}, nil
	}
	var out []specs.LinuxHugepageLimit
	for _, l := range res.HugepageLimits {
		if !host.hasHugepages(l.PageSize) {
			if l.Limit == 0 {
				continue
			}
			return nil, nil, invalid("linux.resources.hugepage_limits: this kernel has no pages of %q, only %q", l.PageSize, host.HugepageSizes)
		}
		out = append(out, specs.LinuxHugepageLimit{Pagesize: l.PageSize, Limit: l.Limit})
	}
	return out, nil, nil
}

// PodResources are the limits of a pod's own cgroup: its containers' and its overhead. They matter only where the cgroup is the
// runtime's; with a cgroup parent the client limits that itself. Nothing outside these two fields counts (CVE-2023-6476).
func PodResources(sb request.Sandbox, host Host) (*specs.LinuxResources, []string, error) {
	if sb.Resources == nil {
		// Without the containers' share an overhead says nothing about the whole.
		return &specs.LinuxResources{}, nil, nil
	}
	sum := *sb.Resources
	if o := sb.Overhead; o != nil {
		sum.CPUShares = addLimit(sum.CPUShares, o.CPUShares)
		sum.MemoryLimit = addLimit(sum.MemoryLimit, o.MemoryLimit)
		sum.MemorySwapLimit = addLimit(sum.MemorySwapLimit, o.MemoryLimit)
		if sum.CPUPeriod == o.CPUPeriod || o.CPUPeriod == 0 {
			sum.CPUQuota = addLimit(sum.CPUQuota, o.CPUQuota)
		} else if sum.CPUQuota > 0 && o.CPUQuota > 0 && sum.CPUPeriod > 0 {
			sum.CPUQuota += o.CPUQuota * sum.CPUPeriod / o.CPUPeriod
		}
	}
	res, notes, err := Resources(&sum, host)
	if err != nil {
		return nil, nil, fmt.Errorf("linux.resources and linux.overhead of the sandbox: %w", err)
	}
	return res, notes, nil
}

// addLimit adds to a limit; none stays none.
func addLimit(limit, more int64) int64 {
	if limit <= 0 || more <= 0 {
		return limit
	}
	return limit + more
}

func (g *generator) resources() error {
	res, notes, err := Resources(g.in.Container.Resources, g.in.Host)
	if err != nil {
		return err
	}
	g.out.Notes = append(g.out.Notes, notes...)
	if g.in.PidsLimit > 0 {
		limit := g.in.PidsLimit
		res.Pids = &specs.LinuxPids{Limit: &limit}
	}
	g.spec.Linux.Resources = res
	return nil
}
