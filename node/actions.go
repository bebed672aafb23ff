package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/node/criclient"
	"github.com/shimd/shimd/node/manifest"
	"github.com/shimd/shimd/node/objects"
	"github.com/shimd/shimd/node/plan"
	"github.com/shimd/shimd/node/translate"
	"github.com/shimd/shimd/node/volume"
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

// start runs an action beside the worker. Its subject is busy until the worker has heard of its end.
func (w *worker) start(ctx context.Context, action plan.Action) {
	subject := action.Subject()
	w.memory.Busy[subject] = true
	pull, cancel := context.WithCancel(ctx)
	if action.Verb == plan.StartContainer {
		w.pulls[action.Name] = cancel
	}
	sandbox, _ := plan.Current(w.seen) // read here: the worker goes on
	w.beside.Go(func() {
		defer cancel()
		began := time.Now()
		err := w.do(ctx, pull, action, sandbox)
		log := w.log.With("action", action.Verb, "container", action.Name, "id", action.ID, "took", time.Since(began))
		switch {
		case err == nil:
			log.Info("done", "attempt", action.Attempt, "reason", action.Reason)
		case ctx.Err() == nil:
			log.Error("not done", "error", err)
		}
		w.post(ctx, func() { w.settle(action, err) })
	})
}

// settle remembers how an action ended.
func (w *worker) settle(action plan.Action, err error) {
	subject := action.Subject()
	delete(w.memory.Busy, subject)
	delete(w.pulls, action.Name)
	if err == nil {
		delete(w.memory.Retry, subject)
		return
	}
	reason := "FailedTo" + string(action.Verb)
	var said refusal
	if errors.As(err, &said) {
		reason = said.reason
	}
	before := w.memory.Retry[subject]
	retry := plan.NextRetry(before, time.Now(), reason, err.Error())
	if criclient.IsUnavailable(err) { // not its fault: soon again, and the back-off stays as it was
		retry.Delay, retry.Until = before.Delay, time.Now().Add(time.Second)
	}
	w.memory.Retry[subject] = retry
}

// do carries out one action. Only pulls are given up when the pod has to go.
func (w *worker) do(ctx, pull context.Context, action plan.Action, sandbox plan.Sandbox) error {
	switch action.Verb {
	case plan.RunSandbox:
		return w.runSandbox(ctx, action)
	case plan.StopSandbox:
		return w.client.StopSandbox(ctx, action.ID)
	case plan.RemoveSandbox:
		return w.client.RemoveSandbox(ctx, action.ID)
	case plan.StartContainer:
		return w.startContainer(ctx, pull, action, sandbox)
	case plan.StopContainer:
		return w.stopContainer(ctx, action, sandbox)
	case plan.RemoveContainer:
		return w.removeContainer(ctx, action)
	}
	return fmt.Errorf("action %q: %w", action.Verb, errdefs.ErrNotImplemented)
}

// checkFeatures refuses what the runtime would silently ignore.
func (w *worker) checkFeatures(ctx context.Context) error {
	policy := w.pod.Spec.SecurityContext.SupplementalGroupsPolicy
	if policy == nil || *policy != corev1.SupplementalGroupsPolicyStrict {
		return nil
	}
	supported, err := w.client.SupplementalGroupsPolicy(ctx)
	if err == nil && !supported {
		err = fmt.Errorf("the container runtime does not support securityContext.supplementalGroupsPolicy Strict: %w", errdefs.ErrNotImplemented)
	}
	return err
}

// runSandbox: 1. stop those before it, which frees their network; 2. volumes and the log directory; 3. the sandbox.
func (w *worker) runSandbox(ctx context.Context, action plan.Action) error {
	if err := w.checkFeatures(ctx); err != nil {
		return because("FailedCreatePodSandBox", err)
	}
	for _, id := range action.Replaces {
		if err := w.client.StopSandbox(ctx, id); err != nil {
			return because("SandboxChanged", err)
		}
	}
	if err := w.store.Prepare(ctx, w.pod, objects.Offline{}); err != nil {
		return because("FailedMount", err)
	}
	if err := os.MkdirAll(translate.LogDirectory(w.node.LogDir, w.pod), 0o755); err != nil {
		return because("FailedCreatePodSandBox", fmt.Errorf("making the pod's log directory: %w", err))
	}
	_, err := w.client.RunSandbox(ctx, translate.Sandbox(w.node, w.pod, w.file, action.Attempt))
	return because("FailedCreatePodSandBox", err)
}

