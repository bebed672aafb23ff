package qos

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	podresources "k8s.io/component-helpers/resource"
)

// The kubelet's numbers (pkg/kubelet/cm/helpers_linux.go).
const (
	minShares    = 2
	maxShares    = 262144
	sharesPerCPU = 1024
	milliPerCPU  = 1000
	minQuota     = 1000 // µs
)

// Class is a pod's quality of service: what the API server wrote in its status, else what follows from its requests and limits.
func Class(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	guaranteed := true
	if podresources.IsPodLevelResourcesSet(pod) {
		sum(requests, pod.Spec.Resources.Requests)
		guaranteed = sum(limits, pod.Spec.Resources.Limits) == 2
	} else {
		for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for i := range list {
				sum(requests, list[i].Resources.Requests)
				guaranteed = sum(limits, list[i].Resources.Limits) == 2 && guaranteed
			}
		}
	}
	if len(requests) == 0 && len(limits) == 0 {
		return corev1.PodQOSBestEffort
	}
	for name, request := range requests {
		limit, ok := limits[name]
		guaranteed = guaranteed && ok && limit.Cmp(request) == 0
	}
	if guaranteed && len(requests) == len(limits) {
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// sum adds the CPU and memory of a list, and answers how many of the two are in it.
func sum(total, list corev1.ResourceList) int {
	found := 0
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if quantity := list[name]; quantity.Sign() > 0 {
			found++
			all := total[name]
			all.Add(quantity)
			total[name] = all
		}
	}
	return found
}

// Limits are what the node's configuration says for all pods.
type Limits struct {
	Quota     bool     // whether CPU limits are enforced
	Period    uint64   // µs, of the quota
	Pids      int64    // of a pod; 0 or less: no limit
	PageSizes []string // of huge pages, as the kernel spells them: 2MB. Of those a pod did not ask for it gets none
}

// Pod is the limits of a pod's cgroup.
func Pod(pod *corev1.Pod, node Limits) *specs.LinuxResources {
	requests := podresources.PodRequests(pod, podresources.PodResourcesOptions{})
	limits, limited := podLimits(pod)
	r := &specs.LinuxResources{CPU: &specs.LinuxCPU{}}
	class := Class(pod)
	if class == corev1.PodQOSBestEffort {
		r.CPU.Shares = pointer(uint64(minShares))
	} else {
		r.CPU.Shares = pointer(shares(requests.Cpu().MilliValue()))
	}
	if limited[corev1.ResourceCPU] && class != corev1.PodQOSBestEffort {
		r.CPU.Quota, r.CPU.Period = pointer(quota(limits.Cpu().MilliValue(), node)), pointer(node.Period)
	}
	if limited[corev1.ResourceMemory] && class != corev1.PodQOSBestEffort {
		r.Memory = &specs.LinuxMemory{Limit: pointer(limits.Memory().Value())}
	}
	if node.Pids > 0 {
		r.Pids = &specs.LinuxPids{Limit: &node.Pids}
	}
	r.HugepageLimits = hugePages(requests, node.PageSizes)
	return r
}

// podLimits are the limits of a pod, and for which resources they hold: those that every container has, or that the pod has as a whole.
func podLimits(pod *corev1.Pod) (corev1.ResourceList, map[corev1.ResourceName]bool) {
	limited := map[corev1.ResourceName]bool{corev1.ResourceCPU: true, corev1.ResourceMemory: true}
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			for name := range limited {
				limit := list[i].Resources.Limits[name]
				limited[name] = limited[name] && !limit.IsZero()
			}
		}
	}
	limits := podresources.PodLimits(pod, podresources.PodResourcesOptions{})
	if podresources.IsPodLevelResourcesSet(pod) {
		for name := range limited {
			limit := pod.Spec.Resources.Limits[name]
			limited[name] = limited[name] || !limit.IsZero()
		}
	}
	for name := range limited {
		limit := limits[name]
		limited[name] = limited[name] && !limit.IsZero()
	}
	return limits, limited
}

// MemoryLimit is what a pod may use in all, in bytes; 0: it has no limit.
func MemoryLimit(pod *corev1.Pod) int64 {
	limits, limited := podLimits(pod)
	if !limited[corev1.ResourceMemory] {
		return 0
	}
	return limits.Memory().Value()
}

// Burstable is the limits of the class's cgroup: a weight for what the pods in it have asked for in all.
func Burstable(pods []*corev1.Pod) *specs.LinuxResources {
	milli := int64(0)
	for _, pod := range pods {
		if Class(pod) == corev1.PodQOSBurstable {
			requests := podresources.PodRequests(pod, podresources.PodResourcesOptions{})
			milli += requests.Cpu().MilliValue()
		}
	}
	return &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: pointer(shares(milli))}}
}

// AllPods is the limits of the cgroup above all pods: a weight always, for the default one starves them; the rest where pods have to stay
// within what the node has for them.
func AllPods(allocatable corev1.ResourceList, pids int64) *specs.LinuxResources {
	r := &specs.LinuxResources{}
	if cpu, ok := allocatable[corev1.ResourceCPU]; ok {
		r.CPU = &specs.LinuxCPU{Shares: pointer(shares(cpu.MilliValue()))}
	}
	if memory, ok := allocatable[corev1.ResourceMemory]; ok && memory.Sign() > 0 {
		r.Memory = &specs.LinuxMemory{Limit: pointer(memory.Value())}
	}
	if pids > 0 {
		r.Pids = &specs.LinuxPids{Limit: &pids}
	}
	return r
}

func shares(milli int64) uint64 {
	return uint64(min(max(milli*sharesPerCPU/milliPerCPU, minShares), maxShares))
}

func quota(milli int64, node Limits) int64 {
	if !node.Quota {
		return -1
	}
	return max(milli*int64(node.Period)/milliPerCPU, minQuota)
}

func hugePages(requests corev1.ResourceList, sizes []string) []specs.LinuxHugepageLimit {
	wanted := map[string]uint64{}
	for _, size := range sizes {
		wanted[size] = 0
	}
	for name, quantity := range requests {
		text, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix)
		if size, err := resource.ParseQuantity(text); ok && err == nil {
			wanted[pageSize(size.Value())] += uint64(max(quantity.Value(), 0))
		}
	}
	var limits []specs.LinuxHugepageLimit
	for _, size := range slices.Sorted(maps.Keys(wanted)) {
		limits = append(limits, specs.LinuxHugepageLimit{Pagesize: size, Limit: wanted[size]})
	}
	return limits
}

// pageSize spells a size as the kernel's hugetlb controller does: 2MB, 1GB.
func pageSize(bytes int64) string {
	units := []string{"B", "KB", "MB", "GB"}
	unit := 0
	for bytes >= 1024 && bytes%1024 == 0 && unit < len(units)-1 {
		bytes /= 1024
		unit++
	}
	return strconv.FormatInt(bytes, 10) + units[unit]
}

func pointer[T any](v T) *T { return &v }
