package stats

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// machine is a /proc and a tree of control groups of a small machine.
func machine(t *testing.T) (proc, groups string) {
	t.Helper()
	proc, groups = t.TempDir(), t.TempDir()
	for path, text := range map[string]string{
		"stat":                      "cpu  100 0 50 9999 7 3 2 5 40 0\ncpu0 1 2 3\nbtime 1700000000\n",
		"meminfo":                   "MemTotal:  8000 kB\nMemFree: 3000 kB\nInactive(file): 1000 kB\nAnonPages: 2000 kB\nSwapTotal: 400 kB\nSwapFree: 300 kB\n",
		"vmstat":                    "pgfault 4711\npgmajfault 11\n",
		"pressure/cpu":              "some avg10=1.50 avg60=0.20 avg300=0.03 total=12345\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
		"sys/kernel/pid_max":        "32768\n",
		"sys/kernel/threads-max":    "9999\n",
		"sys/kernel/random/boot_id": "b-o-o-t\n",
		"loadavg":                   "0.1 0.2 0.3 2/345 6789\n",
		"net/dev":                   "Inter-| Receive\n face |bytes\n    lo: 1 0 0 0 0 0 0 0 1 0 0 0 0 0 0 0\n  eth1: 10 0 2 0 0 0 0 0 30 0 4 0 0 0 0 0\nvethab: 1 0 0 0 0 0 0 0 1 0 0 0 0 0 0 0\n",
		"net/route":                 "Iface Destination Gateway Flags RefCnt Use Metric Mask\neth1 00000000 0101A8C0 0003 0 0 0 00000000\n",
		"cpuinfo":                   "processor : 0\nphysical id : 0\ncore id : 0\n\nprocessor : 1\nphysical id : 0\ncore id : 0\n",
	} {
		write(t, filepath.Join(proc, path), text)
	}
	for path, text := range map[string]string{
		"cpuacct/kubepods/cpuacct.usage":        "5000000000\n",
		"memory/kubepods/memory.usage_in_bytes": "1000\n",
		"memory/kubepods/memory.limit_in_bytes": "9000\n",
		"memory/kubepods/memory.stat":           "total_inactive_file 400\ntotal_rss 500\ntotal_pgfault 6\ntotal_pgmajfault 1\n",
	} {
		write(t, filepath.Join(groups, path), text)
	}
	return proc, groups
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// fakeRuntime has one pod that runs, with one container, and one that has ended.
type fakeRuntime struct {
	err   error
	disk  string
	usage uint64
}

func (f *fakeRuntime) ListPodSandbox(context.Context, *criv1.ListPodSandboxRequest, ...grpc.CallOption) (*criv1.ListPodSandboxResponse, error) {
	return &criv1.ListPodSandboxResponse{Items: []*criv1.PodSandbox{
		{Id: "s1", CreatedAt: 1e18, Metadata: &criv1.PodSandboxMetadata{Name: "web", Namespace: "default", Uid: "uid-1"}},
	}}, f.err
}

func (f *fakeRuntime) ListContainers(context.Context, *criv1.ListContainersRequest, ...grpc.CallOption) (*criv1.ListContainersResponse, error) {
	return &criv1.ListContainersResponse{Containers: []*criv1.Container{{Id: "c1", CreatedAt: 1e18 + 5e8, Metadata: &criv1.ContainerMetadata{Name: "app"}}}}, f.err
}

func is(n uint64) *criv1.UInt64Value { return &criv1.UInt64Value{Value: n} }

func (f *fakeRuntime) ListPodSandboxStats(context.Context, *criv1.ListPodSandboxStatsRequest, ...grpc.CallOption) (*criv1.ListPodSandboxStatsResponse, error) {
	f.usage += 3e9
	when := int64(1e18 + f.usage)
	return &criv1.ListPodSandboxStatsResponse{Stats: []*criv1.PodSandboxStats{
		{Attributes: &criv1.PodSandboxAttributes{Id: "gone"}, Linux: &criv1.LinuxPodSandboxStats{}},
		{Attributes: &criv1.PodSandboxAttributes{Id: "s1"}, Linux: &criv1.LinuxPodSandboxStats{
			Cpu:     &criv1.CpuUsage{Timestamp: when, UsageCoreNanoSeconds: is(f.usage)},
			Memory:  &criv1.MemoryUsage{Timestamp: when, WorkingSetBytes: is(100), UsageBytes: is(200)},
			Network: &criv1.NetworkUsage{Timestamp: when, DefaultInterface: &criv1.NetworkInterfaceUsage{Name: "eth0", RxBytes: is(7)}},
			Process: &criv1.ProcessUsage{ProcessCount: is(3)},
			Containers: []*criv1.ContainerStats{
				{Attributes: &criv1.ContainerAttributes{Id: "gone"}},
				{
					Attributes:    &criv1.ContainerAttributes{Id: "c1"},
					Cpu:           &criv1.CpuUsage{Timestamp: when, UsageCoreNanoSeconds: is(f.usage / 2), UsageNanoCores: is(77)},
					Memory:        &criv1.MemoryUsage{Timestamp: when, WorkingSetBytes: is(90), AvailableBytes: is(10), RssBytes: is(50), PageFaults: is(2), MajorPageFaults: is(1)},
					Swap:          &criv1.SwapUsage{Timestamp: when, SwapUsageBytes: is(5), SwapAvailableBytes: is(6)},
					WritableLayer: &criv1.FilesystemUsage{Timestamp: when, FsId: &criv1.FilesystemIdentifier{Mountpoint: f.disk}, UsedBytes: is(4096), InodesUsed: is(2)},
				},
			},
		}},
	}}, f.err
}

func (f *fakeRuntime) ListMetricDescriptors(context.Context, *criv1.ListMetricDescriptorsRequest, ...grpc.CallOption) (*criv1.ListMetricDescriptorsResponse, error) {
	return &criv1.ListMetricDescriptorsResponse{Descriptors: []*criv1.MetricDescriptor{{Name: "container_cpu_usage_seconds_total", Help: "cpu", LabelKeys: []string{"pod", "container", "cpu"}}}}, f.err
}

func (f *fakeRuntime) ListPodSandboxMetrics(context.Context, *criv1.ListPodSandboxMetricsRequest, ...grpc.CallOption) (*criv1.ListPodSandboxMetricsResponse, error) {
	m := func(name string, values ...string) *criv1.Metric {
		return &criv1.Metric{Name: name, MetricType: criv1.MetricType_COUNTER, LabelValues: values, Value: is(8)}
	}
	return &criv1.ListPodSandboxMetricsResponse{PodMetrics: []*criv1.PodSandboxMetrics{{
		Metrics:          []*criv1.Metric{m("container_cpu_usage_seconds_total", "web", "", "total"), m("unknown")},
		ContainerMetrics: []*criv1.ContainerMetrics{{Metrics: []*criv1.Metric{m("container_cpu_usage_seconds_total", "web", "app", "total"), m("container_cpu_usage_seconds_total", "too few")}}},
	}}}, f.err
}

func (f *fakeRuntime) ImageFsInfo(context.Context, *criv1.ImageFsInfoRequest, ...grpc.CallOption) (*criv1.ImageFsInfoResponse, error) {
	return &criv1.ImageFsInfoResponse{ImageFilesystems: []*criv1.FilesystemUsage{{FsId: &criv1.FilesystemIdentifier{Mountpoint: f.disk}, UsedBytes: is(1234)}}}, f.err
}

func collector(t *testing.T, runtime *fakeRuntime) *Collector {
	t.Helper()
	proc, groups := machine(t)
	runtime.disk = t.TempDir()
	root, logs := t.TempDir(), t.TempDir()
	write(t, filepath.Join(logs, "default_web_uid-1/app/0.log"), strings.Repeat("x", 10000))
	write(t, filepath.Join(root, "scratch/file"), strings.Repeat("x", 5000))
	if err := os.Link(filepath.Join(root, "scratch/file"), filepath.Join(root, "scratch/link")); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "uid-1"}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{
		{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}},
		{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}},
	}}}
	return New(Options{
		NodeName: "node-1", RootDir: root, LogDir: logs, PodsCgroup: "/kubepods", Runtime: runtime, Images: runtime, Proc: proc, Cgroups: groups,
		Pod:        func(uid string) (*corev1.Pod, bool) { return pod, uid == "uid-1" },
		VolumePath: func(*corev1.Pod, *corev1.Volume) string { return filepath.Join(root, "scratch") },
		Pods:       func() []*corev1.Pod { return []*corev1.Pod{pod, pod} },
		Log:        slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
}

func TestSummary(t *testing.T) {
	c := collector(t, &fakeRuntime{})
	if _, err := c.Summary(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	s, err := c.Summary(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	for _, check := range []struct {
		what      string
		got, want any
	}{
		{"node cpu", *s.Node.CPU.UsageCoreNanoSeconds, uint64(160 * 1e7)}, // 100+50+3+2+5 ticks
		{"node cpu pressure", s.Node.CPU.PSI.Some, statsv1alpha1.PSIData{Total: 12345000, Avg10: 1.5, Avg60: 0.2, Avg300: 0.03}},
		{"node memory", []uint64{*s.Node.Memory.UsageBytes, *s.Node.Memory.WorkingSetBytes, *s.Node.Memory.AvailableBytes, *s.Node.Memory.RSSBytes}, []uint64{5000 << 10, 4000 << 10, 4000 << 10, 2000 << 10}},
		{"node faults", []uint64{*s.Node.Memory.PageFaults, *s.Node.Memory.MajorPageFaults}, []uint64{4711, 11}},
		{"node swap", []uint64{*s.Node.Swap.SwapUsageBytes, *s.Node.Swap.SwapAvailableBytes}, []uint64{100 << 10, 300 << 10}},
		{"node start", s.Node.StartTime.Unix(), int64(1700000000)},
		{"node processes", []int64{*s.Node.Rlimit.MaxPID, *s.Node.Rlimit.NumOfRunningProcesses}, []int64{9999, 345}},
		{"node network", []any{s.Node.Network.Name, *s.Node.Network.RxBytes, *s.Node.Network.RxErrors, *s.Node.Network.TxBytes, *s.Node.Network.TxErrors, len(s.Node.Network.Interfaces)}, []any{"eth1", uint64(10), uint64(2), uint64(30), uint64(4), 1}},
		{"images", *s.Node.Runtime.ImageFs.UsedBytes, uint64(1234)},
		{"system", s.Node.SystemContainers[len(s.Node.SystemContainers)-1].Name, "pods"},
		{"pods' memory", *s.Node.SystemContainers[len(s.Node.SystemContainers)-1].Memory.AvailableBytes, uint64(8400)},
		{"pods", len(s.Pods), 1},
		{"pod cpu", []uint64{*s.Pods[0].CPU.UsageCoreNanoSeconds, *s.Pods[0].CPU.UsageNanoCores}, []uint64{6e9, 1e9}},
		{"pod network", []any{s.Pods[0].Network.Name, len(s.Pods[0].Network.Interfaces)}, []any{"eth0", 1}},
		{"pod processes", *s.Pods[0].ProcessStats.ProcessCount, uint64(3)},
		{"container cpu", *s.Pods[0].Containers[0].CPU.UsageNanoCores, uint64(77)},
		{"logs", *s.Pods[0].Containers[0].Logs.InodesUsed, uint64(2)},
		{"volumes", len(s.Pods[0].VolumeStats), 2},
		{"emptyDir", []any{s.Pods[0].VolumeStats[0].Name, *s.Pods[0].VolumeStats[0].InodesUsed, *s.Pods[0].VolumeStats[0].UsedBytes < 20000}, []any{"scratch", uint64(2), true}},
		{"claim", s.Pods[0].VolumeStats[1].PVCRef, &statsv1alpha1.PVCReference{Name: "claim", Namespace: "default"}},
		{"ephemeral", *s.Pods[0].EphemeralStorage.InodesUsed, uint64(6)},
	} {
		if diff := cmp.Diff(check.want, check.got); diff != "" {
			t.Errorf("%s: %s", check.what, diff)
		}
	}
}

func TestOnlyCPUAndMemory(t *testing.T) {
	s, err := collector(t, &fakeRuntime{}).Summary(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	pod := s.Pods[0]
	if s.Node.Fs != nil || s.Node.Network != nil || pod.Network != nil || pod.VolumeStats != nil || pod.EphemeralStorage != nil || pod.Containers[0].Logs != nil {
		t.Errorf("more than was asked for: %+v", s)
	}
	if _, err := json.Marshal(s); err != nil {
		t.Error(err)
	}
}

func page(t *testing.T, from prometheus.Gatherer) (string, error) {
	t.Helper()
	families, problem := from.Gather()
	var out bytes.Buffer
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToText(&out, family); err != nil {
			t.Fatal(err)
		}
	}
	return out.String(), problem
}

func TestResourcePage(t *testing.T) {
	got, err := page(t, collector(t, &fakeRuntime{}).Resource())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# TYPE container_cpu_usage_seconds_total counter\n",
		`container_cpu_usage_seconds_total{container="app",namespace="default",pod="web"} 1.5 1000000003000` + "\n",
		`container_memory_working_set_bytes{container="app",namespace="default",pod="web"} 90 1000000003000` + "\n",
		`container_start_time_seconds{container="app",namespace="default",pod="web"} 1.0000000005e+09` + "\n",
		`container_swap_limit_bytes{container="app",namespace="default",pod="web"} 11 1000000003000` + "\n",
		`pod_cpu_usage_seconds_total{namespace="default",pod="web"} 3 1000000003000` + "\n",
		`pod_memory_working_set_bytes{namespace="default",pod="web"} 100 1000000003000` + "\n",
		"node_cpu_usage_seconds_total 1.6 ", "node_memory_working_set_bytes 4.096e+06 ", "node_swap_usage_bytes 102400 ",
		"\nresource_scrape_error 0\n", "\nscrape_error 0\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
}

func TestResourcePageOfARuntimeThatIsAway(t *testing.T) {
	got, err := page(t, collector(t, &fakeRuntime{err: errors.New("away")}).Resource())
	if err != nil || !strings.Contains(got, "\nresource_scrape_error 1\n") {
		t.Errorf("%v\n%s", err, got)
	}
}

func TestCadvisorPage(t *testing.T) {
	got, err := page(t, collector(t, &fakeRuntime{}).Cadvisor())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# HELP container_cpu_usage_seconds_total cpu\n# TYPE container_cpu_usage_seconds_total counter\n" +
			`container_cpu_usage_seconds_total{container="",cpu="total",pod="web"} 8` + "\n" + `container_cpu_usage_seconds_total{container="app",cpu="total",pod="web"} 8` + "\n",
		`machine_cpu_cores{boot_id="b-o-o-t",`, "machine_scrape_error 0\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
	if got, err := page(t, collector(t, &fakeRuntime{err: errors.New("away")}).Cadvisor()); err == nil || !strings.Contains(got, "machine_memory_bytes") {
		t.Errorf("with a runtime that is away: %v\n%s", err, got)
	}
}

func TestParseProcessors(t *testing.T) {
	for text, want := range map[string][3]int{
		"": {}, "processor : 0\nprocessor : 1\n": {2, 2, 1},
		"processor : 0\nphysical id : 0\ncore id : 0\nprocessor : 1\nphysical id : 1\ncore id : 0\n": {2, 2, 2},
	} {
		logical, physical, sockets := parseProcessors([]byte(text))
		if diff := cmp.Diff(want, [3]int{logical, physical, sockets}); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
}

func TestRates(t *testing.T) {
	r, start := newRates(), time.Unix(100, 0)
	if got := r.of("c1", start, 1000); got != nil {
		t.Errorf("one sample has a rate: %d", *got)
	}
	for _, step := range []struct {
		after time.Duration
		usage uint64
		want  *uint64
	}{{2 * time.Second, 3000, number(1000)}, {2*time.Second + time.Millisecond, 9000, number(1000)}, {4 * time.Second, 3000, number(0)}, {6 * time.Second, 1, nil}} {
		if diff := cmp.Diff(step.want, r.of("c1", start.Add(step.after), step.usage)); diff != "" {
			t.Errorf("after %v: %s", step.after, diff)
		}
	}
	r.of("/", start, 1)
	r.forget(func(string) bool { return false })
	if diff := cmp.Diff(map[string]sample{"/": {when: start, usage: 1}}, r.last, cmp.AllowUnexported(sample{}), cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}

func TestClaimsPage(t *testing.T) {
	got, err := page(t, collector(t, &fakeRuntime{}).Claims())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(got, `kubelet_volume_stats_capacity_bytes{namespace="default",persistentvolumeclaim="claim"} `) != 1 || strings.Count(got, "# TYPE") != 6 {
		t.Error(got)
	}
}

func TestPodsCgroupOnV2(t *testing.T) {
	c := collector(t, &fakeRuntime{})
	c.Cgroups = t.TempDir()
	for path, text := range map[string]string{
		"cgroup.controllers": "cpu memory\n", "kubepods/cpu.stat": "usage_usec 5000\nuser_usec 1\n", "kubepods/memory.current": "1000\n", "kubepods/memory.max": "max\n",
		"kubepods/memory.stat": "anon 500\ninactive_file 400\npgfault 6\npgmajfault 1\n", "kubepods/memory.swap.current": "7\n",
		"kubepods/cpu.pressure": "some avg10=1.00 avg60=0.00 avg300=0.00 total=2\n",
	} {
		write(t, filepath.Join(c.Cgroups, path), text)
	}
	s := c.controlGroup("pods", metav1.Now(), metav1.Now())
	if s == nil {
		t.Fatal("nothing")
	}
	got := []uint64{*s.CPU.UsageCoreNanoSeconds, *s.Memory.UsageBytes, *s.Memory.WorkingSetBytes, *s.Memory.RSSBytes, *s.Memory.PageFaults, *s.Swap.SwapUsageBytes, s.CPU.PSI.Some.Total}
	if diff := cmp.Diff([]uint64{5000000, 1000, 600, 500, 6, 7, 2000}, got); diff != "" || s.Memory.AvailableBytes != nil {
		t.Error(diff)
	}
}
