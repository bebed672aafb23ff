package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/node"
	"github.com/shimd/shimd/node/eviction"
	"github.com/shimd/shimd/node/imagegc"
	"github.com/shimd/shimd/node/plan"
	"github.com/shimd/shimd/node/qos"
	"github.com/shimd/shimd/node/register"
	"github.com/shimd/shimd/node/stats"
)

// forPods is what all pods together may have, for the cgroup above them: what is reserved for others is not theirs. Unlike allocatable, it holds what
// eviction keeps free: else pods would be killed by the kernel before one of them is evicted.
func (m *member) forPods() corev1.ResourceList {
	k := *m.kubelet
	k.EvictionHard = nil
	capacity := register.Capacity(m.machine, &k)
	if slices.Contains(k.EnforceNodeAllocatable, "pods") {
		return register.Allocatable(capacity, &k)
	}
	return capacity
}

// underPressure says why a pod is not taken now.
func (m *member) underPressure(pod *corev1.Pod) string {
	manager := m.evictions.Load()
	if manager == nil {
		return ""
	}
	return manager.Admit(pod, qos.Class(pod))
}

func (m *member) pressure() register.Pressure {
	manager := m.evictions.Load()
	if manager == nil {
		return register.Pressure{}
	}
	var p register.Pressure
	p.Memory, p.Disk, p.PIDs = manager.Pressure()
	return p
}

// watchPressure prepares the eviction of pods.
func (m *member) watchPressure(agent *node.Agent, numbers *stats.Collector, images *imagegc.Collector) (*eviction.Manager, error) {
	k := m.kubelet
	thresholds, err := eviction.Thresholds(eviction.Settings{
		Hard: k.EvictionHard, Soft: k.EvictionSoft, SoftGracePeriod: k.EvictionSoftGracePeriod, MinimumReclaim: k.EvictionMinimumReclaim,
		EnforceAllocatable: m.tree != nil && slices.Contains(k.EnforceNodeAllocatable, "pods"),
	})
	if err != nil {
		return nil, err
	}
	o := eviction.Options{
		Thresholds: thresholds, Transition: k.EvictionPressureTransitionPeriod.Duration, MaxGrace: int64(k.EvictionMaxPodGracePeriod),
		Machine: &eviction.Machine{NodeFs: m.RootDir, ImageFs: m.imageFs()}, Agent: evictor{agent}, Statistics: numbers, Event: m.door.NodeEvent, Log: m.Log,
	}
	o.Reclaim = func(ctx context.Context) error {
		_, err := images.RemoveUnused(ctx)
		return err
	}
	if m.tree != nil {
		memory := m.forPods()[corev1.ResourceMemory]
		o.Machine.AllPods = func() (int64, int64, error) {
			used, err := m.tree.AllWorkingSet()
			return used, memory.Value(), err
		}
	}
	manager := eviction.New(o)
	m.evictions.Store(manager)
	return manager, nil
}

// imageFs asks the runtime where images are, until it has told.
func (m *member) imageFs() func() (string, error) {
	const patience = 10 * time.Second
	var mu sync.Mutex
	known := ""
	return func() (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if known != "" {
			return known, nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		var err error
		known, err = m.runtime.ImageMountpoint(ctx)
		return known, err
	}
}

func (m *member) statistics(agent *node.Agent) *stats.Collector {
	o := stats.Options{
		NodeName: m.NodeName, RootDir: m.RootDir, LogDir: m.LogDir, Socket: strings.TrimPrefix(m.Endpoint, "unix://"), Runtime: m.runtime.Runtime, Images: m.runtime.Images,
		Pods: agent.Pods, Pod: agent.PodOf, VolumePath: agent.Volumes().Path, Log: m.Log,
	}
	if m.tree != nil {
		o.PodsCgroup = m.tree.Top()
	}
	return stats.New(o)
}

// evictor is the agent, as package eviction wants it.
type evictor struct{ *node.Agent }

func (e evictor) Evict(uid string, order eviction.Order) error {
	verdict := plan.Verdict{Reason: eviction.Reason, Message: order.Message, Grace: &order.Grace, Disrupted: order.Disrupted}
	if !e.Agent.Evict(uid, verdict) {
		return fmt.Errorf("pod %s: %w", uid, errdefs.ErrNotFound)
	}
	return nil
}
