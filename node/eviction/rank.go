package eviction

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	podresources "k8s.io/component-helpers/resource"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Usage is the numbers of pods, by UID.
type Usage map[string]*statsv1alpha1.PodStats

// NewUsage indexes a summary.
func NewUsage(summary *statsv1alpha1.Summary) Usage {
	found := Usage{}
	for i := range summary.Pods {
		found[summary.Pods[i].PodRef.UID] = &summary.Pods[i]
	}
	return found
}

// counts is what of a pod's disk counts for a file system.
type counts struct{ root, logs, volumes bool }

// countsFor: with images, and what containers write, on a file system of their own, that one holds containers' layers, the node's the rest.
func countsFor(signal Signal, dedicatedImageFs bool) counts {
	switch {
	case !dedicatedImageFs:
		return counts{root: true, logs: true, volumes: true}
	case signal == NodeFsAvailable || signal == NodeFsInodesFree:
		return counts{logs: true, volumes: true}
	}
	return counts{root: true}
}

// Rank orders pods, the first to be evicted first: those of which nothing is known, those that use more than they asked for, those of low
// priority, those that use most beyond what they asked for. For processes, which nobody asks for, priority comes first.
func Rank(pods []*corev1.Pod, usage Usage, signal Signal, dedicatedImageFs bool) []*corev1.Pod {
	k, _, _ := kind(signal)
	ranked := slices.Clone(pods)
	used := func(pod *corev1.Pod) (amount int64, known bool) {
		stats := usage[string(pod.UID)]
		if stats == nil {
			return 0, false
		}
		return using(stats, pod, k.resource, countsFor(signal, dedicatedImageFs)), true
	}
	slices.SortStableFunc(ranked, func(a, b *corev1.Pod) int {
		usedA, knownA := used(a)
		usedB, knownB := used(b)
		byPriority := cmp.Compare(priority(a), priority(b))
		if k.resource == pids {
			return cmp.Or(byPriority, first(!knownA, !knownB), cmp.Compare(usedB, usedA))
		}
		if !knownA || !knownB {
			return first(!knownA, !knownB)
		}
		overA, overB := usedA-requested(a, k.resource), usedB-requested(b, k.resource)
		return cmp.Or(first(overA > 0, overB > 0), byPriority, cmp.Compare(overB, overA))
	})
	return ranked
}

func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func priority(pod *corev1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}

// requested is what a pod asked for; of inodes and processes nobody can.
func requested(pod *corev1.Pod, name corev1.ResourceName) int64 {
	requests := podresources.PodRequests(pod, podresources.PodResourcesOptions{})
	quantity := requests[name]
	return quantity.Value()
}

func using(stats *statsv1alpha1.PodStats, pod *corev1.Pod, name corev1.ResourceName, of counts) int64 {
	switch name {
	case corev1.ResourceMemory:
		if stats.Memory == nil {
			return 0
		}
		return value(stats.Memory.WorkingSetBytes)
	case pids:
		if stats.ProcessStats == nil {
			return 0
		}
		return value(stats.ProcessStats.ProcessCount)
	}
	sum := int64(0)
	add := func(fs *statsv1alpha1.FsStats) {
		if fs == nil {
			return
		}
		if name == inodes {
			sum += value(fs.InodesUsed)
		} else {
			sum += value(fs.UsedBytes)
		}
	}
	for i := range stats.Containers {
		if of.root {
			add(stats.Containers[i].Rootfs)
		}
		if of.logs {
			add(stats.Containers[i].Logs)
		}
	}
	for i := range stats.VolumeStats {
		if of.volumes && isLocal(pod, stats.VolumeStats[i].Name) {
			add(&stats.VolumeStats[i].FsStats)
		}
	}
	return sum
}

// isLocal: a volume that takes up the node's own disk.
func isLocal(pod *corev1.Pod, name string) bool {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Name == name {
			return v.HostPath != nil || v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault || v.ConfigMap != nil
		}
	}
	return false
}

func value(n *uint64) int64 {
	if n == nil {
		return 0
	}
	return int64(*n)
}

// Message says why a pod was evicted, as the kubelet says it.
func Message(threshold Threshold, seen Observations, pod *corev1.Pod, usage Usage) string {
	k, _, _ := kind(threshold.Signal)
	observed := seen[threshold.Signal]
	var out strings.Builder
	fmt.Fprintf(&out, "The node was low on resource: %v. Threshold quantity: %v, available: %v. ",
		k.resource, amount(k, threshold.Below.of(observed.Capacity)), amount(k, observed.Available))
	stats := usage[string(pod.UID)]
	if stats == nil {
		return out.String()
	}
	if k.resource == corev1.ResourceMemory && podresources.IsPodLevelResourcesSet(pod) && stats.Memory != nil {
		if request, ok := pod.Spec.Resources.Requests[corev1.ResourceMemory]; ok {
			fmt.Fprintf(&out, "Pod %s was using %s, request is %s, has larger consumption of %v. ", pod.Name, amount(k, value(stats.Memory.WorkingSetBytes)), request.String(), k.resource)
		}
	}
	for i := range stats.Containers {
		c := &stats.Containers[i]
		used, known := int64(0), false
		switch k.resource {
		case corev1.ResourceMemory:
			known = c.Memory != nil && c.Memory.WorkingSetBytes != nil
			if known {
				used = value(c.Memory.WorkingSetBytes)
			}
		case corev1.ResourceEphemeralStorage:
			known = c.Rootfs != nil && c.Rootfs.UsedBytes != nil && c.Logs != nil && c.Logs.UsedBytes != nil
			if known {
				used = value(c.Rootfs.UsedBytes) + value(c.Logs.UsedBytes)
			}
		}
		request, ok := requestOf(pod, c.Name, k.resource)
		if known && ok && used > request.Value() {
			fmt.Fprintf(&out, "Container %s was using %s, request is %s, has larger consumption of %v. ", c.Name, amount(k, used), request.String(), k.resource)
		}
	}
	return out.String()
}

func amount(k signalKind, n int64) string {
	if k.resource == inodes || k.resource == pids {
		return resource.NewQuantity(n, resource.DecimalSI).String()
	}
	return resource.NewQuantity(n, resource.BinarySI).String()
}

func requestOf(pod *corev1.Pod, container string, name corev1.ResourceName) (resource.Quantity, bool) {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == container {
				return list[i].Resources.Requests[name], true
			}
		}
	}
	return resource.Quantity{}, false
}
