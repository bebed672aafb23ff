package plan

import (
	"cmp"
	"iter"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// The kubelet's back-off: 10 s doubling to 5 min; a run of twice the longest delay starts over.
const (
	firstBackoff = 10 * time.Second
	maxBackoff   = 5 * time.Minute
	forgiven     = 2 * maxBackoff
)

// NextBackoff is the delay to record with the successor of an ended run: what the successor's successor has to wait. Recorded with the
// container, it outlives the agent.
func NextBackoff(ended Container) time.Duration {
	if ended.Backoff == 0 || longEnough(ended) {
		return firstBackoff
	}
	return min(2*ended.Backoff, maxBackoff)
}

// RestartAt is when an ended run may be followed by the next: at once the first time.
func RestartAt(ended Container) time.Time {
	if longEnough(ended) {
		return ended.FinishedAt
	}
	return ended.FinishedAt.Add(ended.Backoff)
}

func longEnough(ended Container) bool {
	return !ended.StartedAt.IsZero() && ended.FinishedAt.Sub(ended.StartedAt) > forgiven
}

// NextRetry is what to remember of a failed try of something that is tried again with the same back-off.
func NextRetry(before Retry, now time.Time, reason, message string) Retry {
	delay := firstBackoff
	if before.Delay > 0 && now.Sub(before.Until) < forgiven {
		delay = min(2*before.Delay, maxBackoff)
	}
	return Retry{Reason: reason, Message: message, Delay: delay, Until: now.Add(delay)}
}

// Restarts says whether policy wants another run after an ended one.
func Restarts(pod *corev1.Pod, c *corev1.Container, ended Container) bool {
	if IsSidecar(c) {
		return true
	}
	switch pod.Spec.RestartPolicy {
	case corev1.RestartPolicyNever:
		// An init container that succeeded runs once more in a new sandbox; one that failed has failed the pod, see Ended.
		return isInit(pod, c.Name)
	case corev1.RestartPolicyOnFailure:
		return ended.ExitCode != 0 || isInit(pod, c.Name)
	default:
		return true
	}
}

// Ended says whether a pod has ended for good: all its containers, or an init container that failed and is not tried again.
func Ended(pod *corev1.Pod, seen Observed) bool {
	if pod.Spec.RestartPolicy == corev1.RestartPolicyAlways {
		return false
	}
	if initFailed(pod, seen) {
		return true
	}
	for i := range pod.Spec.Containers {
		run, exists := last(seen, pod.Spec.Containers[i].Name, "")
		if !exists || run.State != Exited || Restarts(pod, &pod.Spec.Containers[i], run) {
			return false
		}
	}
	return true
}

func initFailed(pod *corev1.Pod, seen Observed) bool {
	if pod.Spec.RestartPolicy != corev1.RestartPolicyNever {
		return false
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		run, exists := last(seen, c.Name, "")
		if exists && !IsSidecar(c) && run.State == Exited && run.ExitCode != 0 {
			return true
		}
	}
	return false
}

// IsSidecar says whether an init container stays beside the others instead of ending before them.
func IsSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func isInit(pod *corev1.Pod, name string) bool {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return true
		}
	}
	return false
}

// Last is the latest run of a container, in whatever sandbox.
func Last(seen Observed, name string) (Container, bool) { return last(seen, name, "") }

// last is the latest run of a container; with a sandbox, the latest in it.
func last(seen Observed, name, sandboxID string) (Container, bool) {
	var found Container
	exists := false
	for _, run := range seen.Containers {
		if run.Name == name && (sandboxID == "" || run.SandboxID == sandboxID) && (!exists || newer(run, found) > 0) {
			found, exists = run, true
		}
	}
	return found, exists
}

func newer(a, b Container) int {
	return cmp.Or(cmp.Compare(a.Attempt, b.Attempt), a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
}

// all containers of a pod, init containers first.
func all(pod *corev1.Pod) iter.Seq[*corev1.Container] {
	return func(yield func(*corev1.Container) bool) {
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				if !yield(&list[i]) {
					return
				}
			}
		}
	}
}

// find is the container of a name, or nil.
func find(pod *corev1.Pod, name string) *corev1.Container {
	for c := range all(pod) {
		if c.Name == name {
			return c
		}
	}
	return nil
}
