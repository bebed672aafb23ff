package stats

import (
	"context"
	"fmt"
	"path/filepath"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// pods tells of all pods whose sandbox is ready. disk is the file system that their volumes and logs are on.
func (c *Collector) pods(ctx context.Context, onlyCPUAndMemory bool, disk *statsv1alpha1.FsStats) ([]statsv1alpha1.PodStats, error) {
	sandboxes, err := c.Runtime.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{Filter: &criv1.PodSandboxFilter{
		State: &criv1.PodSandboxStateValue{State: criv1.PodSandboxState_SANDBOX_READY},
	}})
	if err != nil {
		return nil, fmt.Errorf("listing the sandboxes: %w", err)
	}
	ready := map[string]*criv1.PodSandbox{}
	for _, s := range sandboxes.Items {
		ready[s.Id] = s
	}
	containers, err := c.Runtime.ListContainers(ctx, &criv1.ListContainersRequest{Filter: &criv1.ContainerFilter{
		State: &criv1.ContainerStateValue{State: criv1.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		return nil, fmt.Errorf("listing the containers: %w", err)
	}
	running := map[string]*criv1.Container{}
	for _, container := range containers.Containers {
		running[container.Id] = container
	}
	answer, err := c.Runtime.ListPodSandboxStats(ctx, &criv1.ListPodSandboxStatsRequest{})
	if err != nil {
		return nil, fmt.Errorf("asking the runtime for the statistics of pods: %w", err)
	}
	c.rates.forget(
		func(id string) bool { return running[id] != nil },
		func(id string) bool { return ready[id] != nil },
	)
	list := make([]statsv1alpha1.PodStats, 0, len(answer.Stats))
	for _, s := range answer.Stats {
		sandbox := ready[s.GetAttributes().GetId()]
		if sandbox == nil || sandbox.Metadata == nil || s.Linux == nil {
			continue // gone in between
		}
		pod := statsv1alpha1.PodStats{
			PodRef:    statsv1alpha1.PodReference{Name: sandbox.Metadata.Name, Namespace: sandbox.Metadata.Namespace, UID: sandbox.Metadata.Uid},
			StartTime: at(sandbox.CreatedAt), Containers: []statsv1alpha1.ContainerStats{},
		}
		for _, of := range s.Linux.Containers {
			if container := running[of.GetAttributes().GetId()]; container != nil {
				pod.Containers = append(pod.Containers, c.container(&pod.PodRef, container, of, onlyCPUAndMemory, disk))
			}
		}
		c.whole(&pod, sandbox.Id, s.Linux, onlyCPUAndMemory)
		if !onlyCPUAndMemory {
			c.storage(&pod, disk)
		}
		list = append(list, pod)
	}
	return list, nil
}

// whole has what is counted for a pod as one.
func (c *Collector) whole(pod *statsv1alpha1.PodStats, id string, s *criv1.LinuxPodSandboxStats, onlyCPUAndMemory bool) {
	pod.CPU, pod.Memory, pod.Swap = c.cpu(id, s.Cpu), memory(s.Memory), swaps(pod.Containers)
	if onlyCPUAndMemory {
		return
	}
	pod.IO = &statsv1alpha1.IOStats{Time: at(s.Io.GetTimestamp()), PSI: pressure(s.Io.GetPsi())}
	if s.Process != nil {
		pod.ProcessStats = &statsv1alpha1.ProcessStats{ProcessCount: value(s.Process.ProcessCount)}
	}
	if network := s.Network; network != nil {
		pod.Network = &statsv1alpha1.NetworkStats{
			Time: at(network.Timestamp), InterfaceStats: networkInterface(network.DefaultInterface), Interfaces: []statsv1alpha1.InterfaceStats{},
		}
		if network.DefaultInterface != nil {
			pod.Network.Interfaces = append(pod.Network.Interfaces, pod.Network.InterfaceStats)
		}
		for _, one := range network.Interfaces {
			if one.GetName() != network.DefaultInterface.GetName() {
				pod.Network.Interfaces = append(pod.Network.Interfaces, networkInterface(one))
			}
		}
	}
}

func networkInterface(i *criv1.NetworkInterfaceUsage) statsv1alpha1.InterfaceStats {
	return statsv1alpha1.InterfaceStats{
		Name: i.GetName(), RxBytes: value(i.GetRxBytes()), RxErrors: value(i.GetRxErrors()), TxBytes: value(i.GetTxBytes()), TxErrors: value(i.GetTxErrors()),
	}
}

func (c *Collector) container(pod *statsv1alpha1.PodReference, container *criv1.Container, s *criv1.ContainerStats, onlyCPUAndMemory bool, disk *statsv1alpha1.FsStats) statsv1alpha1.ContainerStats {
	answer := statsv1alpha1.ContainerStats{
		Name: container.GetMetadata().GetName(), StartTime: at(container.CreatedAt),
		CPU: c.cpu(container.Id, s.Cpu), Memory: memory(s.Memory), Swap: swap(s.Swap),
	}
	if onlyCPUAndMemory {
		return answer
	}
	answer.IO = &statsv1alpha1.IOStats{Time: at(s.Io.GetTimestamp()), PSI: pressure(s.Io.GetPsi())}
	if layer := s.WritableLayer; layer != nil {
		answer.Rootfs = runtimeFileSystem(layer)
	}
	logs := *disk
	used := c.sizes.of(filepath.Join(c.LogDir, pod.Namespace+"_"+pod.Name+"_"+pod.UID, answer.Name))
	logs.Time, logs.UsedBytes, logs.InodesUsed = metav1.NewTime(used.when), number(used.bytes), number(used.files)
	answer.Logs = &logs
	return answer
}

func (c *Collector) cpu(id string, s *criv1.CpuUsage) *statsv1alpha1.CPUStats {
	if s == nil {
		return &statsv1alpha1.CPUStats{Time: metav1.Now(), UsageCoreNanoSeconds: number(0), UsageNanoCores: number(0)}
	}
	answer := &statsv1alpha1.CPUStats{
		Time: at(s.Timestamp), UsageCoreNanoSeconds: value(s.UsageCoreNanoSeconds), UsageNanoCores: value(s.UsageNanoCores), PSI: pressure(s.Psi),
	}
	if answer.UsageNanoCores == nil && answer.UsageCoreNanoSeconds != nil {
		answer.UsageNanoCores = c.rates.of(id, answer.Time.Time, *answer.UsageCoreNanoSeconds)
	}
	return answer
}

func memory(s *criv1.MemoryUsage) *statsv1alpha1.MemoryStats {
	if s == nil {
		return &statsv1alpha1.MemoryStats{Time: metav1.Now(), WorkingSetBytes: number(0), UsageBytes: number(0), RSSBytes: number(0)}
	}
	return &statsv1alpha1.MemoryStats{
		Time: at(s.Timestamp), AvailableBytes: value(s.AvailableBytes), UsageBytes: value(s.UsageBytes), WorkingSetBytes: value(s.WorkingSetBytes),
		RSSBytes: value(s.RssBytes), PageFaults: value(s.PageFaults), MajorPageFaults: value(s.MajorPageFaults), PSI: pressure(s.Psi),
	}
}

func swap(s *criv1.SwapUsage) *statsv1alpha1.SwapStats {
	if s == nil {
		return &statsv1alpha1.SwapStats{Time: metav1.Now(), SwapUsageBytes: number(0), SwapAvailableBytes: number(0)}
	}
	return &statsv1alpha1.SwapStats{Time: at(s.Timestamp), SwapUsageBytes: value(s.SwapUsageBytes), SwapAvailableBytes: value(s.SwapAvailableBytes)}
}

// swaps is a pod's: CRI has it for containers only.
func swaps(containers []statsv1alpha1.ContainerStats) *statsv1alpha1.SwapStats {
	if len(containers) == 0 {
		return nil
	}
	sum := &statsv1alpha1.SwapStats{SwapUsageBytes: number(0), SwapAvailableBytes: number(0)}
	for _, container := range containers {
		sum.Time = container.Swap.Time
		sum.SwapUsageBytes = plus(sum.SwapUsageBytes, container.Swap.SwapUsageBytes)
		sum.SwapAvailableBytes = plus(sum.SwapAvailableBytes, container.Swap.SwapAvailableBytes)
	}
	return sum
}

func plus(a, b *uint64) *uint64 {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return number(*a + *b)
}

func pressure(s *criv1.PsiStats) *statsv1alpha1.PSIStats {
	if s == nil {
		return nil
	}
	data := func(d *criv1.PsiData) statsv1alpha1.PSIData {
		return statsv1alpha1.PSIData{Total: d.GetTotal(), Avg10: d.GetAvg10(), Avg60: d.GetAvg60(), Avg300: d.GetAvg300()}
	}
	return &statsv1alpha1.PSIStats{Full: data(s.Full), Some: data(s.Some)}
}
