package cgroups

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// This is the contract that all managers fulfil: cgroup v1 and v2 by cgroupfs, v2 by systemd. A machine has only some of them;
// what it lacks is skipped with the reason.

const testParent = "shimd-test-contract"

func ptr[T any](v T) *T { return &v }

// each runs a test with every driver of this machine.
func each(t *testing.T, test func(t *testing.T, m *manager)) {
	for _, driver := range []Driver{Cgroupfs, Systemd} {
		t.Run(string(driver), func(t *testing.T) {
			if os.Geteuid() != 0 {
				t.Skip("making cgroups needs root")
			}
			m, err := New(t.Context(), Options{Driver: string(driver), Parent: testParent, Devices: filter})
			if errdefs.IsFailedPrecondition(err) {
				t.Skip("this machine has no such driver:", err)
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = m.Close() })
			test(t, m.(*manager))
		})
	}
}

// pod makes a pod's cgroup and one of a container in it.
func pod(t *testing.T, m *manager, podLimits, limits *specs.LinuxResources) (Path, Cgroup) {
	t.Helper()
	id := strings.ToLower(strings.NewReplacer("/", "", "_", "").Replace(t.Name()))
	parent, owned, err := m.PodParent("", id)
	if err != nil || !owned {
		t.Fatalf("PodParent = %q, %v, %v", parent, owned, err)
	}
	t.Cleanup(func() {
		if err := m.Remove(context.Background(), parent); err != nil {
			t.Error(err)
		}
		if m.tree.exists(parent) || m.tree.exists(parent.dir()) {
			t.Errorf("%s or the runtime's own top group is left", parent)
		}
	})
	p, err := m.Create(t.Context(), parent, podLimits)
	if err != nil {
		t.Fatal(err)
	}
	_ = p.Close()
	c, err := m.Create(t.Context(), m.ContainerPath(parent, "c1"), limits)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return parent, c
}

// run starts a process in the cgroup, in the way that containers start: born in it on v2, by its own hand on v1.
func run(t *testing.T, c Cgroup, script string) *exec.Cmd {
	t.Helper()
	e, err := c.Entry()
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	enter := ""
	cmd := exec.Command("/bin/sh")
	if e.Dir != nil {
		dir, err := os.Open(e.Dir.Name()) // os/exec wants one that is not O_PATH on some kernels
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	}
	for i, f := range e.Tasks {
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		enter += fmt.Sprintf("echo 0 > /proc/self/fd/%d || exit 99\n", 3+i)
	}
	ready, ours, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	cmd.Stdout, cmd.Stderr = ours, os.Stderr
	cmd.Args = []string{"sh", "-c", enter + "echo in\n" + script}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = ours.Close()
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	buf := make([]byte, 3)
	if n, err := ready.Read(buf); err != nil || string(buf[:n]) != "in\n" {
		t.Fatalf("the process did not enter: %q, %v", buf[:n], err)
	}
	return cmd
}

// at reads a file of a cgroup, of the controller's hierarchy on v1.
func at(t *testing.T, m *manager, path Path, v1, v2 string) string {
	t.Helper()
	file := v2
	dir := m.root + string(path)
	if m.Version() == 1 {
		file = v1
		controller, _, _ := strings.Cut(v1, ".")
		dir = m.tree.(*treeV1).place(path)(controller)
	}
	text, err := readFile(dir + "/" + file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(text)
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s = %q, want %q", what, got, want)
	}
}

func limits(memory, swap int64, shares uint64, quota int64, period uint64, pids int64) *specs.LinuxResources {
	return &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(memory), Swap: ptr(swap)},
		CPU:    &specs.LinuxCPU{Shares: ptr(shares), Quota: ptr(quota), Period: ptr(period)},
		Pids:   &specs.LinuxPids{Limit: ptr(pids)},
	}
}

