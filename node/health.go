package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/node/metrics"
	"github.com/shimd/shimd/node/plan"
	"github.com/shimd/shimd/node/probe"
	"github.com/shimd/shimd/node/status"
)

// watch begins to probe containers that run, and ends it for those that do not any more. Of a pod that has to go only readiness is asked for.
func (w *worker) watch(ctx context.Context) {
	running := map[string]bool{}
	for _, run := range w.seen.Containers {
		c := plan.Find(w.pod, run.Name)
		if run.State != plan.Running || c == nil {
			continue
		}
		running[run.ID] = true
		if _, watched := w.probes[run.ID]; watched {
			continue
		}
		health := w.firstHealth(c, run)
		w.memory.Health[run.ID] = health
		probing, cancel := context.WithCancel(ctx)
		w.probes[run.ID] = cancel
		p := prober{worker: w, pod: w.pod, c: c, run: run}
		p.sandbox, _ = plan.Current(w.seen)
		if health.Started {
			p.started(probing)
		} else if w.terminating.IsZero() {
			p.starting(probing)
		}
	}
	for id, cancel := range w.probes {
		if !running[id] {
			cancel()
			delete(w.probes, id)
			delete(w.memory.Health, id)
		}
	}
}

// firstHealth: a container that an earlier agent said to be started or ready still is, until a probe says otherwise.
func (w *worker) firstHealth(c *corev1.Container, run plan.Container) plan.Health {
	health := plan.Health{Started: c.StartupProbe == nil || w.store.Started(string(w.pod.UID), c.Name, run.ID), Ready: c.ReadinessProbe == nil}
	for _, list := range [][]corev1.ContainerStatus{w.reported.ContainerStatuses, w.reported.InitContainerStatuses} {
		for i := range list {
			if s := &list[i]; status.Identifier(s.ContainerID) == run.ID && s.State.Running != nil {
				health.Ready = health.Ready || s.Ready
				health.Started = health.Started || (s.Started != nil && *s.Started)
			}
		}
	}
	return health
}

// prober probes one run of a container.
type prober struct {
	*worker
	pod     *corev1.Pod // as it was then; hides the worker's
	c       *corev1.Container
	run     plan.Container
	sandbox plan.Sandbox
}

// starting asks until the container has started; only then the other probes begin.
func (p prober) starting(ctx context.Context) {
	p.probe(ctx, "Startup", p.c.StartupProbe, func(result probe.Result) bool {
		if result == probe.Failure {
			p.condemn(ctx, "startup", p.c.StartupProbe)
			return false
		}
		if err := p.store.SetStarted(string(p.pod.UID), p.c.Name, p.run.ID); err != nil {
			p.log.Error("remembering a startup probe", "container", p.c.Name, "error", err)
		}
		p.post(ctx, func() {
			p.healed(p.run.ID, func(h *plan.Health) { h.Started = true })
			p.started(ctx)
		})
		return false
	})
}

func (p prober) started(ctx context.Context) {
	if p.c.LivenessProbe != nil && p.terminating.IsZero() {
		p.probe(ctx, "Liveness", p.c.LivenessProbe, func(result probe.Result) bool {
			if result == probe.Success {
				return true
			}
			p.condemn(ctx, "liveness", p.c.LivenessProbe)
			return false
		})
	}
	if p.c.ReadinessProbe != nil {
		p.probe(ctx, "Readiness", p.c.ReadinessProbe, func(result probe.Result) bool {
			ready := result == probe.Success
			p.post(ctx, func() { p.healed(p.run.ID, func(h *plan.Health) { h.Ready = ready }) })
			return true
		})
	}
}

func (p prober) probe(ctx context.Context, kind string, spec *corev1.Probe, verdict func(probe.Result) bool) {
	check := probe.Of(spec, target(p.shared, p.c, p.run.ID, podIPs(p.shared, p.pod, p.sandbox)))
	told := func(ctx context.Context) (probe.Result, string) {
		result, message := check(ctx)
		if ctx.Err() != nil {
			return result, message
		}
		p.count(kind, result)
		switch result {
		case probe.Failure:
			tell(p.cluster, p.pod, p.c.Name, corev1.EventTypeWarning, "Unhealthy", kind+" probe failed: "+message)
		case probe.Unknown:
			p.log.Warn("probe", "kind", kind, "container", p.c.Name, "message", message)
			tell(p.cluster, p.pod, p.c.Name, corev1.EventTypeWarning, "Unhealthy", kind+" probe errored and resulted in unknown state: "+message)
		}
		return result, message
	}
	since := p.run.StartedAt
	if since.IsZero() {
		since = time.Now()
	}
	p.beside.Go(func() {
		if kind == "Readiness" && spec.Exec == nil && time.Since(since) < time.Duration(spec.InitialDelaySeconds+spec.PeriodSeconds)*time.Second {
			probe.Eager(ctx, spec, since, check)
		}
		probe.Run(ctx, spec, since, told, func(r probe.Result, _ string) bool { return verdict(r) })
	})
}

func (p prober) count(kind string, result probe.Result) {
	name := map[probe.Result]string{probe.Success: "successful", probe.Failure: "failed"}[result]
	if name == "" {
		name = "unknown"
	}
	p.metrics.Probed(metrics.Probe{Namespace: p.pod.Namespace, Pod: p.pod.Name, UID: string(p.pod.UID), Container: p.c.Name, Kind: kind}, name)
}

// condemn has the worker stop a container that failed a probe.
func (p prober) condemn(ctx context.Context, kind string, spec *corev1.Probe) {
	p.post(ctx, func() {
		if !p.terminating.IsZero() {
			return // it ends anyway
		}
		p.healed(p.run.ID, func(h *plan.Health) {
			h.Kill, h.Grace = fmt.Sprintf("Container %s failed %s probe", p.c.Name, kind), spec.TerminationGracePeriodSeconds
		})
	})
}

func target(s *shared, c *corev1.Container, id string, ips []string) probe.Target {
	t := probe.Target{Container: c, Exec: func(ctx context.Context, command []string, timeout time.Duration) ([]byte, int32, error) {
		return s.client.Exec(ctx, id, command, timeout)
	}}
	if len(ips) > 0 {
		t.IP = ips[0]
	}
	return t
}

// healed changes what is known of a container, if it still runs.
func (w *worker) healed(id string, change func(*plan.Health)) {
	if health, ok := w.memory.Health[id]; ok {
		change(&health)
		w.memory.Health[id] = health
	}
}

// hook runs a lifecycle hook to its end.
func (j *job) hook(ctx context.Context, c *corev1.Container, id string, hook *corev1.LifecycleHandler) error {
	const unlimited = time.Hour // CRI's exec counts seconds; the context ends it before
	switch {
	case hook.Exec != nil:
		output, exitCode, err := j.client.Exec(ctx, id, hook.Exec.Command, unlimited)
		if err == nil && exitCode != 0 {
			err = fmt.Errorf("%q exited with %d: %.200s: %w", hook.Exec.Command, exitCode, output, errdefs.ErrAborted)
		}
		return err
	case hook.HTTPGet != nil:
		return probe.HTTPGet(ctx, target(j.shared, c, id, j.ips()), hook.HTTPGet)
	case hook.TCPSocket != nil:
		return nil // deprecated: the API server takes it, and no kubelet does anything
	case hook.Sleep != nil:
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(hook.Sleep.Seconds) * time.Second):
			return nil
		}
	}
	return errors.New("a hook without a handler")
}
