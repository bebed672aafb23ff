package node

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/node/translate"
	"github.com/shimd/shimd/node/volume"
)

// runSandbox: 1. stop those before it, which frees their network; 2. the pod's cgroup, volumes and the log directory; 3. the sandbox.
func (j *job) runSandbox(ctx context.Context) error {
	if err := j.checkFeatures(); err != nil {
		return because(reasonFailedSandbox, j.sandboxFailed(err))
	}
	if len(j.action.Replaces) > 0 {
		j.event("", corev1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
	for _, id := range j.action.Replaces {
		if err := j.client.StopSandbox(ctx, id); err != nil {
			return because("SandboxChanged", err)
		}
	}
	if j.cgroups != nil {
		if err := j.cgroups.Ensure(ctx, j.pod); err != nil {
			j.event("", corev1.EventTypeWarning, "FailedToCreatePodContainer", "unable to ensure pod container exists: "+err.Error())
			return because("FailedToCreatePodContainer", err)
		}
	}
	if err := j.store.Prepare(j.pull, j.pod, j.cluster); err != nil {
		for _, failure := range volume.Failures(err) {
			j.event("", corev1.EventTypeWarning, reasonFailedMount, failure.Error())
		}
		return because(reasonFailedMount, err)
	}
	if err := os.MkdirAll(translate.LogDirectory(j.node.LogDir, j.pod), 0o755); err != nil {
		return because(reasonFailedSandbox, j.sandboxFailed(fmt.Errorf("making the pod's log directory: %w", err)))
	}
	handler, err := j.handler(ctx)
	if err != nil {
		return because(reasonFailedSandbox, j.sandboxFailed(err))
	}
	config, err := j.sandboxConfig(j.action.Attempt)
	if err == nil && config.Linux.SecurityContext.NamespaceOptions.UsernsOptions != nil && !j.about().userNamespaces[handler] {
		err = fmt.Errorf("spec.hostUsers false: the runtime handler %q does not support user namespaces: %w", handler, errdefs.ErrNotImplemented)
	}
	if err == nil {
		_, err = j.client.RunSandbox(ctx, config, handler)
	}
	return because(reasonFailedSandbox, j.sandboxFailed(err))
}

func (j *job) sandboxFailed(err error) error {
	if err != nil {
		j.event("", corev1.EventTypeWarning, reasonFailedSandbox, "Failed to create pod sandbox: "+err.Error())
	}
	return err
}

// handler is the runtime's name for the pod's runtime class.
func (j *job) handler(ctx context.Context) (string, error) {
	const patience = 10 * time.Second
	if j.pod.Spec.RuntimeClassName == nil || *j.pod.Spec.RuntimeClassName == "" {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return j.cluster.RuntimeHandler(ctx, *j.pod.Spec.RuntimeClassName)
}

func (j *job) sandboxConfig(attempt uint32) (*criv1.PodSandboxConfig, error) {
	users, err := j.users()
	if err != nil {
		return nil, err
	}
	place := translate.Place{File: j.file, Attempt: attempt, UserNS: users}
	if j.cgroups != nil {
		place.CgroupParent = j.cgroups.Parent(j.pod)
	}
	return translate.Sandbox(j.node, j.pod, place)
}

// checkFeatures refuses what the runtime would silently ignore.
func (j *job) checkFeatures() error {
	policy := j.pod.Spec.SecurityContext.SupplementalGroupsPolicy
	if policy != nil && *policy == corev1.SupplementalGroupsPolicyStrict && !j.about().groupsPolicy {
		return fmt.Errorf("the container runtime does not support securityContext.supplementalGroupsPolicy Strict: %w", errdefs.ErrNotImplemented)
	}
	return nil
}

// users is the pod's user namespace; nil: the node's.
func (j *job) users() (*criv1.UserNamespace, error) {
	if j.pod.Spec.HostUsers == nil || *j.pod.Spec.HostUsers {
		return nil, nil
	}
	first, err := j.store.Users(string(j.pod.UID))
	if err != nil {
		return nil, err
	}
	mapping := []*criv1.IDMapping{{HostId: first, Length: volume.UsersLength}}
	return &criv1.UserNamespace{Mode: criv1.NamespaceMode_POD, Uids: mapping, Gids: mapping}, nil
}

// refreshVolumes brings the content of volumes up to date when it is due, beside the worker.
func (w *worker) refreshVolumes(ctx context.Context) (due time.Time) {
	const subject = "volumes"
	if w.volumesDue.IsZero() || !w.terminating.IsZero() || w.memory.Busy[subject] || len(w.seen.Sandboxes) == 0 {
		return time.Time{}
	}
	if time.Now().Before(w.volumesDue) {
		return w.volumesDue
	}
	w.memory.Busy[subject] = true
	w.volumesDue = time.Time{}
	pod := w.pod
	w.beside.Go(func() {
		next, err := w.store.Refresh(ctx, pod, w.cluster)
		if err != nil && ctx.Err() == nil {
			w.log.Warn("refreshing volumes", "error", err)
			next = earliest(next, time.Now().Add(retryVolumes))
		}
		w.post(ctx, func() {
			delete(w.memory.Busy, subject)
			w.volumesDue = earliest(w.volumesDue, next)
		})
	})
	return time.Time{}
}

// retryVolumes is when volumes that could not be refreshed are looked at again.
const retryVolumes = 20 * time.Second
