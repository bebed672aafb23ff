package cgroups

import (
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func text(writes []write, err error) string {
	if err != nil {
		return "error: " + err.Error()
	}
	var lines []string
	for _, w := range writes {
		lines = append(lines, w.String())
	}
	return strings.Join(lines, "; ")
}

func TestPlans(t *testing.T) {
	memory := func(limit, swap *int64) *specs.LinuxResources {
		return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: limit, Swap: swap}}
	}
	i := func(v int64) *int64 { return &v }
	for _, c := range []struct {
		name    string
		res     *specs.LinuxResources
		v1, v2  string
		systemd string
	}{
		{"nothing", nil, "", "", ""},
		{"empty", &specs.LinuxResources{}, "", "", ""},
		{"zero is unset", limits(0, 0, 0, 0, 0, 0), "", "", ""},
		{
			"a container", limits(64<<20, 64<<20, 1024, 50_000, 100_000, 100),
			"cpu.shares = 1024; cpu.cfs_period_us = 100000 (or later); cpu.cfs_quota_us = 50000 (or later); memory.limit_in_bytes = 67108864 (or later); memory.memsw.limit_in_bytes = 67108864 (if there); pids.max = 100",
			"cpu.weight = 100; cpu.max = 50000 100000 (or later); memory.swap.max = 0 (if there); memory.max = 67108864; pids.max = 100",
			"CPUWeight=@t 100 CPUQuotaPerSecUSec=@t 500000 CPUQuotaPeriodUSec=@t 100000 MemoryMax=@t 67108864 MemorySwapMax=@t 0 TasksMax=@t 100",
		},
		{
			"no limits", limits(-1, -1, 2, -1, 0, -1),
			"cpu.shares = 2; cpu.cfs_quota_us = -1 (or later); memory.limit_in_bytes = -1 (or later); memory.memsw.limit_in_bytes = -1 (if there); pids.max = max",
			"cpu.weight = 1; cpu.max = max (or later); memory.swap.max = max (if there); memory.max = max; pids.max = max",
			"CPUWeight=@t 1 CPUQuotaPerSecUSec=@t 18446744073709551615 MemoryMax=@t 18446744073709551615 MemorySwapMax=@t 18446744073709551615 TasksMax=@t 18446744073709551615",
		},
		{
			"a period alone", &specs.LinuxResources{CPU: &specs.LinuxCPU{Period: ptr(uint64(50_000))}},
			"cpu.cfs_period_us = 50000 (or later)", "cpu.max = (same) 50000 (or later)", "CPUQuotaPeriodUSec=@t 50000",
		},
		{
			"memory without a limit takes swap along", memory(i(-1), nil),
			"memory.memsw.limit_in_bytes = -1 (if there); memory.limit_in_bytes = -1 (or later)",
			"memory.swap.max = max (if there); memory.max = max", "MemoryMax=@t 18446744073709551615 MemorySwapMax=@t 18446744073709551615",
		},
		{
			"swap", memory(i(100), i(300)), "memory.limit_in_bytes = 100 (or later); memory.memsw.limit_in_bytes = 300",
			"memory.swap.max = 200; memory.max = 100", "MemoryMax=@t 100 MemorySwapMax=@t 200",
		},
		{
			"cpuset", &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0-2,9", Mems: "0"}},
			"cpuset.cpus = 0-2,9; cpuset.mems = 0", "cpuset.cpus = 0-2,9; cpuset.mems = 0", "AllowedCPUs=[0x7, 0x2] AllowedMemoryNodes=[0x1]",
		},
		{
			"huge pages", &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}, {Pagesize: "1GB"}}},
			"hugetlb.2MB.limit_in_bytes = 4194304; hugetlb.2MB.rsvd.limit_in_bytes = 4194304 (if there); hugetlb.1GB.limit_in_bytes = 0 (if there); hugetlb.1GB.rsvd.limit_in_bytes = 0 (if there)",
			"hugetlb.2MB.max = 4194304; hugetlb.2MB.rsvd.max = 4194304 (if there); hugetlb.1GB.max = 0 (if there); hugetlb.1GB.rsvd.max = 0 (if there)", "",
		},
		{
			"unified", &specs.LinuxResources{Unified: map[string]string{"memory.oom.group": "1", "memory.high": "5", "io.max": "8:0 rbps=1\n8:16 rbps=2"}},
			"", "io.max = 8:0 rbps=1 (or later); io.max = 8:16 rbps=2 (or later); memory.high = 5 (or later); memory.oom.group = 1 (or later)", "MemoryHigh=@t 5",
		},
		{"swap less than memory", memory(i(300), i(100)), "error: memory.swap: memory with swap (100) is less than memory alone (300): invalid argument", "", ""},
		{"a page size that is a path", &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "../x"}}}, `error: hugepageLimits.pageSize: "../x" is not a size like 2MB: invalid argument`, "", ""},
		{"rdma", &specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"x": {}}}, "error: rdma: this limit is not supported: not implemented", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			v1 := text(planV1(c.res))
			if strings.HasPrefix(c.v1, "error") { // the same on both
				want(t, "v1", v1, c.v1)
				want(t, "v2", text(planV2(c.res)), c.v1)
				return
			}
			if c.res != nil && c.res.Unified != nil {
				if !strings.Contains(v1, "unified[") {
					t.Errorf("v1: %s", v1)
				}
			} else {
				want(t, "v1", v1, c.v1)
			}
			want(t, "v2", text(planV2(c.res)), c.v2)
			properties, err := limitProperties(c.res)
			if err != nil {
				t.Fatal(err)
			}
			var all []string
			for _, p := range properties {
				all = append(all, fmt.Sprintf("%s=%s", p.Name, strings.ReplaceAll(p.Value.String(), "@ay ", "")))
			}
			want(t, "systemd", strings.Join(all, " "), c.systemd)
		})
	}
}

func TestDevicePlansV1(t *testing.T) {
	res := []specs.LinuxDeviceCgroup{
		{Access: "rwm"},
		{Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(3)), Access: "rwm"},
		{Allow: true, Type: "a", Access: "m"}, // must not become "a", which opens all
	}
	want(t, "rules", text(planDevicesV1(res)), "devices.deny = a; devices.allow = c 1:3 rwm; devices.allow = b *:* m; devices.allow = c *:* m")
	want(t, "changes", text(planDeviceChanges("c 1:3 rm\nc 1:5 r\nb *:* rm\nc *:* m\n", res)), "devices.allow = c 1:3 w; devices.deny = b *:* r; devices.deny = c 1:5 r")
	for _, bad := range []specs.LinuxDeviceCgroup{{Type: "x"}, {Access: "rwx"}, {Major: ptr(int64(-7))}, {Access: "r\nw"}} {
		if _, err := parseDevices([]specs.LinuxDeviceCgroup{bad}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func TestCPUWeight(t *testing.T) {
	for shares := uint64(1); shares <= 262145; shares++ {
		if got, want := cpuWeight(shares), cgroup2.ConvertCPUSharesToCgroupV2Value(shares); got != want {
			t.Fatalf("%d shares: weight %d, want %d", shares, got, want)
		}
	}
}

func TestDeviceRulesNeedAFilter(t *testing.T) {
	tree := &treeV2{}
	if err := tree.check(&specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}}); !errdefs.IsFailedPrecondition(err) {
		t.Error("rules without a filter:", err)
	}
	if err := tree.check(&specs.LinuxResources{}); err != nil {
		t.Error("no rules:", err)
	}
}
