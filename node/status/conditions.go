package status

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shimd/shimd/node/plan"
)

// The kubelet's reasons (pkg/kubelet/status/generate.go).
const (
	podCompleted             = "PodCompleted"
	podFailed                = "PodFailed"
	containersNotReady       = "ContainersNotReady"
	containersNotInitialized = "ContainersNotInitialized"
	readinessGatesNotReady   = "ReadinessGatesNotReady"
)

// conditions sets those that a kubelet owns, beside those of others. One that has not changed keeps its time.
func conditions(s *corev1.PodStatus, in Input) {
	for _, c := range in.Pod.Status.Conditions {
		if !owned(c.Type) {
			s.Conditions = append(s.Conditions, c)
		}
	}
	if c := Condition(in.Before.Conditions, corev1.DisruptionTarget); c != nil && Condition(s.Conditions, corev1.DisruptionTarget) == nil {
		s.Conditions = append(s.Conditions, *c)
	}
	if in.Verdict != nil && in.Verdict.Disrupted && Condition(s.Conditions, corev1.DisruptionTarget) == nil {
		s.Conditions = append(s.Conditions, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonTerminationByKubelet, Message: in.Verdict.Message,
			ObservedGeneration: in.Pod.Generation, LastTransitionTime: metav1.NewTime(in.Now),
		})
	}
	ready := containersReady(s, in)
	made := []corev1.PodCondition{readyToStart(in), initializedCondition(s, in), podReady(s, in, ready), ready, {Type: corev1.PodScheduled, Status: corev1.ConditionTrue}}
	if in.Pending != nil {
		made = append(made, corev1.PodCondition{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: in.Pending.Reason, Message: in.Pending.Message})
	}
	if c, under := resizing(in); under {
		made = append(made, c)
	}
	for _, c := range made {
		c.ObservedGeneration = in.Pod.Generation
		c.LastTransitionTime = metav1.NewTime(in.Now)
		if old := Condition(in.Before.Conditions, c.Type); old != nil {
			c.LastProbeTime = old.LastProbeTime
			if old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
			}
			if c.Type == corev1.PodResizeInProgress {
				c.ObservedGeneration = old.ObservedGeneration // since which it goes on
			}
		}
		s.Conditions = append(s.Conditions, c)
	}
}

// resizing is there while a running container has other resources than the node has agreed to.
func resizing(in Input) (c corev1.PodCondition, under bool) {
	if !in.Terminating.IsZero() {
		return c, false
	}
	c = corev1.PodCondition{Type: corev1.PodResizeInProgress, Status: corev1.ConditionTrue}
	for container := range plan.All(in.Pod) {
		run, exists := plan.Last(in.Seen, container.Name)
		if !exists || run.State != plan.Running {
			continue
		}
		if differs, _ := plan.Resized(in.Pod, container, run); !differs {
			continue
		}
		under = true
		if retry, failed := in.Memory.Retry[plan.Action{Verb: plan.UpdateContainer, ID: run.ID}.Subject()]; failed {
			c.Reason, c.Message = corev1.PodReasonError, retry.Message
		}
	}
	return c, under
}

func owned(kind corev1.PodConditionType) bool {
	switch kind {
	case corev1.PodResizePending, corev1.PodResizeInProgress, corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled:
		return true
	}
	return false
}

// Condition is the condition of a type, or nil.
func Condition(list []corev1.PodCondition, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range list {
		if list[i].Type == kind {
			return &list[i]
		}
	}
	return nil
}

func readyToStart(in Input) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionFalse}
	if current, ok := plan.Current(in.Seen); ok && current.Ready {
		c.Status = corev1.ConditionTrue
	}
	return c
}

func initializedCondition(s *corev1.PodStatus, in Input) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionTrue}
	if s.Phase == corev1.PodSucceeded {
		c.Reason = podCompleted
		return c
	}
	if anyStarted(s.ContainerStatuses) {
		return c
	}
	var incomplete []string
	for i := range in.Pod.Spec.InitContainers {
		init := &in.Pod.Spec.InitContainers[i]
		status := find(s.InitContainerStatuses, init.Name)
		done := status.Ready
		if plan.IsSidecar(init) {
			done = status.Started != nil && *status.Started
		}
		if !done {
			incomplete = append(incomplete, init.Name)
		}
	}
	if old := Condition(in.Before.Conditions, corev1.PodInitialized); len(incomplete) > 0 && (old == nil || old.Status != corev1.ConditionTrue) {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, containersNotInitialized, fmt.Sprintf("containers with incomplete status: %s", incomplete)
	}
	return c
}

func anyStarted(list []corev1.ContainerStatus) bool {
	for i := range list {
		s := &list[i]
		if (s.Started != nil && *s.Started) || s.State.Running != nil || s.State.Terminated != nil || s.LastTerminationState.Terminated != nil {
			return true
		}
	}
	return false
}

func containersReady(s *corev1.PodStatus, in Input) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.ContainersReady, Status: corev1.ConditionFalse}
	switch s.Phase {
	case corev1.PodSucceeded:
		c.Reason = podCompleted
		return c
	case corev1.PodFailed:
		c.Reason = podFailed
		return c
	}
	var unready []string
	for i := range in.Pod.Spec.InitContainers {
		if init := &in.Pod.Spec.InitContainers[i]; plan.IsSidecar(init) && !find(s.InitContainerStatuses, init.Name).Ready {
			unready = append(unready, init.Name)
		}
	}
	for i := range in.Pod.Spec.Containers {
		if name := in.Pod.Spec.Containers[i].Name; !find(s.ContainerStatuses, name).Ready {
			unready = append(unready, name)
		}
	}
	if len(unready) > 0 {
		c.Reason, c.Message = containersNotReady, fmt.Sprintf("containers with unready status: %s", unready)
		return c
	}
	c.Status = corev1.ConditionTrue
	return c
}

// podReady: all containers are, and all gates, which are conditions that others set.
func podReady(s *corev1.PodStatus, in Input, containers corev1.PodCondition) corev1.PodCondition {
	c := containers
	c.Type = corev1.PodReady
	if c.Status != corev1.ConditionTrue {
		return c
	}
	var messages []string
	for _, gate := range in.Pod.Spec.ReadinessGates {
		switch found := Condition(s.Conditions, gate.ConditionType); {
		case found == nil:
			messages = append(messages, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", string(gate.ConditionType)))
		case found.Status != corev1.ConditionTrue:
			messages = append(messages, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", string(gate.ConditionType), found.Status))
		}
	}
	if len(messages) > 0 {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, readinessGatesNotReady, strings.Join(messages, ", ")
	}
	return c
}
