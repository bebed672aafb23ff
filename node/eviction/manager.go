package eviction

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Reason is that of the status of an evicted pod, and of the event.
const Reason = "Evicted"

const (
	interval = 10 * time.Second
	// cleanUp is how long an evicted pod is waited for before the next one goes.
	cleanUp     = 30 * time.Second
	cleanUpPoll = time.Second
	// immediate is the grace period, in seconds, of pods that can't be waited for.
	immediate = 1
	// critical is the priority from which on pods are the node's own.
	critical = 2000000000
)

// Agent runs the pods. Its methods return soon.
type Agent interface {
	// Active are the pods that take something of the node: those that have ended, or were never let in, are not among them.
	Active() []*corev1.Pod
	// Evict makes a pod end for good, phase Failed, with the order's words, and an event of them. It stays active until its containers have ended.
	Evict(uid string, order Order) error
}

// Order says how a pod is evicted.
type Order struct {
	Message   string
	Grace     int64 // seconds, instead of the pod's
	Disrupted bool  // it gets the condition DisruptionTarget, reason TerminationByKubelet
}

// Statistics are the numbers of pods. They cost something, so they are asked for only when they decide something.
type Statistics interface {
	Summary(ctx context.Context, onlyCPUAndMemory bool) (*statsv1alpha1.Summary, error)
}

// Options are what a manager works with.
type Options struct {
	Thresholds []Threshold
	Transition time.Duration // evictionPressureTransitionPeriod
	MaxGrace   int64         // evictionMaxPodGracePeriod, seconds: of soft evictions
	Machine    *Machine
	Agent      Agent
	Statistics Statistics
	// Reclaim, if not nil, removes containers that have ended and images that nobody uses.
	Reclaim func(ctx context.Context) error
	// Event, if not nil, records one about the node.
	Event func(kind, reason, message string)
	Log   *slog.Logger
}

// Manager watches a node.
type Manager struct {
	o     Options
	state State // Run's
	seen  bool  // an observation failed, and that was logged

	mu         sync.Mutex
	conditions []corev1.NodeConditionType
}

// New prepares one; it does nothing until Run.
func New(o Options) *Manager { return &Manager{o: o} }

// Pressure is what the node lacks, for its conditions.
func (m *Manager) Pressure() (memory, disk, processes bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	has := func(c corev1.NodeConditionType) bool { return slices.Contains(m.conditions, c) }
	return has(corev1.NodeMemoryPressure), has(corev1.NodeDiskPressure), has(corev1.NodePIDPressure)
}

// Admit says why a new pod is not let in now; "": it is. best tells that it is a best effort pod.
func (m *Manager) Admit(pod *corev1.Pod, class corev1.PodQOSClass) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.conditions) == 0 || isCritical(pod) {
		return ""
	}
	if len(m.conditions) == 1 && m.conditions[0] == corev1.NodeMemoryPressure && (class != corev1.PodQOSBestEffort || toleratesMemoryPressure(pod)) {
		return ""
	}
	return fmt.Sprintf("The node had condition: %v. ", m.conditions)
}

func toleratesMemoryPressure(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool {
		exists := t.Operator == corev1.TolerationOpExists
		return (t.Effect == "" || t.Effect == corev1.TaintEffectNoSchedule) &&
			(t.Key == corev1.TaintNodeMemoryPressure && (exists || t.Value == "") || t.Key == "" && exists)
	})
}

// isCritical: static pods would not come back, and the node needs those of the highest priorities.
func isCritical(pod *corev1.Pod) bool {
	source, ok := pod.Annotations["kubernetes.io/config.source"]
	_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return ok && source != "api" || mirror || priority(pod) >= critical
}