// startContainer: 1. the image; 2. mounts and configuration; 3. create; 4. start, else remove it again; 5. the postStart hook.
func (w *worker) startContainer(ctx, pull context.Context, action plan.Action, sandbox plan.Sandbox) error {
	c := containerOf(w.pod, action.Name)
	sandboxConfig := translate.Sandbox(w.node, w.pod, w.file, sandbox.Attempt)
	image, err := w.image(pull, c, sandboxConfig)
	if err != nil {
		return err
	}
	if pull.Err() != nil {
		return fmt.Errorf("starting container %s: %w", c.Name, pull.Err())
	}
	config, err := w.configure(c, action, sandbox, image)
	if err != nil {
		return because("CreateContainerConfigError", err)
	}
	id, err := w.client.CreateContainer(ctx, action.SandboxID, sandboxConfig, config)
	if err != nil {
		return because("CreateContainerError", err)
	}
	if err := w.client.StartContainer(ctx, id); err != nil {
		return because("RunContainerError", errors.Join(err, w.client.RemoveContainer(ctx, id)))
	}
	if c.Lifecycle == nil || c.Lifecycle.PostStart == nil {
		return nil
	}
	if err := w.hook(ctx, c, id, w.ips(sandbox), c.Lifecycle.PostStart); err != nil {
		w.log.Error("postStart hook", "container", c.Name, "error", err)
		// As the kubelet: the container is killed, and restarted by its policy. That is no failure of the start.
		return because("PostStartHookError", w.client.StopContainer(ctx, id, w.grace()))
	}
	return nil
}

func (w *worker) configure(c *corev1.Container, action plan.Action, sandbox plan.Sandbox, image image) (*criv1.ContainerConfig, error) {
	hosts := volume.Hosts{IPs: w.ips(sandbox), Hostname: translate.Hostname(w.node, w.pod)}
	if err := os.MkdirAll(filepath.Dir(w.logPath(c.Name, action.Attempt)), 0o755); err != nil {
		return nil, fmt.Errorf("making the log directory of container %s: %w", c.Name, err)
	}
	mounts, err := w.store.Mounts(w.pod, c, volume.Run{Attempt: action.Attempt, Hosts: hosts})
	if err != nil {
		return nil, err
	}
	return translate.Container(w.node, w.pod, c, translate.Run{
		Attempt: action.Attempt, Backoff: action.Backoff, ImageRef: image.ref, User: image.user, Mounts: mounts,
		Where: manifest.Addresses{Node: w.node.Name, NodeIPs: w.node.IPs, PodIPs: w.ips(sandbox)},
	})
}

// stopContainer: 1. the preStop hook, within the grace period; 2. stop, with what is left of it.
func (w *worker) stopContainer(ctx context.Context, action plan.Action, sandbox plan.Sandbox) error {
	const least = 2 * time.Second // whatever the hook took
	began := time.Now()
	if c := containerOf(w.pod, action.Name); c != nil && c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
		limited, cancel := context.WithTimeout(ctx, action.Grace)
		if err := w.hook(limited, c, action.ID, w.ips(sandbox), c.Lifecycle.PreStop); err != nil {
			w.log.Error("preStop hook", "container", c.Name, "error", err)
		}
		cancel()
	}
	return w.client.StopContainer(ctx, action.ID, max(action.Grace-time.Since(began), least))
}

// removeContainer removes a dead run, its message and its log.
func (w *worker) removeContainer(ctx context.Context, action plan.Action) error {
	if err := w.client.RemoveContainer(ctx, action.ID); err != nil {
		return err
	}
	var removed error
	logs, err := filepath.Glob(w.logPath(action.Name, action.Attempt) + "*") // rotated ones too
	if err != nil {
		return fmt.Errorf("looking for logs of container %s: %w", action.Name, err)
	}
	for _, log := range logs {
		if err := os.Remove(log); err != nil && !os.IsNotExist(err) {
			removed = errors.Join(removed, fmt.Errorf("removing a log: %w", err))
		}
	}
	return errors.Join(removed, w.store.RemoveMessage(string(w.pod.UID), action.Name, action.Attempt))
}

func (w *worker) logPath(container string, attempt uint32) string {
	return filepath.Join(translate.LogDirectory(w.node.LogDir, w.pod), translate.LogPath(container, attempt))
}

func (w *worker) grace() time.Duration {
	if w.pod.Spec.TerminationGracePeriodSeconds == nil {
		return corev1.DefaultTerminationGracePeriodSeconds * time.Second
	}
	return time.Duration(*w.pod.Spec.TerminationGracePeriodSeconds) * time.Second
}

// ips are where the pod is reached: the node's, when it has no network of its own.
func (w *worker) ips(sandbox plan.Sandbox) []string {
	if w.pod.Spec.HostNetwork {
		return w.node.IPs
	}
	return sandbox.IPs
}