func TestLimitsAreSetBeforeAnyProcessAndUpdatesMerge(t *testing.T) {
	each(t, func(t *testing.T, m *manager) {
		_, c := pod(t, m, nil, limits(64<<20, 64<<20, 512, 50_000, 100_000, 50))
		p := c.Path()
		check := func(memory, shares, weight, quota, period, pids string) {
			t.Helper()
			want(t, "memory", at(t, m, p, "memory.limit_in_bytes", "memory.max"), memory)
			want(t, "pids", at(t, m, p, "pids.max", "pids.max"), pids)
			if m.Version() == 1 {
				want(t, "shares", at(t, m, p, "cpu.shares", ""), shares)
				want(t, "quota", at(t, m, p, "cpu.cfs_quota_us", ""), quota)
				want(t, "period", at(t, m, p, "cpu.cfs_period_us", ""), period)
				return
			}
			want(t, "weight", at(t, m, p, "", "cpu.weight"), weight)
			want(t, "cpu.max", at(t, m, p, "", "cpu.max"), strings.Replace(quota, "-1", "max", 1)+" "+period)
		}
		check("67108864", "512", "59", "50000", "100000", "50")
		run(t, c, "exec sleep 1000")
		for _, step := range []struct {
			res                                         specs.LinuxResources
			memory, shares, weight, quota, period, pids string
		}{
			{specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(60))}}, "67108864", "512", "59", "50000", "100000", "60"},
			{*limits(128<<20, 128<<20, 1024, 0, 0, 0), "134217728", "1024", "100", "50000", "100000", "60"},
			{*limits(32<<20, 32<<20, 0, 0, 50_000, 0), "33554432", "1024", "100", "50000", "50000", "60"},
			{specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(20_000))}}, "33554432", "1024", "100", "20000", "50000", "60"},
			{specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(-1))}}, "33554432", "1024", "100", "-1", "50000", "60"},
			{specs.LinuxResources{}, "33554432", "1024", "100", "-1", "50000", "60"},
		} {
			if err := c.Update(t.Context(), &step.res); err != nil {
				t.Fatal(err)
			}
			check(step.memory, step.shares, step.weight, step.quota, step.period, step.pids)
		}
		if err := c.Update(t.Context(), nil); err != nil {
			t.Error("Update(nil):", err)
		}
	})
}

// A quota and a period that only fit the parent's together have to be written in the order that depends on which way they move.
func TestQuotaShrinksAndGrowsBelowAParentsQuota(t *testing.T) {
	each(t, func(t *testing.T, m *manager) {
		_, c := pod(t, m, &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(50_000)), Period: ptr(uint64(100_000))}}, nil)
		for _, cpu := range [][2]int64{{50_000, 100_000}, {5_000, 10_000}, {400_000, 800_000}, {1_000, 2_000}} {
			res := &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(cpu[0]), Period: ptr(uint64(cpu[1]))}}
			if err := c.Update(t.Context(), res); err != nil {
				t.Errorf("%v: %v", cpu, err)
			}
		}
	})
}

func TestSwap(t *testing.T) {
	each(t, func(t *testing.T, m *manager) {
		_, c := pod(t, m, nil, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(32 << 20)), Swap: ptr(int64(48 << 20))}})
		want(t, "swap", at(t, m, c.Path(), "memory.memsw.limit_in_bytes", "memory.swap.max"), map[int]string{1: "50331648", 2: "16777216"}[m.Version()])
		if err := c.Update(t.Context(), &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(64 << 20))}}); err != nil {
			t.Fatal(err)
		}
		want(t, "swap", at(t, m, c.Path(), "memory.memsw.limit_in_bytes", "memory.swap.max"), map[int]string{1: "67108864", 2: "0"}[m.Version()])
		if err := c.Update(t.Context(), &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(-1))}}); err != nil {
			t.Fatal(err)
		}
		want(t, "swap", at(t, m, c.Path(), "memory.memsw.limit_in_bytes", "memory.swap.max"), map[int]string{1: "9223372036854771712", 2: "max"}[m.Version()])
	})
}

