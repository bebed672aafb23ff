package runtime

import (
	"context"
	"fmt"
	"maps"

	"github.com/containerd/errdefs"

	"github.com/shimd/shimd/runtime/request"
)

// UpdateContainerResources changes limits of a container that is created or runs. Fields that are not set stay as they are.
// Annotations are the client's information about the update: none of them changes a limit (CVE-2023-6476).
func (r *Runtime) UpdateContainerResources(ctx context.Context, id ContainerID, res *request.Resources, _ map[string]string) error {
	c, err := r.findContainer(id)
	if err != nil {
		return err
	}
	if res == nil {
		return nil
	}
	c.mu.Lock()
	phase, cgroup := c.record.Phase, c.cgroup
	c.mu.Unlock()
	if (phase != containerCreated && phase != containerRunning) || cgroup == nil {
		return fmt.Errorf("updating container %s: it is %s, neither created nor running: %w", c.id, phase, errdefs.ErrFailedPrecondition)
	}
	limits, err := r.containerResources(res)
	if err != nil {
		return fmt.Errorf("updating container %s: %w", c.id, err)
	}
	if err := cgroup.Update(ctx, limits); err != nil {
		return fmt.Errorf("updating container %s: %w", c.id, err)
	}
	return c.update(func(record *containerRecord) { record.Resources = mergeResources(record.Resources, res) })
}

// UpdateSandboxResources changes limits of the pod's cgroup. Where the client has made that cgroup itself (the kubelet), it has
// changed them already and they are only remembered.
func (r *Runtime) UpdateSandboxResources(ctx context.Context, id SandboxID, overhead, resources *request.Resources) error {
	s, err := r.findSandbox(id)
	if err != nil {
		return err
	}
	record := s.snapshot()
	if record.Phase != sandboxReady {
		return fmt.Errorf("updating sandbox %s: it is not ready (%s): %w", s.id, record.Phase, errdefs.ErrFailedPrecondition)
	}
	if record.OwnsCgroup {
		cgroup, err := r.podCgroup(s)
		if err != nil {
			return fmt.Errorf("updating sandbox %s: %w", s.id, err)
		}
		limits, err := r.podResources(request.Sandbox{Resources: resources, Overhead: overhead})
		if err != nil {
			return fmt.Errorf("updating sandbox %s: %w", s.id, err)
		}
		if err := cgroup.Update(ctx, limits); err != nil {
			return fmt.Errorf("updating sandbox %s: %w", s.id, err)
		}
	}
	return s.update(func(record *sandboxRecord) {
		record.Config.Overhead = mergeResources(record.Config.Overhead, overhead)
		record.Config.Resources = mergeResources(record.Config.Resources, resources)
	})
}

// mergeResources lays the fields that are set in change over base. Neither is changed.
func mergeResources(base, change *request.Resources) *request.Resources {
	if change == nil {
		return base
	}
	if base == nil {
		base = &request.Resources{}
	}
	merged := *base
	overlay(&merged.CPUPeriod, change.CPUPeriod)
	overlay(&merged.CPUQuota, change.CPUQuota)
	overlay(&merged.CPUShares, change.CPUShares)
	overlay(&merged.MemoryLimit, change.MemoryLimit)
	overlay(&merged.MemorySwapLimit, change.MemorySwapLimit)
	overlay(&merged.OOMScoreAdj, change.OOMScoreAdj)
	overlay(&merged.CPUSetCPUs, change.CPUSetCPUs)
	overlay(&merged.CPUSetMems, change.CPUSetMems)
	if len(change.HugepageLimits) > 0 {
		merged.HugepageLimits = change.HugepageLimits
	}
	if len(change.Unified) > 0 {
		merged.Unified = maps.Clone(base.Unified)
		if merged.Unified == nil {
			merged.Unified = make(map[string]string)
		}
		maps.Copy(merged.Unified, change.Unified)
	}
	return &merged
}

func overlay[T comparable](field *T, change T) {
	var zero T
	if change != zero {
		*field = change
	}
}

// ReopenContainerLog makes the container's output go to a new file at its log path: the client has renamed the old one.
func (r *Runtime) ReopenContainerLog(ctx context.Context, id ContainerID) error {
	c, err := r.findContainer(id)
	if err != nil {
		return err
	}
	if phase := c.snapshot().Phase; phase != containerRunning {
		return fmt.Errorf("reopening the log of container %s: it is not running (%s): %w", c.id, phase, errdefs.ErrFailedPrecondition)
	}
	log, err := openLog(c)
	if err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	if log == nil {
		return fmt.Errorf("container %s has no log: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	defer log.Close()
	if err := r.keeper.SetLog(ctx, string(c.id), log); err != nil {
		return fmt.Errorf("reopening the log of container %s: %w", c.id, err)
	}
	return nil
}
