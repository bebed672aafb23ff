package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/node/criclient"
	"github.com/shimd/shimd/node/plan"
	"github.com/shimd/shimd/node/status"
)

// refusal is an error with the reason that a waiting container shows.
type refusal struct {
	reason string
	err    error
}

func (r refusal) Error() string { return r.err.Error() }
func (r refusal) Unwrap() error { return r.err }

func because(reason string, err error) error {
	if err == nil {
		return nil
	}
	return refusal{reason: reason, err: err}
}

// Reasons of the kubelet that decide how soon something is tried again.
const (
	reasonFailedMount   = "FailedMount"
	reasonFailedSandbox = "FailedCreatePodSandBox"
	reasonConfigError   = "CreateContainerConfigError"
	reasonCreateError   = "CreateContainerError"
	reasonRunError      = "RunContainerError"
	reasonHookError     = "PostStartHookError"
)

// stopping is a stop under way.
type stopping struct {
	cancel context.CancelFunc
	until  time.Time // when the container is killed at the latest
}

// job is an action under way, with what the worker knew when it began.
type job struct {
	*worker
	pod     *corev1.Pod // hides the worker's, which may change meanwhile
	action  plan.Action
	sandbox plan.Sandbox
	pull    context.Context // ends when the pod has to go
	hooked  bool            // the preStop hook has run already
	target  string          // of an ephemeral container: the ID of the one whose processes it sees
}

// start runs an action beside the worker. Its subject is busy until the worker has heard of its end.
func (w *worker) start(ctx context.Context, action plan.Action) {
	subject := action.Subject()
	w.memory.Busy[subject] = true
	within, cancel := context.WithCancel(ctx)
	j := &job{worker: w, pod: w.pod, action: action, pull: within}
	j.sandbox, _ = plan.Current(w.seen) // read here: the worker goes on
	switch action.Verb {
	case plan.StartContainer:
		w.pulls[action.Name] = cancel
		j.target = w.targetOf(action.Name)
	case plan.StopContainer:
		w.stops[action.ID] = stopping{cancel: cancel, until: time.Now().Add(action.Grace)}
		j.hooked = w.memory.Hooked[action.ID]
		w.memory.Hooked[action.ID] = true
		w.tellOfKill(action)
	case plan.RunPreStop:
		w.memory.Hooked[action.ID] = true
		w.tellOfKill(action)
	case plan.UpdateContainer:
		w.updating.Add(1)
	}
	w.beside.Go(func() {
		defer cancel()
		began := time.Now()
		err := j.do(ctx, within)
		log := w.log.With("action", action.Verb, "container", action.Name, "id", action.ID, "took", time.Since(began))
		switch {
		case err == nil:
			log.Info("done", "attempt", action.Attempt, "reason", action.Reason)
		case ctx.Err() == nil:
			log.Error("not done", "error", err)
		}
		w.post(ctx, func() { w.settle(j.pod, action, err) })
	})
}

// tellOfKill: once for each container.
func (w *worker) tellOfKill(action plan.Action) {
	if !w.killed[action.ID] {
		w.killed[action.ID] = true
		w.event(action.Name, corev1.EventTypeNormal, "Killing", action.Reason)
	}
}

// hurry gives up stops that would take longer than the pod may now; they are planned anew, with what time is left.
func (w *worker) hurry() {
	due := w.terminating.Add(time.Duration(w.grace) * time.Second)
	for _, stop := range w.stops {
		if stop.until.After(due) {
			stop.cancel()
		}
	}
}

// settle remembers how an action ended.
func (w *worker) settle(pod *corev1.Pod, action plan.Action, err error) {
	subject := action.Subject()
	delete(w.memory.Busy, subject)
	switch action.Verb {
	case plan.StartContainer:
		delete(w.pulls, action.Name)
	case plan.StopContainer:
		delete(w.stops, action.ID)
		if errors.Is(err, context.Canceled) || criclient.IsCanceled(err) {
			return // see hurry
		}
	}
	if err == nil {
		if action.Verb == plan.RunSandbox {
			w.volumesDue = time.Now() // they were made now: when are they due again?
		}
		delete(w.memory.Retry, subject)
		if c := plan.Find(pod, action.Name); action.Verb == plan.UpdateContainer && c != nil {
			w.memory.Applied[action.ID] = plan.Fingerprint(c)
		}
		return
	}
	reason := "FailedTo" + string(action.Verb)
	var said refusal
	if errors.As(err, &said) {
		reason = said.reason
	}
	if !w.terminating.IsZero() && action.Verb == plan.StartContainer {
		return // given up
	}
	w.memory.Retry[subject] = w.retry(w.memory.Retry[subject], reason, err)
}

// retry says when to try again. Pulls back off as the kubelet's; volumes and sandboxes wait for others and are looked at sooner; of what a new
// run of the container answers, the restart policy is the judge.
func (w *worker) retry(before plan.Retry, reason string, err error) plan.Retry {
	now := time.Now()
	retry := plan.NextRetry(before, now, reason, err.Error())
	var first, longest time.Duration
	switch {
	case criclient.IsUnavailable(err): // not its fault: soon again, and the back-off stays as it was
		retry.Delay, retry.Until = before.Delay, now.Add(time.Second)
		return retry
	case reason == reasonFailedMount:
		first, longest = 500*time.Millisecond, 20*time.Second
	case reason == reasonFailedSandbox, reason == reasonConfigError, reason == reasonCreateError:
		first, longest = 2*time.Second, 15*time.Second
	case reason == reasonHookError:
		retry.Delay, retry.Until = 0, now
		return retry
	default:
		return retry
	}
	retry.Delay = first
	if before.Reason == reason && before.Delay > 0 {
		retry.Delay = min(2*before.Delay, longest)
	}
	retry.Until = now.Add(retry.Delay)
	return retry
}

// do carries out one action. within ends when it is to be given up; only pulls, hooks and stops are.
func (j *job) do(ctx, within context.Context) error {
	switch j.action.Verb {
	case plan.RunSandbox:
		return j.runSandbox(ctx)
	case plan.StopSandbox:
		return j.client.StopSandbox(ctx, j.action.ID)
	case plan.RemoveSandbox:
		return j.client.RemoveSandbox(ctx, j.action.ID)
	case plan.StartContainer:
		return j.startContainer(ctx)
	case plan.RunPreStop:
		j.preStop(ctx)
		return nil
	case plan.StopContainer:
		return j.stopContainer(within)
	case plan.UpdateContainer:
		return j.updateContainer(ctx)
	case plan.RemoveContainer:
		return j.removeContainer(ctx)
	}
	return fmt.Errorf("action %q: %w", j.action.Verb, errdefs.ErrNotImplemented)
}

func (j *job) event(container, kind, reason, message string) {
	tell(j.cluster, j.pod, container, kind, reason, message)
}

// targetOf is the running container whose processes an ephemeral one is to see.
func (w *worker) targetOf(name string) string {
	for i := range w.pod.Spec.EphemeralContainers {
		if c := &w.pod.Spec.EphemeralContainers[i]; c.Name == name && c.TargetContainerName != "" {
			if run, exists := plan.Last(w.seen, c.TargetContainerName); exists && run.State == plan.Running {
				return run.ID
			}
		}
	}
	return ""
}

// ips are where the pod is reached: the node's, when it has no network of its own.
func (j *job) ips() []string { return podIPs(j.shared, j.pod, j.sandbox) }

func podIPs(s *shared, pod *corev1.Pod, sandbox plan.Sandbox) []string {
	if pod.Spec.HostNetwork {
		return s.node.IPs
	}
	return status.Ordered(sandbox.IPs, s.node.IPs)
}