// Run watches until the context ends.
func (m *Manager) Run(ctx context.Context) {
	for ctx.Err() == nil {
		if gone := m.step(ctx, time.Now()); len(gone) > 0 {
			m.await(ctx, gone)
			continue
		}
		sleep(ctx, interval)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// await waits until pods that were evicted take nothing of the node any more.
func (m *Manager) await(ctx context.Context, evicted []string) {
	for end := time.Now().Add(cleanUp); time.Now().Before(end) && ctx.Err() == nil; sleep(ctx, cleanUpPoll) {
		if !slices.ContainsFunc(m.o.Agent.Active(), func(pod *corev1.Pod) bool { return slices.Contains(evicted, string(pod.UID)) }) {
			return
		}
	}
}

// step looks once, and answers the UIDs of the pods that it evicted.
func (m *Manager) step(ctx context.Context, now time.Time) []string {
	seen, dedicated := m.observe()
	var judgement Judgement
	judgement, m.state = Judge(m.o.Thresholds, m.state, seen, m.o.Transition, now)
	m.tell(judgement.Conditions)
	pods := m.o.Agent.Active()
	if evicted := m.enforceLimits(ctx, pods, dedicated); len(evicted) > 0 || len(judgement.Act) == 0 {
		return evicted
	}
	threshold := judgement.Act[0]
	k, _, _ := kind(threshold.Signal)
	m.o.Log.Warn("the node runs short", "signal", threshold.Signal, "available", seen[threshold.Signal].Available)
	m.event("EvictionThresholdMet", fmt.Sprintf("Attempting to reclaim %s", k.resource))
	if m.reclaim(ctx, k.condition) {
		return nil
	}
	summary, err := m.o.Statistics.Summary(ctx, k.condition == corev1.NodeMemoryPressure)
	if err != nil {
		m.o.Log.Error("evicting a pod: its use is not known", "error", err)
		summary = &statsv1alpha1.Summary{} // all are alike but for their priority
	}
	usage := NewUsage(summary)
	for _, pod := range Rank(pods, usage, threshold.Signal, dedicated) {
		order := Order{Message: Message(threshold, seen, pod, usage), Grace: m.grace(threshold, pod), Disrupted: true}
		if m.evict(pod, order) {
			return []string{string(pod.UID)}
		}
	}
	m.o.Log.Error("the node runs short, and there is no pod that may be evicted", "signal", threshold.Signal)
	return nil
}

// observe logs once what it cannot see.
func (m *Manager) observe() (Observations, bool) {
	seen, dedicated, err := m.o.Machine.Observe()
	if err != nil && !m.seen {
		m.o.Log.Error("some signals of eviction cannot be observed", "error", err)
	}
	m.seen = err != nil
	return seen, dedicated
}

func (m *Manager) tell(conditions []corev1.NodeConditionType) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Equal(m.conditions, conditions) {
		m.o.Log.Info("conditions of the node", "now", conditions, "before", m.conditions)
	}
	m.conditions = conditions
}

func (m *Manager) event(reason, message string) {
	if m.o.Event != nil {
		m.o.Event(corev1.EventTypeWarning, reason, message)
	}
}

// enforceLimits evicts all pods that use more of the disk than they may.
func (m *Manager) enforceLimits(ctx context.Context, pods []*corev1.Pod, dedicated bool) []string {
	if !slices.ContainsFunc(pods, Limited) {
		return nil
	}
	summary, err := m.o.Statistics.Summary(ctx, false)
	if err != nil {
		m.o.Log.Error("whether pods exceed their limits of storage is not known", "error", err)
		return nil
	}
	usage := NewUsage(summary)
	var evicted []string
	for _, pod := range pods {
		message := OverLimit(pod, usage[string(pod.UID)], dedicated)
		if message != "" && m.evict(pod, Order{Message: message, Grace: immediate}) {
			evicted = append(evicted, string(pod.UID))
		}
	}
	return evicted
}

// reclaim frees what no pod uses, and says whether that was enough.
func (m *Manager) reclaim(ctx context.Context, condition corev1.NodeConditionType) bool {
	if condition != corev1.NodeDiskPressure || m.o.Reclaim == nil {
		return false
	}
	if err := m.o.Reclaim(ctx); err != nil {
		m.o.Log.Error("removing what nobody uses", "error", err)
	}
	seen, _ := m.observe()
	return len(below(m.o.Thresholds, seen, true)) == 0
}

func (m *Manager) grace(threshold Threshold, pod *corev1.Pod) int64 {
	if threshold.Grace == 0 {
		return immediate
	}
	if own := pod.Spec.TerminationGracePeriodSeconds; own != nil {
		return min(m.o.MaxGrace, *own)
	}
	return m.o.MaxGrace
}

func (m *Manager) evict(pod *corev1.Pod, order Order) bool {
	if isCritical(pod) {
		return false
	}
	if err := m.o.Agent.Evict(string(pod.UID), order); err != nil {
		m.o.Log.Error("evicting a pod", "pod", pod.Namespace+"/"+pod.Name, "error", err)
		return false
	}
	m.o.Log.Warn("evicted a pod", "pod", pod.Namespace+"/"+pod.Name, "uid", pod.UID, "message", order.Message)
	return true
}
