package plan

import (
	"cmp"
	"iter"
	"slices"
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

// Restarts says whether policy wants another run after an ended one: the container's rules, else its own policy, else the pod's.
func Restarts(pod *corev1.Pod, c *corev1.Container, ended Container) bool {
	if IsEphemeral(pod, c.Name) {
		return false
	}
	if IsInit(pod, c.Name) && !IsSidecar(c) && ended.ExitCode == 0 {
		return true // once more in a new sandbox; see initFailed for those that fail
	}
	return again(pod, c, ended.ExitCode)
}

func again(pod *corev1.Pod, c *corev1.Container, exitCode int32) bool {
	if c.RestartPolicy != nil {
		if rule := matchingRule(c, exitCode); rule != nil && rule.Action == corev1.ContainerRestartRuleActionRestart {
			return true
		}
		switch *c.RestartPolicy {
		case corev1.ContainerRestartPolicyAlways:
			return true
		case corev1.ContainerRestartPolicyOnFailure:
			return exitCode != 0
		case corev1.ContainerRestartPolicyNever:
			return false
		}
	}
	switch pod.Spec.RestartPolicy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return exitCode != 0
	default:
		return true
	}
}

func matchingRule(c *corev1.Container, exitCode int32) *corev1.ContainerRestartRule {
	for i := range c.RestartPolicyRules {
		rule := &c.RestartPolicyRules[i]
		if rule.ExitCodes == nil {
			continue
		}
		found := slices.Contains(rule.ExitCodes.Values, exitCode)
		if found == (rule.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
			return rule
		}
	}
	return nil
}

// Ended says whether a pod has ended for good: all its containers, or an init container that failed and is not tried again.
func Ended(pod *corev1.Pod, seen Observed) bool {
	if initFailed(pod, seen) {
		return true
	}
	for i := range pod.Spec.Containers {
		run, exists := last(seen, pod.Spec.Containers[i].Name, "")
		if !exists || run.State != Exited || Restarts(pod, &pod.Spec.Containers[i], run) {
			return false
		}
	}
	return len(pod.Spec.Containers) > 0
}

func initFailed(pod *corev1.Pod, seen Observed) bool {
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		run, exists := last(seen, c.Name, "")
		if exists && !IsSidecar(c) && run.State == Exited && run.ExitCode != 0 && !again(pod, c, run.ExitCode) {
			return true
		}
	}
	return false
}

// Deadline is the verdict on a pod that has been active for longer than it may, and when that will be otherwise (zero: never).
func Deadline(pod *corev1.Pod, startedAt, now time.Time) (*Verdict, time.Time) {
	if pod.Spec.ActiveDeadlineSeconds == nil || startedAt.IsZero() {
		return nil, time.Time{}
	}
	due := startedAt.Add(time.Duration(*pod.Spec.ActiveDeadlineSeconds) * time.Second)
	if now.Before(due) {
		return nil, due
	}
	return &Verdict{Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"}, time.Time{}
}

// IsSidecar says whether an init container stays beside the others instead of ending before them.
func IsSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// IsInit says whether a name is an init container's, a sidecar's included.
func IsInit(pod *corev1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == name })
}

// IsEphemeral says whether a name is an ephemeral container's: one that was added to a running pod, and runs once.
func IsEphemeral(pod *corev1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == name })
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

// All containers of a pod: init containers first, ephemeral ones last.
func All(pod *corev1.Pod) iter.Seq[*corev1.Container] {
	return func(yield func(*corev1.Container) bool) {
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				if !yield(&list[i]) {
					return
				}
			}
		}
		for i := range pod.Spec.EphemeralContainers {
			if !yield(Ephemeral(&pod.Spec.EphemeralContainers[i])) {
				return
			}
		}
	}
}

// Ephemeral is an ephemeral container as a container, which has the same fields.
func Ephemeral(c *corev1.EphemeralContainer) *corev1.Container {
	return (*corev1.Container)(&c.EphemeralContainerCommon)
}

// Find is the container of a name, or nil.
func Find(pod *corev1.Pod, name string) *corev1.Container {
	for c := range All(pod) {
		if c.Name == name {
			return c
		}
	}
	return nil
}
