package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/node/manifest"
	"github.com/shimd/shimd/node/plan"
	"github.com/shimd/shimd/node/translate"
	"github.com/shimd/shimd/node/volume"
)

// startContainer: 1. the image; 2. mounts and configuration; 3. create; 4. start; 5. the postStart hook. A container whose start failed stays as
// the runtime left it: one that has ended then counts as a run, others are removed by the next plan.
func (j *job) startContainer(ctx context.Context) error {
	c := plan.Find(j.pod, j.action.Name)
	sandboxConfig, err := j.sandboxConfig(j.sandbox.Attempt)
	if err != nil {
		return because(reasonConfigError, err)
	}
	image, err := j.image(j.pull, c, sandboxConfig)
	if err != nil {
		return err
	}
	if j.pull.Err() != nil {
		return fmt.Errorf("starting container %s: %w", c.Name, j.pull.Err())
	}
	config, err := j.configure(ctx, c, image, sandboxConfig)
	if err != nil {
		return because(reasonConfigError, j.failed(c, err))
	}
	id, err := j.client.CreateContainer(ctx, j.action.SandboxID, sandboxConfig, config)
	if err != nil {
		return because(reasonCreateError, j.failed(c, err))
	}
	j.event(c.Name, corev1.EventTypeNormal, "Created", "Container created")
	if err := j.client.StartContainer(ctx, id); err != nil {
		return because(reasonRunError, j.failed(c, err))
	}
	j.event(c.Name, corev1.EventTypeNormal, "Started", "Container started")
	j.linkLog(c.Name, id)
	if c.Lifecycle == nil || c.Lifecycle.PostStart == nil {
		return nil
	}
	if err := j.hook(j.pull, c, id, c.Lifecycle.PostStart); err != nil {
		j.log.Error("postStart hook", "container", c.Name, "error", err)
		j.event(c.Name, corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed") // no more: it may hold secrets
		j.event(c.Name, corev1.EventTypeNormal, "Killing", "FailedPostStartHook")
		grace := time.Duration(graceOf(j.pod)) * time.Second
		return because(reasonHookError, errors.Join(err, j.client.StopContainer(ctx, id, grace)))
	}
	return nil
}

// failed tells of a container that could not be made.
func (j *job) failed(c *corev1.Container, err error) error {
	j.event(c.Name, corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
	return err
}

func (j *job) configure(ctx context.Context, c *corev1.Container, image image, sandboxConfig *criv1.PodSandboxConfig) (*criv1.ContainerConfig, error) {
	attempt := j.action.Attempt
	if err := os.MkdirAll(filepath.Dir(j.logPath(c.Name, attempt)), 0o755); err != nil {
		return nil, fmt.Errorf("making the log directory of container %s: %w", c.Name, err)
	}
	env, err := j.environment(ctx, c)
	if err != nil {
		return nil, err
	}
	images, err := j.imageVolumes(j.pull, c, sandboxConfig)
	if err != nil {
		return nil, err
	}
	name, domain := translate.Hostname(j.node, j.pod)
	mounts, err := j.store.Mounts(j.pod, c, volume.Run{
		Attempt: attempt, Hosts: volume.Hosts{IPs: j.ips(), Hostname: name, Domain: domain}, Images: images,
		Expand:            func(text string) (string, error) { return translate.Expand(text, env) },
		RecursiveReadOnly: j.about().recursiveReadOnly[j.sandbox.Handler],
	})
	if err != nil {
		return nil, err
	}
	config, err := translate.Container(j.node, j.pod, c, translate.Run{
		Attempt: attempt, Backoff: j.action.Backoff, ImageRef: image.ref, User: image.user, Mounts: mounts, Env: env, TargetID: j.target,
		UserNS: sandboxConfig.GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions(),
	})
	if err != nil {
		return nil, err
	}
	config.Devices, err = j.store.Devices(j.pod, c)
	return config, err
}

// environment looks up what a container's variables refer to.
func (j *job) environment(ctx context.Context, c *corev1.Container) ([]translate.Variable, error) {
	const patience = 30 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	services, err := j.cluster.Services()
	if err != nil && j.file == "" {
		return nil, fmt.Errorf("services have not yet been read at least once, cannot construct envvars: %w", err)
	}
	where := manifest.Addresses{Node: j.node.Name, NodeIPs: j.node.IPs, PodIPs: j.ips()}
	return translate.Environment(j.pod, c, where, translate.Lookup{
		ConfigMap:   func(name string) (*corev1.ConfigMap, error) { return j.cluster.ConfigMap(ctx, j.pod.Namespace, name) },
		Secret:      func(name string) (*corev1.Secret, error) { return j.cluster.Secret(ctx, j.pod.Namespace, name) },
		File:        j.variableOfFile,
		Services:    services,
		Allocatable: func() (corev1.ResourceList, error) { return allocatable(j.shared, j.pod) },
	})
}

// allocatable is what bounds a container without limits: those of its pod, else what the node has.
func allocatable(s *shared, pod *corev1.Pod) (corev1.ResourceList, error) {
	found := s.node.Capacity
	if node, err := s.cluster.Node(); err == nil {
		found = node.Status.Allocatable
	}
	if pod.Spec.Resources == nil {
		return found, nil
	}
	found = found.DeepCopy()
	for name, limit := range pod.Spec.Resources.Limits {
		if !limit.IsZero() {
			found[name] = limit
		}
	}
	return found, nil
}

// preStop runs a container's hook, within its grace period.
func (j *job) preStop(ctx context.Context) {
	c := plan.Find(j.pod, j.action.Name)
	if c == nil || c.Lifecycle == nil || c.Lifecycle.PreStop == nil {
		return
	}
	limited, cancel := context.WithTimeout(ctx, j.action.Grace)
	defer cancel()
	if err := j.hook(limited, c, j.action.ID, c.Lifecycle.PreStop); err != nil {
		j.log.Error("preStop hook", "container", c.Name, "error", err)
		if ctx.Err() == nil && limited.Err() == nil {
			j.event(c.Name, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed") // no more: it may hold secrets
		}
	}
}

// stopContainer: 1. the preStop hook, within the grace period; 2. stop, with what is left of it.
func (j *job) stopContainer(ctx context.Context) error {
	const least = 2 * time.Second // whatever the hook took
	began := time.Now()
	if !j.hooked {
		j.preStop(ctx)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return j.client.StopContainer(ctx, j.action.ID, max(j.action.Grace-time.Since(began), least))
}

// updateContainer gives a running container the resources that its pod has now. The pod's own limits are raised before, and lowered after the last of
// its containers that are updated at the same time: the kernel takes no limit below those of what is inside.
func (j *job) updateContainer(ctx context.Context) error {
	if j.cgroups != nil {
		if err := j.cgroups.Ensure(ctx, j.pod); err != nil {
			j.log.Debug("the pod's limits before its containers'", "error", err) // lower than what is used: they are set again below
		}
	}
	c := plan.Find(j.pod, j.action.Name)
	err := j.client.UpdateContainer(ctx, j.action.ID, translate.ContainerResources(j.node, j.pod, c))
	last := j.updating.Add(-1) == 0
	if err != nil || !last || j.cgroups == nil {
		return err
	}
	return j.cgroups.Ensure(ctx, j.pod)
}

// removeContainer removes a dead run, its message and its log.
func (j *job) removeContainer(ctx context.Context) error {
	if err := j.client.RemoveContainer(ctx, j.action.ID); err != nil {
		return err
	}
	var removed error
	logs, err := filepath.Glob(j.logPath(j.action.Name, j.action.Attempt) + "*") // rotated ones too
	if err != nil {
		return fmt.Errorf("looking for logs of container %s: %w", j.action.Name, err)
	}
	for _, log := range logs {
		if err := os.Remove(log); err != nil && !os.IsNotExist(err) {
			removed = errors.Join(removed, fmt.Errorf("removing a log: %w", err))
		}
	}
	return errors.Join(removed, j.unlinkLogs(j.action.ID), j.store.RemoveMessage(string(j.pod.UID), j.action.Name, j.action.Attempt))
}

func (w *worker) logPath(container string, attempt uint32) string {
	return filepath.Join(translate.LogDirectory(w.node.LogDir, w.latest.Load()), translate.LogPath(container, attempt))
}

// linkLog makes the link that log collectors find a container's log by: POD_NAMESPACE_CONTAINER-ID.log in one directory for all.
func (j *job) linkLog(container, id string) {
	if j.node.LogLinks == "" {
		return
	}
	name := fmt.Sprintf("%s_%s_%s", j.pod.Name, j.pod.Namespace, container)
	const longest = 251 // of a file name, without -ID.log
	name = name[:min(len(name), longest-len(id))]
	path := filepath.Join(j.node.LogLinks, name+"-"+id+".log")
	if err := os.Symlink(j.logPath(container, j.action.Attempt), path); err != nil && !os.IsExist(err) {
		j.log.Warn("linking a log", "container", container, "error", err)
	}
}

// unlinkLogs removes the link to the log of a container, or of all of the pod's ("").
func (w *worker) unlinkLogs(id string) error {
	if w.node.LogLinks == "" {
		return nil
	}
	pod := w.latest.Load()
	links, err := filepath.Glob(filepath.Join(w.node.LogLinks, pod.Name+"_"+pod.Namespace+"_*"+id+".log"))
	if err != nil {
		return fmt.Errorf("looking for links to logs: %w", err)
	}
	logs := translate.LogDirectory(w.node.LogDir, pod) + "/"
	var problems error
	for _, link := range links {
		if target, err := os.Readlink(link); err != nil || !strings.HasPrefix(target, logs) {
			continue // another pod's
		}
		if err := os.Remove(link); err != nil && !os.IsNotExist(err) {
			problems = errors.Join(problems, fmt.Errorf("removing a link to a log: %w", err))
		}
	}
	return problems
}