func TestCpuset(t *testing.T) {
	each(t, func(t *testing.T, m *manager) {
		_, c := pod(t, m, nil, &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0", Mems: "0"}})
		want(t, "cpus", at(t, m, c.Path(), "cpuset.cpus", "cpuset.cpus"), "0")
		run(t, c, "exec sleep 1000")
		err := c.Update(t.Context(), &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4000"}})
		if m.Version() == 1 && (err == nil || !strings.Contains(err.Error(), "cpu.cpus")) {
			t.Errorf("a CPU that is not there: %v", err)
		}
		err = c.Update(t.Context(), &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0\n1"}})
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("a list with a line feed: %v", err)
		}
	})
}

func TestCreateIsIdempotentAndOpenFindsIt(t *testing.T) {
	each(t, func(t *testing.T, m *manager) {
		parent, c := pod(t, m, nil, limits(64<<20, 64<<20, 512, 50_000, 100_000, 50))
		run(t, c, "exec sleep 1000")
		again, err := m.Create(t.Context(), c.Path(), limits(64<<20, 64<<20, 512, 50_000, 100_000, 51))
		if err != nil {
			t.Fatal(err)
		}
		_ = again.Close()
		opened, err := m.Open(c.Path())
		if err != nil {
			t.Fatal(err)
		}
		defer opened.Close()
		if pids, err := opened.Procs(); err != nil || len(pids) != 1 {
			t.Errorf("Procs = %v, %v", pids, err)
		}
		want(t, "pids", at(t, m, c.Path(), "pids.max", "pids.max"), "51")
		ids, err := m.Leftovers()
		if err != nil || !slices.Contains(ids, unescapeUnit(strings.TrimSuffix(strings.TrimPrefix(parent.lastName(), testParent+"-"), sliceSuffix))) {
			t.Errorf("Leftovers = %v, %v; the pod is %s", ids, err, parent)
		}
		if _, err := m.Open(parent + "/nothing"); !errdefs.IsNotFound(err) {
			t.Errorf("Open of nothing: %v", err)
		}
	})
}

func TestRemoveKillsWhatForksAndWhatIsFrozenAndNested(t *testing.T) {
	each(t, func(t *testing.T, m *manager) {
		parent, c := pod(t, m, nil, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(40))}})
		run(t, c, "while :; do sleep 1000 & sleep 0.02; done 2>/dev/null")
		frozen, err := m.Create(t.Context(), m.ContainerPath(parent, "c2"), nil)
		if err != nil {
			t.Fatal(err)
		}
		run(t, frozen, "exec sleep 1000")
		if err := frozen.Freeze(true); err != nil {
			t.Fatal(err)
		}
		if m.Version() == 1 { // what a privileged container does
			if err := os.Mkdir(m.tree.(*treeV1).dirOf["memory"]+string(c.Path())+"/inner", 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if err := m.Remove(t.Context(), parent); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := m.Open(c.Path()); !errdefs.IsNotFound(err) {
			t.Errorf("Open after Remove: %v", err)
		}
		if _, err := c.Stats(); !errdefs.IsNotFound(err) {
			t.Errorf("Stats after Remove: %v", err)
		}
		if _, err := c.Entry(); !errdefs.IsNotFound(err) {
			t.Errorf("Entry after Remove: %v", err)
		}
		if err := c.Update(t.Context(), limits(64<<20, 64<<20, 0, 0, 0, 0)); !errdefs.IsNotFound(err) {
			t.Errorf("Update after Remove: %v", err)
		}
		if err := c.Kill(); err != nil {
			t.Errorf("Kill after Remove: %v", err)
		}
	})
}

func TestKillAndFreeze(t *testing.T) {
	each(t, func(t *testing.T, m *manager) {
		_, c := pod(t, m, nil, nil)
		cmd := run(t, c, "exec sleep 1000")
		for _, f := range []bool{true, true, false, true} {
			if err := c.Freeze(f); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Kill(); err != nil {
			t.Fatal(err)
		}
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Errorf("the process ended by %v, want SIGKILL", err)
		}
	})
}

func TestOOMKillsAreCounted(t *testing.T) {
	each(t, func(t *testing.T, m *manager) {
		_, c := pod(t, m, nil, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(16 << 20)), Swap: ptr(int64(16 << 20))}})
		if n, err := c.OOMKills(); n != 0 || err != nil {
			t.Fatalf("before: %d, %v", n, err)
		}
		// A variable that doubles until the kernel has had enough.
		cmd := run(t, c, "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done")
		_ = cmd.Wait()
		if n, err := c.OOMKills(); n == 0 || err != nil {
			t.Errorf("after: %d, %v", n, err)
		}
	})
}

func TestStats(t *testing.T) {
	each(t, func(t *testing.T, m *manager) {
		_, c := pod(t, m, nil, limits(256<<20, 256<<20, 512, 50_000, 100_000, 50))
		run(t, c, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exec sleep 1000")
		var s *Stats
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			var err error
			if s, err = c.Stats(); err != nil {
				t.Fatal(err)
			}
			if s.CPU.UsageNanos > 0 && s.Memory.Usage > 0 && s.Memory.RSS > 0 {
				break
			}
		}
		t.Logf("%+v", *s)
		if s.CPU.UsageNanos == 0 || s.Memory.Usage == 0 || s.Memory.RSS == 0 || s.Memory.WorkingSet == 0 || s.Memory.PageFaults == 0 {
			t.Errorf("counters that can't be zero: %+v", *s)
		}
		if s.Memory.Limit != 256<<20 || s.Processes == nil || *s.Processes != 1 || s.PidsLimit == nil || *s.PidsLimit != 50 {
			t.Errorf("limits: %+v, processes %v", s.Memory, s.Processes)
		}
		if s.Memory.ActiveFile+s.Memory.InactiveFile > s.Memory.Cache+s.Memory.Usage {
			t.Errorf("more files in memory than there is: %+v", s.Memory)
		}
		if s.Memory.WorkingSet > s.Memory.Usage {
			t.Error("the working set is larger than what is used")
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Stats(); err != nil {
			t.Errorf("Stats after Close: %v", err)
		}
	})
}

func TestDevices(t *testing.T) {
	each(t, func(t *testing.T, m *manager) {
		deny := specs.LinuxDeviceCgroup{Access: "rwm"}
		allow := func(minor int64, access string) specs.LinuxDeviceCgroup {
			return specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(1)), Minor: &minor, Access: access}
		}
		_, c := pod(t, m, nil, &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{deny, allow(3, "rwm"), allow(5, "r")}})
		try := func(what string) bool {
			t.Helper()
			return run(t, c, "exec 2>/dev/null; true "+what).Wait() == nil
		}
		check := func(read, write, both, null bool) {
			t.Helper()
			for what, ok := range map[string]bool{"</dev/zero": read, ">/dev/zero": write, "<>/dev/zero": both, "<>/dev/null": null} {
				if try(what) != ok {
					t.Errorf("opening %s: allowed is %v, want %v", what, !ok, ok)
				}
			}
		}
		// An access that is allowed for reading only must not be had for reading and writing (containerd/cgroups' filter lets it).
		check(true, false, false, true)
		for range 2 {
			if err := c.Update(t.Context(), &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{deny, allow(3, "rwm"), allow(5, "rw")}}); err != nil {
				t.Fatal(err)
			}
			check(true, true, true, true)
		}
		if err := c.Update(t.Context(), &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{deny, allow(3, "rwm")}}); err != nil {
			t.Fatal(err)
		}
		check(false, false, false, true)
		// Updates of other limits leave devices alone.
		if err := c.Update(t.Context(), limits(64<<20, 64<<20, 100, 0, 0, 100)); err != nil {
			t.Fatal(err)
		}
		check(false, false, false, true)
	})
}

