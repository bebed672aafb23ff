package status

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/node/plan"
)

func final(phase corev1.PodPhase) bool {
	return phase == corev1.PodSucceeded || phase == corev1.PodFailed
}

// setPhase: a final phase is never left again, and not entered as long as a container may run.
func setPhase(s *corev1.PodStatus, in Input) {
	running := active(in)
	over := quiet(in) && (!in.Terminating.IsZero() || in.Verdict != nil) && !in.Static
	s.Phase = phase(s, in, over)
	if !final(s.Phase) && final(in.Before.Phase) {
		s.Phase = in.Before.Phase
	}
	if s.Phase == in.Before.Phase {
		s.Reason, s.Message = in.Before.Reason, in.Before.Message
	}
	switch {
	case final(in.Pod.Status.Phase):
		s.Phase, s.Reason, s.Message = in.Pod.Status.Phase, in.Pod.Status.Reason, in.Pod.Status.Message
	case in.Verdict != nil && !running:
		s.Phase, s.Reason, s.Message = corev1.PodFailed, in.Verdict.Reason, in.Verdict.Message
	case final(s.Phase) && !final(in.Before.Phase) && running:
		s.Phase, s.Reason, s.Message = in.Before.Phase, in.Before.Reason, in.Before.Message
	}
}

// counts of containers, of which a phase is made.
type counts struct {
	failed                               bool // an init container, for good
	initialising, starting               int  // ordinary init containers, sidecars
	unknown, running, waiting            int
	stopped, stoppedForGood, stoppedWell int
}

// phase is the kubelet's getPhase. over: nothing will be started any more.
func phase(s *corev1.PodStatus, in Input, over bool) corev1.PodPhase {
	n := counts{}
	for i := range in.Pod.Spec.InitContainers {
		n.addInit(in, &in.Pod.Spec.InitContainers[i], find(s.InitContainerStatuses, in.Pod.Spec.InitContainers[i].Name))
	}
	for i := range in.Pod.Spec.Containers {
		n.add(in, &in.Pod.Spec.Containers[i], find(s.ContainerStatuses, in.Pod.Spec.Containers[i].Name))
	}
	switch {
	case n.failed:
		return corev1.PodFailed
	case n.initialising > 0 || (n.starting > 0 && !begun(in)) || n.waiting > 0:
		return corev1.PodPending
	case n.running > 0 && n.unknown == 0:
		return corev1.PodRunning
	case n.running == 0 && n.stopped > 0 && n.unknown == 0:
		switch {
		case !over && n.stopped != n.stoppedForGood:
			return corev1.PodRunning // at least one is about to be restarted
		case n.stopped == n.stoppedWell:
			return corev1.PodSucceeded
		default:
			return corev1.PodFailed
		}
	}
	return corev1.PodPending
}

func (n *counts) addInit(in Input, c *corev1.Container, s *corev1.ContainerStatus) {
	if plan.IsSidecar(c) {
		switch {
		case s.State.Running != nil:
			if s.Started == nil || !*s.Started {
				n.starting++
			}
			n.running++
		case s.State.Waiting != nil && s.LastTerminationState.Terminated == nil:
			n.starting++
			n.waiting++
		}
		return
	}
	end := s.State.Terminated
	if s.State.Waiting != nil {
		end = s.LastTerminationState.Terminated
	}
	switch {
	case end == nil:
		n.initialising++
	case end.ExitCode != 0 && !plan.Restarts(in.Pod, c, plan.Container{ExitCode: end.ExitCode}):
		n.failed = true
	}
}

func (n *counts) add(in Input, c *corev1.Container, s *corev1.ContainerStatus) {
	end := s.State.Terminated
	switch {
	case s.State.Running != nil:
		n.running++
		return
	case s.State.Waiting != nil:
		end = s.LastTerminationState.Terminated
		if end == nil {
			n.waiting++
			return
		}
	case end == nil:
		n.unknown++
		return
	}
	n.stopped++
	if !plan.Restarts(in.Pod, c, plan.Container{ExitCode: end.ExitCode}) {
		n.stoppedForGood++
	}
	if s.State.Terminated != nil && end.ExitCode == 0 {
		n.stoppedWell++
	}
}

// begun says whether an ordinary container runs or has run.
func begun(in Input) bool {
	for i := range in.Pod.Spec.Containers {
		if run, exists := plan.Last(in.Seen, in.Pod.Spec.Containers[i].Name); exists && run.State != plan.Created {
			return true
		}
	}
	return false
}

// find never answers nil: statuses are made of the same lists.
func find(list []corev1.ContainerStatus, name string) *corev1.ContainerStatus {
	for i := range list {
		if list[i].Name == name {
			return &list[i]
		}
	}
	return &corev1.ContainerStatus{}
}

// finish is the kubelet's TerminatePod: of a pod that is over, each container that was to run has ended, and the phase is a final one.
func finish(s *corev1.PodStatus, in Input) {
	if in.Verdict != nil || !in.Terminating.IsZero() {
		end := func(list []corev1.ContainerStatus) {
			for i := range list {
				if list[i].State.Terminated == nil {
					list[i].State = corev1.ContainerState{Terminated: lost()}
				}
			}
		}
		if len(in.Pod.Spec.InitContainers) == 0 || initialised(in) || s.ContainerStatuses == nil || anyEnded(s.ContainerStatuses) {
			end(s.ContainerStatuses)
		}
		end(begunInits(s.InitContainerStatuses))
	}
	if !final(s.Phase) && !in.Static {
		s.Phase = corev1.PodFailed
	}
}

func anyEnded(list []corev1.ContainerStatus) bool {
	for i := range list {
		if list[i].State.Waiting == nil || list[i].LastTerminationState.Terminated != nil {
			return true
		}
	}
	return false
}

// begunInits are the init containers up to the last one that has ever been started.
func begunInits(list []corev1.ContainerStatus) []corev1.ContainerStatus {
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].LastTerminationState.Terminated != nil || list[i].State.Waiting == nil {
			return list[:i+1]
		}
	}
	return nil
}
