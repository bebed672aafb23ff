package eviction

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// agent is one of a test's.
type agent struct {
	pods    []*corev1.Pod
	evicted map[string]Order
	summary *statsv1alpha1.Summary
	asked   int
}

func (a *agent) Active() []*corev1.Pod { return a.pods }

func (a *agent) Evict(uid string, order Order) error {
	a.evicted[uid] = order
	a.pods = slices.DeleteFunc(slices.Clone(a.pods), func(p *corev1.Pod) bool { return string(p.UID) == uid })
	return nil
}

func (a *agent) Summary(context.Context, bool) (*statsv1alpha1.Summary, error) {
	a.asked++
	if a.summary == nil {
		return nil, errors.New("no numbers")
	}
	return a.summary, nil
}

// machine has as much free memory as a test says, in KiB.
func machine(t *testing.T) (*Machine, func(free int)) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("sys/kernel/pid_max", "1000\n")
	write("sys/kernel/threads-max", "500\n")
	write("loadavg", "0.00 0.01 0.05 1/100 12345\n")
	return &Machine{Proc: dir, NodeFs: dir}, func(free int) { write("meminfo", "MemTotal: 1000000 kB\nMemFree: "+strconv.Itoa(free)+" kB\n") }
}

func TestManager(t *testing.T) {
	m, free := machine(t)
	static := pod("static", 0, "")
	static.Annotations = map[string]string{"kubernetes.io/config.source": "file"}
	system := pod("system", critical, "")
	a := &agent{pods: []*corev1.Pod{static, system, pod("one", 0, "1Gi"), pod("two", 0, "")}, evicted: map[string]Order{}}
	a.summary = &statsv1alpha1.Summary{Pods: []statsv1alpha1.PodStats{podStats("one", 100, 0, 0, 0, 0), podStats("two", 100, 0, 0, 0, 0), podStats("system", gib, 0, 0, 0, 0), podStats("static", gib, 0, 0, 0, 0)}}
	var events []string
	thresholds, err := Thresholds(Settings{Hard: map[string]string{"memory.available": "100Mi"}})
	if err != nil {
		t.Fatal(err)
	}
	manager := New(Options{
		Thresholds: thresholds, Transition: time.Minute, Machine: m, Agent: a, Statistics: a, Log: slog.New(slog.DiscardHandler),
		Event: func(_, reason, message string) { events = append(events, reason+": "+message) },
	})
	now := time.Now()
	free(500000)
	if got := manager.step(t.Context(), now); got != nil || a.asked != 0 {
		t.Errorf("on an idle node: %v, asked %d times", got, a.asked)
	}
	if message := manager.Admit(pod("new", 0, ""), corev1.PodQOSBestEffort); message != "" {
		t.Error(message)
	}
	free(50000)
	if got := manager.step(t.Context(), now.Add(time.Second)); !slices.Equal(got, []string{"two"}) {
		t.Errorf("evicted %v", got)
	}
	if order := a.evicted["two"]; order.Grace != 1 || !order.Disrupted || !strings.HasPrefix(order.Message, "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50000Ki. ") {
		t.Errorf("%+v", order)
	}
	if !slices.Equal(events, []string{"EvictionThresholdMet: Attempting to reclaim memory"}) {
		t.Error(events)
	}
	if memory, disk, processes := manager.Pressure(); !memory || disk || processes {
		t.Error("pressure", memory, disk, processes)
	}
	tolerant := pod("new", 0, "")
	tolerant.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists}}
	for _, test := range []struct {
		pod   *corev1.Pod
		class corev1.PodQOSClass
		want  string
	}{
		{pod("new", 0, ""), corev1.PodQOSBestEffort, "The node had condition: [MemoryPressure]. "}, {pod("new", 0, ""), corev1.PodQOSBurstable, ""},
		{tolerant, corev1.PodQOSBestEffort, ""}, {system, corev1.PodQOSBestEffort, ""},
	} {
		if got := manager.Admit(test.pod, test.class); got != test.want {
			t.Errorf("%s %s: %q", test.pod.Name, test.class, got)
		}
	}
	a.summary = nil // one goes also when nothing is known
	if got := manager.step(t.Context(), now.Add(2*time.Second)); !slices.Equal(got, []string{"one"}) {
		t.Errorf("evicted %v", got)
	}
	if got := manager.step(t.Context(), now.Add(3*time.Second)); got != nil {
		t.Errorf("evicted %v, which the node needs", got)
	}
}

func TestManagerEnforcesLimits(t *testing.T) {
	m, free := machine(t)
	free(500000)
	limit := resource.MustParse("1Mi")
	over, under := pod("over", 0, ""), pod("under", 0, "")
	for _, p := range []*corev1.Pod{over, under} {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &limit}}}}
	}
	a := &agent{pods: []*corev1.Pod{over, under}, evicted: map[string]Order{}}
	a.summary = &statsv1alpha1.Summary{Pods: []statsv1alpha1.PodStats{podStats("over", 0, 0, 0, 2<<20, 0), podStats("under", 0, 0, 0, 1<<20, 0)}}
	manager := New(Options{Machine: m, Agent: a, Statistics: a, Log: slog.New(slog.DiscardHandler)})
	if got := manager.step(t.Context(), time.Now()); !slices.Equal(got, []string{"over"}) || a.evicted["over"].Disrupted {
		t.Errorf("evicted %v %+v", got, a.evicted)
	}
}
