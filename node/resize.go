package node

import (
	"encoding/json"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/shimd/shimd/node/plan"
	"github.com/shimd/shimd/node/status"
)

// askAgain is how often resources that the node has no room for are asked for again: another pod may have gone.
const askAgain = 5 * time.Second

// allocate answers the pod with the resources that the node agrees to: those that are asked for, if there is room, else those before.
func (w *worker) allocate(before, asked *corev1.Pod) *corev1.Pod {
	w.pending, w.lookAt = nil, time.Time{}
	if !resized(before, asked) || asked.DeletionTimestamp != nil || w.fits == nil {
		return asked
	}
	verdict := w.fits(asked)
	if verdict == nil {
		return asked
	}
	w.log.Info("other resources are not agreed to", "reason", verdict.Reason, "message", verdict.Message)
	w.pending, w.lookAt = verdict, time.Now().Add(askAgain)
	agreed := asked.DeepCopy()
	for c := range plan.All(agreed) {
		if old := plan.Find(before, c.Name); old != nil {
			c.Resources = *old.Resources.DeepCopy()
		}
	}
	return agreed
}

func resized(before, now *corev1.Pod) bool {
	for c := range plan.All(now) {
		if old := plan.Find(before, c.Name); old != nil && !equality.Semantic.DeepEqual(old.Resources, c.Resources) {
			return true
		}
	}
	return false
}

// tellOfResize: of each change of the conditions about it, as the kubelet does (pkg/kubelet/events/resize.go).
func (w *worker) tellOfResize(now *corev1.PodStatus) {
	pending, wasPending := status.Condition(now.Conditions, corev1.PodResizePending), status.Condition(w.reported.Conditions, corev1.PodResizePending)
	if pending != nil && (wasPending == nil || wasPending.Reason != pending.Reason || wasPending.ObservedGeneration != pending.ObservedGeneration) {
		w.event("", corev1.EventTypeWarning, "Resize"+pending.Reason, resizeMessage(w.asked, "Pod resize "+pending.Reason, pending.ObservedGeneration, pending.Message))
	}
	under, was := status.Condition(now.Conditions, corev1.PodResizeInProgress), status.Condition(w.reported.Conditions, corev1.PodResizeInProgress)
	if under != nil && was == nil {
		w.event("", corev1.EventTypeNormal, "ResizeStarted", resizeMessage(w.pod, "Pod resize started", under.ObservedGeneration, ""))
	}
	if under != nil && under.Reason != "" && (was == nil || was.Message != under.Message) {
		w.event("", corev1.EventTypeWarning, "ResizeError", resizeMessage(w.pod, "Pod resize error", under.ObservedGeneration, under.Message))
	}
	if under == nil && was != nil && w.terminating.IsZero() {
		w.event("", corev1.EventTypeNormal, "ResizeCompleted", resizeMessage(w.pod, "Pod resize completed", was.ObservedGeneration, ""))
	}
}

// resizeMessage names the resources of all containers in JSON.
func resizeMessage(pod *corev1.Pod, what string, generation int64, problem string) string {
	type allocation struct {
		Name      string                      `json:"name"`
		Resources corev1.ResourceRequirements `json:"resources,omitzero"`
	}
	summary := struct {
		InitContainers []allocation `json:"initContainers,omitempty"`
		Containers     []allocation `json:"containers"`
		Generation     int64        `json:"generation"`
		Error          string       `json:"error,omitempty"`
	}{Generation: generation, Error: problem}
	for _, c := range pod.Spec.InitContainers {
		summary.InitContainers = append(summary.InitContainers, allocation{c.Name, c.Resources})
	}
	for _, c := range pod.Spec.Containers {
		summary.Containers = append(summary.Containers, allocation{c.Name, c.Resources})
	}
	text, err := json.Marshal(summary)
	if err != nil {
		return what
	}
	return what + ": " + string(text)
}

// roomFor says why the node has no room for other resources of one of its pods: not now, or not at all.
func (a *Agent) roomFor(pod *corev1.Pod) *plan.Verdict {
	node, err := a.cluster.Node()
	if err != nil {
		return nil
	}
	a.mu.Lock()
	others := a.besides(string(pod.UID))
	a.mu.Unlock()
	if verdict := fits(pod, node, nil); verdict != nil {
		message := strings.Replace(verdict.Message, "enough resource", "enough capacity", 1)
		return &plan.Verdict{Reason: corev1.PodReasonInfeasible, Message: strings.Replace(message, " used: 0,", "", 1)}
	}
	if verdict := fits(pod, node, others); verdict != nil {
		return &plan.Verdict{Reason: corev1.PodReasonDeferred, Message: verdict.Message}
	}
	return nil
}
