package translate

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cgroups"
	"github.com/shimd/shimd/image"
	"github.com/shimd/shimd/runtime"
)

func TestContainerStatusAnswersWhatWasAsked(t *testing.T) {
	req := kubeletContainer()
	cfg, err := Container(req)
	if err != nil {
		t.Fatal(err)
	}
	got := ToContainerStatus(runtime.ContainerStatus{
		ID: "ct", Sandbox: "sb", Config: cfg, State: runtime.ContainerExited, CreatedAt: time.Unix(1, 0), StartedAt: time.Unix(2, 0), FinishedAt: time.Unix(3, 0),
		ExitCode: 137, Reason: "OOMKilled", Message: "m", ImageID: "sha256:1", ImageRef: "nginx@sha256:9", LogPath: "/var/log/x", Resources: cfg.Resources,
		User: &runtime.ContainerUser{UID: 1, GID: 2, Groups: []int64{2, 3}}, StopSignal: "SIGRTMIN+3",
	})
	mounts := req.GetConfig().GetMounts()
	mounts[2].Readonly = true // images always are
	want := &criv1.ContainerStatus{
		Id: "ct", Metadata: req.GetConfig().GetMetadata(), State: criv1.ContainerState_CONTAINER_EXITED, CreatedAt: 1e9, StartedAt: 2e9, FinishedAt: 3e9,
		ExitCode: 137, Reason: "OOMKilled", Message: "m", ImageId: "sha256:1", ImageRef: "nginx@sha256:9", LogPath: "/var/log/x",
		Image:  &criv1.ImageSpec{Image: "nginx:1", UserSpecifiedImage: "nginx:1", ImageRef: "r", RuntimeHandler: "runc", Annotations: map[string]string{"i": "j"}},
		Labels: req.GetConfig().GetLabels(), Annotations: req.GetConfig().GetAnnotations(), Mounts: mounts,
		Resources:  &criv1.ContainerResources{Linux: req.GetConfig().GetLinux().GetResources()},
		User:       &criv1.ContainerUser{Linux: &criv1.LinuxContainerUser{Uid: 1, Gid: 2, SupplementalGroups: []int64{2, 3}}},
		StopSignal: criv1.Signal_SIGNAL_SIGRTMINPLUS3,
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if got := ToContainerStatus(runtime.ContainerStatus{}); got.GetStartedAt() != 0 || got.GetFinishedAt() != 0 || got.GetState() != criv1.ContainerState_CONTAINER_UNKNOWN {
		t.Errorf("an empty status is %v", got)
	}
}

func TestSandboxStatusAnswersWhatWasAsked(t *testing.T) {
	req := kubeletSandbox()
	cfg, err := Sandbox(req)
	if err != nil {
		t.Fatal(err)
	}
	status := runtime.SandboxStatus{ID: "sb", Config: cfg, State: runtime.SandboxReady, CreatedAt: time.Unix(1, 0), IPs: []string{"10.0.0.2", "fd00::2"}}
	want := &criv1.PodSandboxStatus{
		Id: "sb", Metadata: req.GetConfig().GetMetadata(), State: criv1.PodSandboxState_SANDBOX_READY, CreatedAt: 1e9,
		Network: &criv1.PodSandboxNetworkStatus{Ip: "10.0.0.2", AdditionalIps: []*criv1.PodIP{{Ip: "fd00::2"}}},
		Linux:   &criv1.LinuxPodSandboxStatus{Namespaces: &criv1.Namespace{Options: req.GetConfig().GetLinux().GetSecurityContext().GetNamespaceOptions()}},
		Labels:  req.GetConfig().GetLabels(), Annotations: req.GetConfig().GetAnnotations(), RuntimeHandler: "runc",
	}
	if diff := cmp.Diff(want, ToSandboxStatus(status), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	item := &criv1.PodSandbox{Id: "sb", Metadata: want.Metadata, CreatedAt: 1e9, Labels: want.Labels, Annotations: want.Annotations, RuntimeHandler: "runc"}
	if diff := cmp.Diff(item, ToSandbox(status), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestEverySignalHasANameAndComesBack(t *testing.T) {
	for n := range criv1.Signal_name {
		c := &check{}
		name := c.signal("f", criv1.Signal(n))
		if c.err() != nil {
			t.Errorf("%d: %v", n, c.err())
		}
		if n != 0 && toSignal(name) != criv1.Signal(n) {
			t.Errorf("%d is %q, which is %v", n, name, toSignal(name))
		}
	}
	for name, want := range map[string]criv1.Signal{
		"": 0, "NONSENSE": 0, "0": 0, "99": 0, "-1": 0, "15": criv1.Signal_SIGNAL_SIGTERM, "9": criv1.Signal_SIGNAL_SIGKILL, "sigint": criv1.Signal_SIGNAL_SIGINT,
		"QUIT": criv1.Signal_SIGNAL_SIGQUIT, "34": criv1.Signal_SIGNAL_SIGRTMIN, "37": criv1.Signal_SIGNAL_SIGRTMINPLUS3, "49": criv1.Signal_SIGNAL_SIGRTMINPLUS15,
		"50": criv1.Signal_SIGNAL_SIGRTMAXMINUS14, "64": criv1.Signal_SIGNAL_SIGRTMAX, "31": criv1.Signal_SIGNAL_SIGSYS, "RUNTIME_DEFAULT": 0,
	} {
		if got := toSignal(name); got != want {
			t.Errorf("toSignal(%q) = %v, want %v", name, got, want)
		}
	}
}

// An odd USER must not pass for a uid: the kubelet would take 0, or a number cut to 32 bits, for what the image runs as.
func TestCVE_2024_40635_CVE_2026_46680_ImageUser(t *testing.T) {
	for user, want := range map[string]struct {
		uid  int64 // -1: none
		name string
	}{
		"": {-1, ""}, "0": {0, ""}, "1000": {1000, ""}, "1000:2000": {1000, ""}, "1000:www": {1000, ""}, "www": {-1, "www"}, "www:www": {-1, "www"}, ":5": {-1, ""},
		"4294967296": {-1, "4294967296"}, "4294967295": {-1, "4294967295"}, "-1": {-1, "-1"}, "+5": {-1, "+5"}, "1e3": {-1, "1e3"}, "0x0": {-1, "0x0"}, " 0": {-1, " 0"},
		"99999999999999999999": {-1, "99999999999999999999"},
	} {
		got := ToImage(image.Image{Config: image.Config{User: user}})
		if want.uid < 0 && got.GetUid() != nil || want.uid >= 0 && (got.GetUid() == nil || got.GetUid().GetValue() != want.uid) || got.GetUsername() != want.name {
			t.Errorf("USER %q is uid %v, name %q", user, got.GetUid(), got.GetUsername())
		}
	}
}

func TestFilters(t *testing.T) {
	sb := runtime.SandboxStatus{ID: "abc", State: runtime.SandboxNotReady}
	sb.Config.Labels = map[string]string{"a": "1", "b": ""}
	state := func(s criv1.PodSandboxState) *criv1.PodSandboxStateValue {
		return &criv1.PodSandboxStateValue{State: s}
	}
	for _, c := range []struct {
		f    *criv1.PodSandboxFilter
		want bool
	}{
		{nil, true}, {&criv1.PodSandboxFilter{}, true}, {&criv1.PodSandboxFilter{Id: "ab"}, true}, {&criv1.PodSandboxFilter{Id: "b"}, false}, {&criv1.PodSandboxFilter{Id: "abcd"}, false},
		{&criv1.PodSandboxFilter{State: state(criv1.PodSandboxState_SANDBOX_NOTREADY)}, true}, {&criv1.PodSandboxFilter{State: state(criv1.PodSandboxState_SANDBOX_READY)}, false},
		{&criv1.PodSandboxFilter{LabelSelector: map[string]string{"a": "1", "b": ""}}, true}, {&criv1.PodSandboxFilter{LabelSelector: map[string]string{"a": "2"}}, false},
		{&criv1.PodSandboxFilter{LabelSelector: map[string]string{"c": ""}}, false},
	} {
		if got := KeepSandbox(c.f, sb); got != c.want {
			t.Errorf("%v: %t", c.f, got)
		}
	}
	ct := runtime.ContainerStatus{ID: "c1", Sandbox: "abc", State: runtime.ContainerRunning}
	ct.Config.Labels = sb.Config.Labels
	cstate := func(s criv1.ContainerState) *criv1.ContainerStateValue { return &criv1.ContainerStateValue{State: s} }
	for _, c := range []struct {
		f    *criv1.ContainerFilter
		want bool
	}{
		{nil, true}, {&criv1.ContainerFilter{Id: "c"}, true}, {&criv1.ContainerFilter{Id: "d"}, false}, {&criv1.ContainerFilter{PodSandboxId: "abc"}, true},
		{&criv1.ContainerFilter{PodSandboxId: "x"}, false}, {&criv1.ContainerFilter{State: cstate(criv1.ContainerState_CONTAINER_RUNNING)}, true},
		{&criv1.ContainerFilter{State: cstate(criv1.ContainerState_CONTAINER_CREATED)}, false}, {&criv1.ContainerFilter{LabelSelector: map[string]string{"a": "2"}}, false},
	} {
		if got := KeepContainer(c.f, ct); got != c.want {
			t.Errorf("%v: %t", c.f, got)
		}
	}
	if !KeepContainerStats(&criv1.ContainerStatsFilter{Id: "c", PodSandboxId: "a"}, ct) || KeepContainerStats(&criv1.ContainerStatsFilter{PodSandboxId: "b"}, ct) ||
		!KeepSandboxStats(nil, sb) || KeepSandboxStats(&criv1.PodSandboxStatsFilter{Id: "b"}, sb) {
		t.Error("filters of statistics")
	}
}

func TestStats(t *testing.T) {
	psi := &cgroups.PSI{Some: cgroups.PSIData{Avg10: 1.5, TotalMicros: 7}, Full: cgroups.PSIData{Avg300: 2}}
	cg := &cgroups.Stats{Time: time.Unix(9, 0), CPU: cgroups.CPUStats{UsageNanos: 5, PSI: psi}, Memory: cgroups.MemoryStats{WorkingSet: 20, Limit: 10, PSI: psi},
		Swap: &cgroups.SwapStats{Usage: 4, Limit: 10}, IO: &cgroups.IOStats{PSI: psi}}
	rate := func(string, time.Time, uint64) *uint64 { n := uint64(77); return &n }
	got := ToContainerStats(runtime.ContainerStats{Status: runtime.ContainerStatus{ID: "c"}, Cgroup: cg, WritableLayer: runtime.FsUsage{Timestamp: time.Unix(8, 0), Mountpoint: "/s", UsedBytes: 3}}, rate)
	crPSI := &criv1.PsiStats{Some: &criv1.PsiData{Avg10: 1.5, Total: 7000}, Full: &criv1.PsiData{Avg300: 2}}
	zero := &criv1.UInt64Value{}
	n := func(v uint64) *criv1.UInt64Value { return &criv1.UInt64Value{Value: v} }
	want := &criv1.ContainerStats{
		Attributes:    &criv1.ContainerAttributes{Id: "c", Metadata: &criv1.ContainerMetadata{}},
		Cpu:           &criv1.CpuUsage{Timestamp: 9e9, UsageCoreNanoSeconds: n(5), UsageNanoCores: n(77), Psi: crPSI},
		Memory:        &criv1.MemoryUsage{Timestamp: 9e9, WorkingSetBytes: n(20), AvailableBytes: zero, UsageBytes: zero, RssBytes: zero, PageFaults: zero, MajorPageFaults: zero, Psi: crPSI},
		Swap:          &criv1.SwapUsage{Timestamp: 9e9, SwapUsageBytes: n(4), SwapAvailableBytes: n(6)},
		Io:            &criv1.IoUsage{Timestamp: 9e9, Psi: crPSI},
		WritableLayer: &criv1.FilesystemUsage{Timestamp: 8e9, FsId: &criv1.FilesystemIdentifier{Mountpoint: "/s"}, UsedBytes: n(3), InodesUsed: zero},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if got := ToContainerStats(runtime.ContainerStats{}, rate); got.GetCpu() != nil || got.GetMemory() != nil {
		t.Errorf("a container that does not run has %v", got)
	}
}

func TestCalls(t *testing.T) {
	grace, err := StopContainer(&criv1.StopContainerRequest{ContainerId: "c", Timeout: math.MaxInt64})
	if err != nil || grace < 0 {
		t.Errorf("the longest grace period is %v, %v", grace, err)
	}
	_, err = StopContainer(&criv1.StopContainerRequest{ContainerId: "c", Timeout: -1})
	wantRefusal(t, err, "timeout")
	_, err = ExecSync(&criv1.ExecSyncRequest{ContainerId: "c", Cmd: []string{"a"}, Timeout: -1})
	wantRefusal(t, err, "timeout")
	_, err = ExecSync(&criv1.ExecSyncRequest{ContainerId: "c"})
	wantRefusal(t, err, "cmd")
	_, err = ExecSync(&criv1.ExecSyncRequest{ContainerId: "c", Cmd: []string{"a", "\x00"}})
	wantRefusal(t, err, "cmd[1]")
	wantRefusal(t, Exec(&criv1.ExecRequest{ContainerId: "c", Cmd: []string{"a"}}), "stdin, stdout, stderr")
	wantRefusal(t, Exec(&criv1.ExecRequest{ContainerId: "c", Cmd: []string{"a"}, Tty: true, Stdout: true, Stderr: true}), "stderr")
	wantRefusal(t, Exec(&criv1.ExecRequest{ContainerId: "c", Stdout: true}), "cmd")
	wantRefusal(t, Attach(&criv1.AttachRequest{ContainerId: "c"}), "stdin, stdout, stderr")
	wantRefusal(t, Attach(&criv1.AttachRequest{ContainerId: "c", Tty: true, Stderr: true}), "stderr")
	for _, port := range []int32{0, -1, 65536} {
		wantRefusal(t, PortForward(&criv1.PortForwardRequest{PodSandboxId: "s", Port: []int32{80, port}}), "port[1]")
	}
	if err := Exec(&criv1.ExecRequest{ContainerId: "c", Cmd: []string{"a"}, Tty: true, Stdin: true, Stdout: true}); err != nil {
		t.Error(err)
	}
}
