package cgroups

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// planV2 turns OCI resources to the writes for cgroup v2, without the devices. Only fields that are set give writes. Unified values come
// last: the OCI specification has them win over what the other fields say.
func planV2(res *specs.LinuxResources) ([]write, error) {
	var p plan
	if res == nil {
		return nil, nil
	}
	p.refuseUnsupported(res)
	p.checkNumbers(res)
	if err := checkUnified(res.Unified); err != nil {
		return nil, err
	}
	p.cpuV2(res.CPU)
	p.memoryV2(res.Memory)
	if res.Pids != nil && value(res.Pids.Limit) != 0 {
		p.set("pids", "pids.max", "pids.limit", orMax(*res.Pids.Limit))
	}
	for _, h := range res.HugepageLimits {
		file, field := "hugetlb."+h.Pagesize, "hugepageLimits["+h.Pagesize+"]"
		// A limit of none at all is what a kernel without such pages enforces anyway; the kubelet sends one for each size it knows.
		p.set("hugetlb", file+".max", field, number(h.Limit)).optional = h.Limit == 0
		p.set("hugetlb", file+".rsvd.max", field, number(h.Limit)).optional = true
	}
	for _, key := range slices.Sorted(maps.Keys(res.Unified)) {
		controller, _, _ := strings.Cut(key, ".")
		for line := range strings.Lines(res.Unified[key]) { // io.max takes one device a write
			p.set(controller, key, fmt.Sprintf("unified[%q]", key), strings.TrimSuffix(line, "\n")).later = true
		}
	}
	return p.writes, p.err
}

// cpuWeight is the cpu.weight for cpu.shares, by the conversion of runc 1.3.2 and crun 1.23 on: 1024 shares are weight 100. The older, linear one
// gave 39; Kubernetes 1.36 still has it for the cgroups of pods, which nothing of ours competes with: weights count among siblings. A test holds it
// to containerd/cgroups' for all values; that package is not linked, because it brings along all that loads eBPF programs.
func cpuWeight(shares uint64) uint64 {
	const fewest, most = 2, 262144 // shares, as the kernel bounds them
	switch {
	case shares <= fewest:
		return 1
	case shares >= most:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34))) // through (2, 1), (1024, 100) and (262144, 10000)
}

func (p *plan) cpuV2(c *specs.LinuxCPU) {
	if c == nil {
		return
	}
	if c.Idle != nil {
		p.set("cpu", "cpu.idle", "cpu.idle", number(*c.Idle))
	}
	if v := value(c.Shares); v != 0 && value(c.Idle) != 1 { // an idle group has no weight
		p.set("cpu", "cpu.weight", "cpu.shares", number(cpuWeight(v)))
	}
	quota, period := value(c.Quota), value(c.Period)
	if c.Burst != nil { // at most the quota, old or new
		p.set("cpu", "cpu.max.burst", "cpu.burst", number(*c.Burst)).later = true
	}
	switch {
	case quota != 0 && period != 0:
		p.set("cpu", "cpu.max", "cpu.quota", orMax(quota)+" "+number(period)).later = true
	case quota != 0: // the period stays
		p.set("cpu", "cpu.max", "cpu.quota", orMax(quota)).later = true
	case period != 0: // the quota stays
		w := p.set("cpu", "cpu.max", "cpu.period", number(period))
		w.keepFirst, w.later = true, true
	}
	if value(c.RealtimePeriod) != 0 || value(c.RealtimeRuntime) != 0 {
		p.refuse("cpu.realtimeRuntime", "cgroup v2 has no limit for realtime scheduling", errdefs.ErrInvalidArgument)
	}
	if c.Cpus != "" {
		p.set("cpuset", "cpuset.cpus", "cpu.cpus", c.Cpus)
	}
	if c.Mems != "" {
		p.set("cpuset", "cpuset.mems", "cpu.mems", c.Mems)
	}
}

func (p *plan) memoryV2(m *specs.LinuxMemory) {
	if m == nil {
		return
	}
	limit := value(m.Limit)
	if swap, asked, err := swapV2(m); err != nil {
		p.refuse("memory.swap", err.Error(), errdefs.ErrInvalidArgument)
	} else if asked {
		// Without swap in the kernel, none and no limit are both what it does.
		p.set("memory", "memory.swap.max", "memory.swap", orMax(swap)).optional = swap <= 0
	}
	if limit != 0 {
		p.set("memory", "memory.max", "memory.limit", orMax(limit))
	}
	if v := value(m.Reservation); v != 0 {
		p.set("memory", "memory.low", "memory.reservation", orMax(v))
	}
	if m.Swappiness != nil {
		p.refuse("memory.swappiness", "cgroup v2 has no swappiness of a cgroup", errdefs.ErrInvalidArgument)
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		p.refuse("memory.disableOOMKiller", "cgroup v2 cannot disable the OOM killer", errdefs.ErrInvalidArgument)
	}
}

// swapV2 is the limit of swap alone, from OCI's limit of memory and swap together; -1 is none. As runc has it: memory without a limit has
// swap without one, and unset leaves swap as it is.
func swapV2(m *specs.LinuxMemory) (swap int64, asked bool, err error) {
	limit, both := value(m.Limit), value(m.Swap)
	switch {
	case both == -1, both == 0 && limit == -1:
		return -1, true, nil
	case both == 0:
		return 0, false, nil
	case limit <= 0:
		return 0, false, fmt.Errorf("memory with swap is limited but memory is not")
	}
	return both - limit, true, nil
}
