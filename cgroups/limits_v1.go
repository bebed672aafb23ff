package cgroups

import (
	"fmt"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// planV1 turns OCI resources to the writes for cgroup v1, without the devices. Only fields that are set give writes.
func planV1(res *specs.LinuxResources) ([]write, error) {
	var p plan
	if res == nil {
		return nil, nil
	}
	p.refuseUnsupported(res)
	p.checkNumbers(res)
	for key := range res.Unified {
		p.refuse(fmt.Sprintf("unified[%q]", key), "this machine has cgroup v1, where there are no unified limits", errdefs.ErrInvalidArgument)
	}
	p.cpuV1(res.CPU)
	p.memoryV1(res.Memory)
	if res.Pids != nil && value(res.Pids.Limit) != 0 {
		p.set("pids", "pids.max", "pids.limit", orMax(*res.Pids.Limit))
	}
	for _, h := range res.HugepageLimits {
		file, field := "hugetlb."+h.Pagesize, "hugepageLimits["+h.Pagesize+"]"
		// A limit of none at all is what a kernel without such pages enforces anyway; the kubelet sends one for each size it knows.
		p.set("hugetlb", file+".limit_in_bytes", field, number(h.Limit)).optional = h.Limit == 0
		p.set("hugetlb", file+".rsvd.limit_in_bytes", field, number(h.Limit)).optional = true
	}
	return p.writes, p.err
}

func (p *plan) cpuV1(c *specs.LinuxCPU) {
	if c == nil {
		return
	}
	if v := value(c.Shares); v != 0 {
		p.set("cpu", "cpu.shares", "cpu.shares", number(v))
	}
	if c.Idle != nil {
		p.set("cpu", "cpu.idle", "cpu.idle", number(*c.Idle))
	}
	// A child's quota:period may not exceed its parent's at any time, so a smaller period may have to wait for the smaller quota.
	if v := value(c.Period); v != 0 {
		p.set("cpu", "cpu.cfs_period_us", "cpu.period", number(v)).later = true
	}
	if c.Burst != nil { // at most the quota, old or new
		p.set("cpu", "cpu.cfs_burst_us", "cpu.burst", number(*c.Burst)).later = true
	}
	if v := value(c.Quota); v != 0 {
		p.set("cpu", "cpu.cfs_quota_us", "cpu.quota", number(v)).later = true
	}
	if v := value(c.RealtimePeriod); v != 0 {
		p.set("cpu", "cpu.rt_period_us", "cpu.realtimePeriod", number(v)).later = true
	}
	if v := value(c.RealtimeRuntime); v != 0 {
		p.set("cpu", "cpu.rt_runtime_us", "cpu.realtimeRuntime", number(v))
	}
	if c.Cpus != "" {
		p.set("cpuset", "cpuset.cpus", "cpu.cpus", c.Cpus)
	}
	if c.Mems != "" {
		p.set("cpuset", "cpuset.mems", "cpu.mems", c.Mems)
	}
}

func (p *plan) memoryV1(m *specs.LinuxMemory) {
	if m == nil {
		return
	}
	const limitFile, swapFile = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
	limit, swap := value(m.Limit), value(m.Swap)
	// memory ≤ memory+swap must hold at any time: growing, the second has to be written first. Memory without a limit has swap without one.
	if limit == -1 && swap == 0 {
		p.set("memory", swapFile, "memory.swap", "-1").optional = true
	}
	if limit != 0 {
		p.set("memory", limitFile, "memory.limit", number(limit)).later = true
	}
	if swap != 0 {
		// Without swap accounting nothing can be swapped by this group beyond what all can: no limit, or one equal to the memory's, asks
		// for nothing.
		p.set("memory", swapFile, "memory.swap", number(swap)).optional = swap == -1 || swap == limit
	}
	if v := value(m.Reservation); v != 0 {
		p.set("memory", "memory.soft_limit_in_bytes", "memory.reservation", number(v))
	}
	if m.Swappiness != nil {
		p.set("memory", "memory.swappiness", "memory.swappiness", number(*m.Swappiness))
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		p.set("memory", "memory.oom_control", "memory.disableOOMKiller", "1")
	}
}
