package eviction

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

const gib = 1 << 30

func number(n int64) *uint64 { u := uint64(n); return &u }

func pod(uid string, prio int32, request string) *corev1.Pod {
	p := &corev1.Pod{}
	p.UID, p.Name, p.Namespace, p.Spec.Priority = types.UID(uid), uid, "default", &prio
	p.Spec.Containers = []corev1.Container{{Name: "c"}}
	if request != "" {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(request), corev1.ResourceEphemeralStorage: resource.MustParse(request)}
	}
	return p
}

func TestThresholds(t *testing.T) {
	got, err := Thresholds(Settings{
		Hard:               map[string]string{"memory.available": "100Mi", "nodefs.available": "10%", "imagefs.available": "0%"},
		Soft:               map[string]string{"memory.available": "200Mi"},
		SoftGracePeriod:    map[string]string{"memory.available": "90s"},
		MinimumReclaim:     map[string]string{"nodefs.available": "500Mi"},
		EnforceAllocatable: true,
	})
	want := []Threshold{
		{Signal: MemoryAvailable, Below: Amount{Number: 100 << 20}},
		{Signal: MemoryAvailable, Below: Amount{Number: 200 << 20}, Grace: 90 * time.Second},
		{Signal: NodeFsAvailable, Below: Amount{Fraction: 0.1}, More: Amount{Number: 500 << 20}},
		{Signal: AllocatableMemory, Below: Amount{Number: 100 << 20}},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v %v", got, err)
	}
	for name, settings := range map[string]Settings{
		"signal":   {Hard: map[string]string{"memory.free": "1Mi"}},
		"amount":   {Hard: map[string]string{"memory.available": "lots"}},
		"negative": {Hard: map[string]string{"memory.available": "-1Mi"}},
		"nothing":  {Hard: map[string]string{"memory.available": "0"}},
		"percent":  {Hard: map[string]string{"memory.available": "101%"}},
		"no grace": {Soft: map[string]string{"memory.available": "1Mi"}},
		"no soft":  {SoftGracePeriod: map[string]string{"memory.available": "1s"}},
		"reclaim":  {Hard: map[string]string{"memory.available": "1Mi"}, MinimumReclaim: map[string]string{"memory.available": "NaN%"}},
	} {
		if _, err := Thresholds(settings); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestJudge(t *testing.T) {
	hard := Threshold{Signal: MemoryAvailable, Below: Amount{Number: 100}, More: Amount{Number: 50}}
	soft := Threshold{Signal: NodeFsAvailable, Below: Amount{Fraction: 0.5}, Grace: 30 * time.Second}
	thresholds := []Threshold{soft, hard}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var state State
	for _, step := range []struct {
		at           time.Duration
		memory, disk int64
		conditions   string
		act          []Threshold
	}{
		{0, 500, 60, "[]", nil},
		{10 * time.Second, 500, 40, "[DiskPressure]", nil}, // soft: not yet
		{20 * time.Second, 99, 40, "[DiskPressure MemoryPressure]", []Threshold{hard}},
		{30 * time.Second, 120, 60, "[DiskPressure MemoryPressure]", []Threshold{hard}}, // not enough was reclaimed
		{40 * time.Second, 150, 40, "[DiskPressure MemoryPressure]", nil},               // the soft one begins anew
		{70 * time.Second, 50, 40, "[DiskPressure MemoryPressure]", []Threshold{hard, soft}},
		{80 * time.Second, 500, 60, "[DiskPressure MemoryPressure]", nil}, // conditions stay for a while
		{130 * time.Second, 500, 60, "[]", nil},
	} {
		var j Judgement
		j, state = Judge(thresholds, state, Observations{MemoryAvailable: {step.memory, 1000}, NodeFsAvailable: {step.disk, 100}}, time.Minute, start.Add(step.at))
		if got := fmt.Sprint(j.Conditions); got != step.conditions || !slices.Equal(j.Act, step.act) {
			t.Errorf("after %s: %s %+v", step.at, got, j.Act)
		}
	}
	if j, _ := Judge(thresholds, State{}, Observations{}, 0, start); len(j.Act)+len(j.Conditions) > 0 {
		t.Errorf("what is not observed was acted on: %+v", j)
	}
	if j, _ := Judge(thresholds, State{}, Observations{MemoryAvailable: {1, 1000}}, 0, start); fmt.Sprint(j.Conditions) != "[MemoryPressure]" {
		t.Errorf("without a transition period: %+v", j)
	}
}

func podStats(uid string, memory, root, logs, volume, processes int64) statsv1alpha1.PodStats {
	return statsv1alpha1.PodStats{
		PodRef: statsv1alpha1.PodReference{UID: uid}, Memory: &statsv1alpha1.MemoryStats{WorkingSetBytes: number(memory)},
		ProcessStats: &statsv1alpha1.ProcessStats{ProcessCount: number(processes)},
		Containers: []statsv1alpha1.ContainerStats{{
			Name: "c", Memory: &statsv1alpha1.MemoryStats{WorkingSetBytes: number(memory)},
			Rootfs: &statsv1alpha1.FsStats{UsedBytes: number(root)}, Logs: &statsv1alpha1.FsStats{UsedBytes: number(logs)},
		}},
		VolumeStats:      []statsv1alpha1.VolumeStats{{Name: "v", FsStats: statsv1alpha1.FsStats{UsedBytes: number(volume), InodesUsed: number(volume)}}},
		EphemeralStorage: &statsv1alpha1.FsStats{UsedBytes: number(root + logs + volume)},
	}
}

func TestRank(t *testing.T) {
	pods := []*corev1.Pod{pod("modest", 0, "1Gi"), pod("greedy", 0, "1Gi"), pod("important", 10, ""), pod("unknown", 99, ""), pod("small", 0, "")}
	for _, p := range pods {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	}
	usage := NewUsage(&statsv1alpha1.Summary{Pods: []statsv1alpha1.PodStats{
		podStats("modest", gib/2, 10, 10, 10, 1), podStats("greedy", 3*gib, 3*gib, 0, 5, 5), podStats("important", 5*gib, 0, 7*gib, 0, 9), podStats("small", gib, 0, 0, 2*gib, 2),
	}})
	for _, test := range []struct {
		signal    Signal
		dedicated bool
		want      string
	}{
		{MemoryAvailable, false, "unknown greedy small important modest"},
		{AllocatableMemory, false, "unknown greedy small important modest"},
		{NodeFsAvailable, false, "unknown greedy small important modest"},
		{NodeFsAvailable, true, "unknown small important modest greedy"},
		{ImageFsAvailable, true, "unknown greedy small modest important"},
		{NodeFsInodesFree, false, "unknown small modest greedy important"},
		{PIDAvailable, false, "greedy small modest important unknown"},
	} {
		var got []string
		for _, p := range Rank(pods, usage, test.signal, test.dedicated) {
			got = append(got, p.Name)
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s, dedicated %t: %v, want %s", test.signal, test.dedicated, got, test.want)
		}
	}
}

func TestMessages(t *testing.T) {
	p := pod("greedy", 0, "64Mi")
	usage := NewUsage(&statsv1alpha1.Summary{Pods: []statsv1alpha1.PodStats{podStats("greedy", gib, gib, gib, 0, 0)}})
	seen := Observations{MemoryAvailable: {50 << 20, 4 * gib}, NodeFsInodesFree: {5, 1000}, NodeFsAvailable: {1 << 20, 10 * gib}}
	for signal, want := range map[Signal]string{
		MemoryAvailable: "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. " +
			"Container c was using 1Gi, request is 64Mi, has larger consumption of memory. ",
		NodeFsAvailable: "The node was low on resource: ephemeral-storage. Threshold quantity: 100Mi, available: 1Mi. " +
			"Container c was using 2Gi, request is 64Mi, has larger consumption of ephemeral-storage. ",
		NodeFsInodesFree: "The node was low on resource: inodes. Threshold quantity: 104857600, available: 5. ",
	} {
		if got := Message(Threshold{Signal: signal, Below: Amount{Number: 100 << 20}}, seen, p, usage); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", signal, got, want)
		}
	}
}

func TestLimits(t *testing.T) {
	limit := resource.MustParse("10Mi")
	withDir := pod("a", 0, "")
	withDir.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &limit}}}}
	withStorage := pod("b", 0, "")
	withStorage.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: limit}
	withMore := pod("c", 0, "")
	withMore.Spec.Containers = append(withMore.Spec.Containers, corev1.Container{Name: "d"})
	withMore.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: limit}
	withMore.Spec.Containers[1].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: limit}
	const mib = 1 << 20
	for _, test := range []struct {
		pod       *corev1.Pod
		stats     statsv1alpha1.PodStats
		dedicated bool
		want      string
	}{
		{withDir, podStats("", 0, 0, 0, 10*mib, 0), false, ""},
		{withDir, podStats("", 0, 0, 0, 10*mib+1, 0), false, `Usage of EmptyDir volume "v" exceeds the limit "10Mi". `},
		{withStorage, podStats("", 0, 0, 0, 11*mib, 0), false, `Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. `},
		{withMore, podStats("", 0, 6*mib, 6*mib, 0, 0), false, `Container c exceeded its local ephemeral storage limit "10Mi". `},
		{withMore, podStats("", 0, 6*mib, 6*mib, 0, 0), true, ""},
	} {
		if !Limited(test.pod) {
			t.Errorf("%s is not limited", test.pod.Name)
		}
		if got := OverLimit(test.pod, &test.stats, test.dedicated); got != test.want {
			t.Errorf("%s: %q, want %q", test.pod.Name, got, test.want)
		}
	}
	if Limited(pod("x", 0, "1Gi")) {
		t.Error("a pod without limits would be measured")
	}
}

func TestMeminfo(t *testing.T) {
	got, err := parseMeminfo("MemTotal:        4000 kB\nMemFree:  1000 kB\nInactive(file):   500 kB\nHugePages_Total: 0\n")
	if want := (Observation{Available: 1500 << 10, Capacity: 4000 << 10}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := parseMeminfo("x"); err == nil {
		t.Error("nothing was read")
	}
	seen, _, err := (&Machine{NodeFs: t.TempDir()}).Observe()
	if err != nil || seen[MemoryAvailable].Capacity == 0 || seen[PIDAvailable].Available <= 0 || seen[NodeFsAvailable].Capacity == 0 {
		t.Errorf("%+v %v", seen, err)
	}
}

func FuzzAmount(f *testing.F) {
	for _, text := range []string{"100Mi", "10%", "-5%", "1e400%", "NaN%", "+Inf%", "1e99", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if a, err := parseAmount(text); err == nil && (a.Number < 0 || !(a.Fraction >= 0 && a.Fraction <= 1)) {
			t.Errorf("%q is %+v", text, a)
		}
	})
}