func TestUnified(t *testing.T) {
	each(t, func(t *testing.T, m *manager) {
		unified := func(key, value string) *specs.LinuxResources {
			return &specs.LinuxResources{Unified: map[string]string{key: value}}
		}
		_, c := pod(t, m, nil, nil)
		for _, key := range []string{"../memory.max", "..", "/proc/sys/kernel/core_pattern", "memory.max/..", "cgroup.procs", "cgroup.kill", "cgroup.subtree_control", "", "memory", "memory.nosuchfile"} {
			if err := c.Update(t.Context(), unified(key, "1")); err == nil || !strings.Contains(err.Error(), "unified[") {
				t.Errorf("%q: %v", key, err)
			}
		}
		err := c.Update(t.Context(), unified("memory.oom.group", "1"))
		if m.Version() == 1 {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("unified on v1: %v", err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Update(t.Context(), limits(64<<20, 64<<20, 0, 0, 0, 0)); err != nil {
			t.Fatal(err)
		}
		want(t, "memory.oom.group after another update", at(t, m, c.Path(), "", "memory.oom.group"), "1")
		if err := c.Update(t.Context(), unified("memory.high", "50331648")); err != nil {
			t.Fatal(err)
		}
		if err := c.Update(t.Context(), unified("cpuset.cpus", "0")); err != nil {
			t.Fatal(err)
		}
		want(t, "cpuset.cpus", at(t, m, c.Path(), "", "cpuset.cpus"), "0")
		want(t, "memory.high", at(t, m, c.Path(), "", "memory.high"), "50331648")
	})
}

func TestHostilePaths(t *testing.T) {
	each(t, func(t *testing.T, m *manager) {
		for _, path := range []Path{"", "/", "//", "..", "/..", "/a/../..", "/a/../b", "/.", "/a\nb", "/a\x00b", Path("/" + strings.Repeat("x", 300))} {
			if _, err := m.Create(t.Context(), path, nil); !errdefs.IsInvalidArgument(err) {
				t.Errorf("Create(%q): %v", path, err)
			}
			if err := m.Remove(t.Context(), path); !errdefs.IsInvalidArgument(err) {
				t.Errorf("Remove(%q): %v", path, err)
			}
			if _, err := m.Open(path); !errdefs.IsInvalidArgument(err) {
				t.Errorf("Open(%q): %v", path, err)
			}
		}
	})
}

// Sandboxes come and go at the same time, so that the runtime's own top group is removed and made again all the while.
func TestSandboxesComeAndGoAtTheSameTime(t *testing.T) {
	each(t, func(t *testing.T, m *manager) {
		var workers sync.WaitGroup
		for w := range 4 {
			workers.Go(func() {
				for i := range 10 {
					path, _, err := m.PodParent("", fmt.Sprintf("churn%d%d", w, i))
					if err != nil {
						t.Error(err)
						return
					}
					if _, err := m.Create(t.Context(), path, nil); err != nil {
						t.Error(err)
					}
					if c, err := m.Create(t.Context(), m.ContainerPath(path, "c"), limits(64<<20, 64<<20, 512, 0, 0, 50)); err != nil {
						t.Error(err)
					} else {
						_ = c.Close()
					}
					if err := m.Remove(t.Context(), path); err != nil {
						t.Error(err)
					}
				}
			})
		}
		workers.Wait()
		if ids, err := m.Leftovers(); err != nil || len(ids) > 0 {
			t.Errorf("Leftovers = %v, %v", ids, err)
		}
	})
}
