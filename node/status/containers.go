package status

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shimd/shimd/node/plan"
)

// The kubelet's reasons.
const (
	containerCreating      = "ContainerCreating"
	podInitializing        = "PodInitializing"
	containerStatusUnknown = "ContainerStatusUnknown"
	unknownExitCode        = 137

	// ReasonErrImagePull is of a pull that failed just now; it becomes ReasonImagePullBackOff after PullShown.
	ReasonErrImagePull     = "ErrImagePull"
	ReasonImagePullBackOff = "ImagePullBackOff"
	// ReasonCrashLoopBackOff is of a container that waits for its next run.
	ReasonCrashLoopBackOff = "CrashLoopBackOff"
)

// PullShown is how long a failed pull is shown as that, before it is shown as backing off.
const PullShown = time.Second

func containers(in Input, list []corev1.Container, before []corev1.ContainerStatus) []corev1.ContainerStatus {
	var found []corev1.ContainerStatus
	for i := range list {
		c := &list[i]
		var old *corev1.ContainerStatus
		for j := range before {
			if before[j].Name == c.Name {
				old = &before[j]
			}
		}
		s := container(in, c, old)
		probed(in, c, &s)
		found = append(found, s)
	}
	return found
}

func container(in Input, c *corev1.Container, old *corev1.ContainerStatus) corev1.ContainerStatus {
	run, exists := plan.Last(in.Seen, c.Name)
	if !exists {
		return absent(in, c, old)
	}
	s := corev1.ContainerStatus{
		Name: c.Name, RestartCount: int32(run.Attempt), Image: run.Image, ImageID: run.ImageID, ContainerID: identify(in.Runtime, run.ID),
		VolumeMounts: mounts(c, in.RecursiveReadOnly), AllocatedResources: c.Resources.Requests, Resources: resources(in.Pod, c, run), User: run.User,
	}
	if s.Image == "" {
		s.Image = c.Image
	}
	if old != nil {
		s.RestartCount = max(s.RestartCount, old.RestartCount)
	}
	s.LastTerminationState = lastEnd(in, run, old, s.ContainerID)
	switch run.State {
	case plan.Running:
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(run.StartedAt)}
	case plan.Exited:
		s.State.Terminated = terminated(in.Runtime, run)
	case plan.Unknown:
		s.State.Terminated = lost()
	default:
		s.State.Waiting = waiting(in)
	}
	if restarts(in, c, run) {
		wait := failing(in, c)
		if wait == nil && run.State == plan.Exited && plan.RestartAt(run).After(run.FinishedAt) {
			delay := plan.RestartAt(run).Sub(run.FinishedAt)
			wait = &corev1.ContainerStateWaiting{
				Reason: ReasonCrashLoopBackOff, Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", delay, c.Name, Identity(in.Pod)),
			}
		}
		if wait != nil {
			if s.State.Terminated != nil {
				s.LastTerminationState = s.State
			}
			s.State = corev1.ContainerState{Waiting: wait}
		}
	}
	return s
}

// absent is a container that the runtime does not have: not yet, or not any more.
func absent(in Input, c *corev1.Container, old *corev1.ContainerStatus) corev1.ContainerStatus {
	s := corev1.ContainerStatus{Name: c.Name, Image: c.Image, VolumeMounts: mounts(c, in.RecursiveReadOnly), State: corev1.ContainerState{Waiting: waiting(in)}}
	if old != nil {
		if old.State.Terminated != nil {
			return *old.DeepCopy()
		}
		s.RestartCount, s.LastTerminationState = old.RestartCount, old.LastTerminationState
		if old.State.Running != nil && s.LastTerminationState.Terminated == nil {
			s.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{
				Reason: containerStatusUnknown, ExitCode: unknownExitCode,
				Message: "The container could not be located when the pod was deleted.  The container used to be Running",
			}
			if in.Pod.DeletionTimestamp == nil {
				s.RestartCount++
			}
		}
	}
	if plan.IsInit(in.Pod, c.Name) && !plan.IsSidecar(c) && initialised(in) {
		s.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			Reason:  "Completed",
			Message: "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally",
		}}
		return s
	}
	if wait := failing(in, c); wait != nil {
		s.State = corev1.ContainerState{Waiting: wait}
	}
	return s
}

// initialised says whether an ordinary container has been made: then the init containers have done their work.
func initialised(in Input) bool {
	for i := range in.Pod.Spec.Containers {
		if _, exists := plan.Last(in.Seen, in.Pod.Spec.Containers[i].Name); exists {
			return true
		}
	}
	return false
}

func waiting(in Input) *corev1.ContainerStateWaiting {
	if len(in.Pod.Spec.InitContainers) > 0 {
		return &corev1.ContainerStateWaiting{Reason: podInitializing}
	}
	return &corev1.ContainerStateWaiting{Reason: containerCreating}
}

