package node

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/node/plan"
	"github.com/shimd/shimd/node/status"
)

// groups are cgroups in name alone.
type groups struct {
	mu   sync.Mutex
	have map[string]bool
}

func (g *groups) Parent(pod *corev1.Pod) string { return "/kubepods/pod" + string(pod.UID) }

func (g *groups) Ensure(_ context.Context, pod *corev1.Pod) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.have[string(pod.UID)] = true
	return nil
}

func (g *groups) Remove(_ context.Context, pod *corev1.Pod) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.have, string(pod.UID))
	return nil
}

func (g *groups) Balance(context.Context, []*corev1.Pod) error { return nil }

func (g *groups) RemoveOrphans(_ context.Context, keep func(string) bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for uid := range g.have {
		if !keep(uid) {
			delete(g.have, uid)
		}
	}
	return nil
}

func (g *groups) has(uid string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.have[uid]
}

func TestEvictedPodGivesBackWhatItHad(t *testing.T) {
	b, c := newClusterBench(t)
	g := &groups{have: map[string]bool{"orphan": true}}
	pressed := false
	b.config.Cgroups, b.config.Pressure = g, func(*corev1.Pod) string {
		if pressed {
			return "The node had condition: [DiskPressure]. "
		}
		return ""
	}
	b.start()
	pod := apiPod("web")
	pod.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	uid := string(c.create(pod))
	c.until(t, "running", c.is("web", corev1.PodRunning, corev1.ConditionTrue))
	if !g.has(uid) || g.has("orphan") {
		t.Errorf("cgroups: %v", g.have)
	}
	if active := b.agent.Active(); len(active) != 1 || b.agent.Evict("nobody", plan.Verdict{}) {
		t.Errorf("active: %v", active)
	}
	grace := int64(1)
	if !b.agent.Evict(uid, plan.Verdict{Reason: "Evicted", Message: "The node was low on resource: memory. ", Grace: &grace, Disrupted: true}) {
		t.Fatal("there is no such pod")
	}
	c.until(t, "evicted", func() bool { return c.last("web").Phase == corev1.PodFailed })
	s := c.last("web")
	condition := status.Condition(s.Conditions, corev1.DisruptionTarget)
	if s.Reason != "Evicted" || s.Message != "The node was low on resource: memory. " || condition == nil || condition.Reason != corev1.PodReasonTerminationByKubelet {
		t.Errorf("status %+v", s)
	}
	c.until(t, "event", c.told("Evicted", "low on resource"))
	c.until(t, "released", func() bool {
		_, err := os.Stat(filepath.Join(b.config.RootDir, "pods", uid, "volumes"))
		return os.IsNotExist(err) && !g.has(uid)
	})
	if active := b.agent.Active(); len(active) != 0 {
		t.Errorf("active: %v", active)
	}
	pressed = true
	c.create(apiPod("late"))
	c.until(t, "refused", func() bool { return c.last("late").Phase == corev1.PodFailed })
	if s := c.last("late"); s.Reason != "Evicted" || !strings.Contains(s.Message, "DiskPressure") || slices.Contains(c.finished, "late") {
		t.Errorf("status %+v", s)
	}
}
