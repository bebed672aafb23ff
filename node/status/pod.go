package status

import (
	"path/filepath"

	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/node/plan"
	"github.com/shimd/shimd/node/translate"
)

// PhaseTerminating is of a pod whose file is gone.
const PhaseTerminating = "Terminating"

// Extra is what a pod's status holds beside what a plan is made of.
type Extra struct {
	File    string
	LogDir  string
	NodeIPs []string
	Message func(run plan.Container) string // what an ended run left behind
}

// Of makes the status of a pod. It is pure but for extra.Message.
func Of(in plan.Input, extra Extra) Pod {
	pod := in.Pod
	s := Pod{
		Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID), File: extra.File, QOS: string(translate.QOS(pod)),
		Ready: true, Containers: []Container{},
	}
	if current, ok := plan.Current(in.Seen); ok {
		s.IPs, s.StartedAt = current.IPs, current.CreatedAt
		if pod.Spec.HostNetwork {
			s.IPs = extra.NodeIPs
		}
	}
	logs := translate.LogDirectory(extra.LogDir, pod)
	initialised := true
	for i := range pod.Spec.InitContainers {
		c := containerOf(in, extra, &pod.Spec.InitContainers[i], logs)
		c.Init = true
		if plan.IsSidecar(&pod.Spec.InitContainers[i]) {
			initialised = initialised && c.Started
			s.Ready = s.Ready && c.Ready
		} else {
			c.Ready = c.State == "terminated" && c.ExitCode == 0
			initialised = initialised && c.Ready
		}
		s.Containers = append(s.Containers, c)
	}
	for i := range pod.Spec.Containers {
		c := containerOf(in, extra, &pod.Spec.Containers[i], logs)
		if !initialised && c.State == "waiting" && c.Reason == "ContainerCreating" {
			c.Reason = "PodInitializing"
		}
		s.Ready = s.Ready && c.Ready
		s.Containers = append(s.Containers, c)
	}
	s.Phase = phase(in, s.Containers)
	if retry, ok := in.Memory.Retry[plan.SandboxSubject]; ok {
		s.Reason, s.Message = retry.Reason, retry.Message
	}
	if s.Phase != string(corev1.PodRunning) {
		s.Ready = false
	}
	return s
}

func containerOf(in plan.Input, extra Extra, c *corev1.Container, logs string) Container {
	s := Container{Name: c.Name, Image: c.Image, State: "waiting", Reason: "ContainerCreating"}
	run, exists := plan.Last(in.Seen, c.Name)
	if exists {
		s.ID, s.ImageID, s.Restarts, s.StartedAt = run.ID, run.ImageID, run.Attempt, run.StartedAt
		s.Log = filepath.Join(logs, translate.LogPath(c.Name, run.Attempt))
	}
	retry, failing := in.Memory.Retry[c.Name]
	switch {
	case exists && (run.State == plan.Running || run.State == plan.Unknown):
		health := in.Memory.Health[run.ID]
		s.State, s.Reason, s.Started, s.Ready = "running", "", health.Started, health.Ready && health.Started && health.Kill == ""
		s.Message = health.Kill
	case exists && run.State == plan.Exited:
		s.State, s.FinishedAt, s.ExitCode = "terminated", run.FinishedAt, run.ExitCode
		s.Reason, s.Message = endReason(run), extra.Message(run)
		waits := in.Terminating.IsZero() && !plan.Ended(in.Pod, in.Seen) && plan.Restarts(in.Pod, c, run) && !initDone(in.Pod, c, run)
		if waits {
			s.Last = &Ended{ID: run.ID, ExitCode: run.ExitCode, Reason: s.Reason, Message: s.Message, FinishedAt: run.FinishedAt}
			s.State, s.Reason, s.Message = "waiting", "CrashLoopBackOff", "" // for the moment between, too
		}
	}
	if failing && s.State == "waiting" {
		s.Reason, s.Message = retry.Reason, retry.Message
	}
	if s.Last == nil && s.State != "terminated" {
		s.Last = before(in, extra, run)
	}
	return s
}

// initDone says whether an ordinary init container has done what it is for.
func initDone(pod *corev1.Pod, c *corev1.Container, run plan.Container) bool {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == c.Name {
			return !plan.IsSidecar(c) && run.ExitCode == 0
		}
	}
	return false
}

// before is how the run before this one ended, as far as it is kept.
func before(in plan.Input, extra Extra, run plan.Container) *Ended {
	var found *Ended
	attempt := uint32(0)
	for _, other := range in.Seen.Containers {
		if other.Name == run.Name && other.ID != run.ID && other.State == plan.Exited && (found == nil || other.Attempt > attempt) {
			attempt = other.Attempt
			found = &Ended{ID: other.ID, ExitCode: other.ExitCode, Reason: endReason(other), Message: extra.Message(other), FinishedAt: other.FinishedAt}
		}
	}
	return found
}

func endReason(run plan.Container) string {
	switch {
	case run.Reason != "":
		return run.Reason
	case run.ExitCode == 0:
		return "Completed"
	default:
		return "Error"
	}
}

func phase(in plan.Input, containers []Container) string {
	if !in.Terminating.IsZero() {
		return PhaseTerminating
	}
	if plan.Ended(in.Pod, in.Seen) {
		for _, c := range containers {
			if c.State == "terminated" && c.ExitCode != 0 && !(c.Init && isSidecar(in.Pod, c.Name)) {
				return string(corev1.PodFailed)
			}
		}
		return string(corev1.PodSucceeded)
	}
	for _, c := range containers {
		if !c.Init && (c.State != "waiting" || c.Last != nil) {
			return string(corev1.PodRunning)
		}
	}
	return string(corev1.PodPending)
}

func isSidecar(pod *corev1.Pod, name string) bool {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return plan.IsSidecar(&pod.Spec.InitContainers[i])
		}
	}
	return false
}