// failing is what keeps a container from being started.
func failing(in Input, c *corev1.Container) *corev1.ContainerStateWaiting {
	retry, ok := in.Memory.Retry[c.Name]
	if !ok {
		return nil
	}
	if retry.Reason == ReasonErrImagePull && in.Now.Sub(retry.Until.Add(-retry.Delay)) >= PullShown {
		return &corev1.ContainerStateWaiting{
			Reason: ReasonImagePullBackOff, Message: fmt.Sprintf("Back-off pulling image %q: %s: %s", c.Image, ReasonErrImagePull, retry.Message),
		}
	}
	return &corev1.ContainerStateWaiting{Reason: retry.Reason, Message: retry.Message}
}

// restarts says whether a run is to be followed by another one.
func restarts(in Input, c *corev1.Container, run plan.Container) bool {
	if !in.Terminating.IsZero() || in.Verdict != nil || in.Finished || plan.Ended(in.Pod, in.Seen) || run.State == plan.Running {
		return false
	}
	if run.State == plan.Created {
		return true
	}
	done := plan.IsInit(in.Pod, c.Name) && !plan.IsSidecar(c) && run.ExitCode == 0
	return !done && plan.Restarts(in.Pod, c, run)
}

func terminated(runtime string, run plan.Container) *corev1.ContainerStateTerminated {
	reason := run.Reason
	switch {
	case reason != "":
	case run.ExitCode == 0:
		reason = "Completed"
	default:
		reason = "Error"
	}
	return &corev1.ContainerStateTerminated{
		ExitCode: run.ExitCode, Reason: reason, Message: run.Message, StartedAt: metav1.NewTime(run.StartedAt), FinishedAt: metav1.NewTime(run.FinishedAt),
		ContainerID: identify(runtime, run.ID),
	}
}

// lost is the end of a container of which nobody knows how it ended.
func lost() *corev1.ContainerStateTerminated {
	return &corev1.ContainerStateTerminated{
		Reason: containerStatusUnknown, ExitCode: unknownExitCode, Message: "The container could not be located when the pod was terminated",
	}
}

// lastEnd is how the run before this one ended, as far as that is kept: in the runtime, or in the last status.
func lastEnd(in Input, run plan.Container, old *corev1.ContainerStatus, id string) corev1.ContainerState {
	var found *plan.Container
	for i := range in.Seen.Containers {
		other := &in.Seen.Containers[i]
		if other.Name == run.Name && other.ID != run.ID && other.State == plan.Exited && (found == nil || other.Attempt > found.Attempt) {
			found = other
		}
	}
	switch {
	case found != nil:
		return corev1.ContainerState{Terminated: terminated(in.Runtime, *found)}
	case old == nil:
		return corev1.ContainerState{}
	case old.ContainerID != id && old.State.Terminated != nil:
		return corev1.ContainerState{Terminated: old.State.Terminated}
	default:
		return corev1.ContainerState{Terminated: old.LastTerminationState.Terminated}
	}
}

// probed sets what probes found.
func probed(in Input, c *corev1.Container, s *corev1.ContainerStatus) {
	if plan.IsEphemeral(in.Pod, c.Name) {
		return
	}
	started := false
	if run, exists := plan.Last(in.Seen, c.Name); exists && run.State == plan.Running {
		health, known := in.Memory.Health[run.ID]
		started = known && health.Started
		s.Ready = started && health.Ready
	}
	if plan.IsInit(in.Pod, c.Name) && !plan.IsSidecar(c) {
		s.Ready = s.State.Terminated != nil && s.State.Terminated.ExitCode == 0
	}
	s.Started = &started
}

// resources are those that hold: what the runtime says of a running container, else what was asked for.
func resources(pod *corev1.Pod, c *corev1.Container, run plan.Container) *corev1.ResourceRequirements {
	r := c.Resources.DeepCopy()
	r.Claims = nil
	if run.State != plan.Running || run.Resources == nil {
		return r
	}
	if differs, _ := plan.Resized(pod, c, run); !differs {
		return r // to the kernel it is the same; the words are those of the pod
	}
	actual := func(list, now corev1.ResourceList) {
		for name, quantity := range now {
			if _, asked := list[name]; asked {
				list[name] = quantity.DeepCopy()
			}
		}
	}
	actual(r.Limits, run.Resources.Limits)
	actual(r.Requests, run.Resources.Requests)
	return r
}

func mounts(c *corev1.Container, recursive bool) []corev1.VolumeMountStatus {
	var found []corev1.VolumeMountStatus
	for i := range c.VolumeMounts {
		m := &c.VolumeMounts[i]
		s := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := corev1.RecursiveReadOnlyDisabled
			if m.RecursiveReadOnly != nil && (*m.RecursiveReadOnly == corev1.RecursiveReadOnlyEnabled || (*m.RecursiveReadOnly == corev1.RecursiveReadOnlyIfPossible && recursive)) {
				mode = corev1.RecursiveReadOnlyEnabled
			}
			s.RecursiveReadOnly = &mode
		}
		found = append(found, s)
	}
	return found
}

func identify(runtime, id string) string {
	if runtime == "" {
		runtime = "cri"
	}
	return runtime + "://" + id
}

// Identity is a pod as the kubelet names it in messages.
func Identity(pod *corev1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)
}
