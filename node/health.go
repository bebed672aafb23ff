package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/node/plan"
	"github.com/shimd/shimd/node/probe"
)

// watch begins to probe containers that run, and ends it for those that do not any more.
func (w *worker) watch(ctx context.Context) {
	running := map[string]bool{}
	sandbox, _ := plan.Current(w.seen)
	for _, run := range w.seen.Containers {
		c := containerOf(w.pod, run.Name)
		if run.State != plan.Running || c == nil {
			continue
		}
		running[run.ID] = true
		if _, watched := w.probes[run.ID]; watched {
			continue
		}
		started := c.StartupProbe == nil || w.store.Started(string(w.pod.UID), c.Name, run.ID)
		w.memory.Health[run.ID] = plan.Health{Started: started, Ready: c.ReadinessProbe == nil}
		probing, cancel := context.WithCancel(ctx)
		w.probes[run.ID] = cancel
		if started {
			w.probeStarted(probing, c, run, sandbox)
		} else {
			w.probeStarting(probing, c, run, sandbox)
		}
	}
	for id, cancel := range w.probes {
		if !running[id] || !w.terminating.IsZero() {
			cancel()
		}
		if !running[id] {
			delete(w.probes, id)
			delete(w.memory.Health, id)
		}
	}
}

// probeStarting asks until the container has started; only then the other probes begin.
func (w *worker) probeStarting(ctx context.Context, c *corev1.Container, run plan.Container, sandbox plan.Sandbox) {
	w.probe(ctx, "startup", c.StartupProbe, c, run, sandbox, func(result probe.Result, message string) bool {
		if result == probe.Failure {
			w.condemn(ctx, c, run.ID, "startup", c.StartupProbe, message)
			return false
		}
		if err := w.store.SetStarted(string(w.pod.UID), c.Name, run.ID); err != nil {
			w.log.Error("remembering a startup probe", "container", c.Name, "error", err)
		}
		w.post(ctx, func() {
			w.update(run.ID, func(h *plan.Health) { h.Started = true })
			w.probeStarted(ctx, c, run, sandbox)
		})
		return false
	})
}

func (w *worker) probeStarted(ctx context.Context, c *corev1.Container, run plan.Container, sandbox plan.Sandbox) {
	if c.LivenessProbe != nil {
		w.probe(ctx, "liveness", c.LivenessProbe, c, run, sandbox, func(result probe.Result, message string) bool {
			if result == probe.Success {
				return true
			}
			w.condemn(ctx, c, run.ID, "liveness", c.LivenessProbe, message)
			return false
		})
	}
	if c.ReadinessProbe != nil {
		w.probe(ctx, "readiness", c.ReadinessProbe, c, run, sandbox, func(result probe.Result, message string) bool {
			ready := result == probe.Success
			w.post(ctx, func() {
				w.update(run.ID, func(h *plan.Health) {
					if h.Ready != ready {
						w.log.Info("readiness changed", "container", c.Name, "ready", ready, "message", message)
					}
					h.Ready = ready
				})
			})
			return true
		})
	}
}

func (w *worker) probe(ctx context.Context, kind string, p *corev1.Probe, c *corev1.Container, run plan.Container, sandbox plan.Sandbox, verdict func(probe.Result, string) bool) {
	check := probe.Of(p, w.target(c, run.ID, w.ips(sandbox)))
	logged := func(ctx context.Context) (probe.Result, string) {
		result, message := check(ctx)
		if result != probe.Success && ctx.Err() == nil {
			w.log.Warn("probe", "kind", kind, "container", c.Name, "message", message)
		}
		return result, message
	}
	since := run.StartedAt
	if since.IsZero() {
		since = time.Now()
	}
	w.beside.Go(func() { probe.Run(ctx, p, since, logged, verdict) })
}

func (w *worker) target(c *corev1.Container, id string, ips []string) probe.Target {
	target := probe.Target{Container: c, Exec: func(ctx context.Context, command []string, timeout time.Duration) ([]byte, int32, error) {
		return w.client.Exec(ctx, id, command, timeout)
	}}
	if len(ips) > 0 {
		target.IP = ips[0]
	}
	return target
}

// condemn has the worker stop a container that failed a probe.
func (w *worker) condemn(ctx context.Context, c *corev1.Container, id, kind string, p *corev1.Probe, message string) {
	w.post(ctx, func() {
		w.update(id, func(h *plan.Health) {
			h.Kill, h.Grace = fmt.Sprintf("container %s failed its %s probe: %s", c.Name, kind, message), p.TerminationGracePeriodSeconds
		})
	})
}

// update changes what is known of a container, if it still runs.
func (w *worker) update(id string, change func(*plan.Health)) {
	if health, ok := w.memory.Health[id]; ok {
		change(&health)
		w.memory.Health[id] = health
	}
}

// hook runs a lifecycle hook to its end.
func (w *worker) hook(ctx context.Context, c *corev1.Container, id string, ips []string, hook *corev1.LifecycleHandler) error {
	const unlimited = time.Hour // CRI's exec counts seconds; the context ends it before
	switch {
	case hook.Exec != nil:
		output, exitCode, err := w.client.Exec(ctx, id, hook.Exec.Command, unlimited)
		if err == nil && exitCode != 0 {
			err = fmt.Errorf("%q exited with %d: %.200s: %w", hook.Exec.Command, exitCode, output, errdefs.ErrAborted)
		}
		return err
	case hook.HTTPGet != nil:
		return probe.HTTPGet(ctx, w.target(c, id, ips), hook.HTTPGet)
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
