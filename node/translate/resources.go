package translate

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The kubelet's numbers (pkg/kubelet/cm/helpers_linux.go, pkg/kubelet/qos/policy.go).
const (
	minShares     = 2
	maxShares     = 262144
	sharesPerCPU  = 1024
	milliPerCPU   = 1000
	quotaPeriod   = 100000 // µs
	minQuota      = 1000   // µs
	guaranteedOOM = -997
	burstableOOM  = 999 // the most a burstable container has: best effort is killed before
	bestEffortOOM = 1000
	nodeCritical  = 2000001000 // the priority of system-node-critical
)

func containerResources(node Node, pod *corev1.Pod, c *corev1.Container) *criv1.LinuxContainerResources {
	resources := limits(c.Resources.Requests, boundedByPod(pod, c.Resources.Limits))
	resources.OomScoreAdj = oomScore(node, pod, c)
	if node.CgroupV2 {
		// One process of a container killed for memory takes the others along, as the kubelet has it on cgroup v2.
		resources.Unified = map[string]string{"memory.oom.group": "1"}
	}
	for name, quantity := range c.Resources.Limits {
		if size, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix); ok {
			if parsed, err := resource.ParseQuantity(size); err == nil {
				resources.HugepageLimits = append(resources.HugepageLimits, &criv1.HugepageLimit{PageSize: pageSize(parsed.Value()), Limit: uint64(max(quantity.Value(), 0))})
			}
		}
	}
	return resources
}

// boundedByPod: the pod's own limits hold for a container that has none.
func boundedByPod(pod *corev1.Pod, own corev1.ResourceList) corev1.ResourceList {
	if pod.Spec.Resources == nil {
		return own
	}
	bounded := own.DeepCopy()
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		limit, ok := pod.Spec.Resources.Limits[name]
		if have := bounded[name]; ok && have.IsZero() {
			if bounded == nil {
				bounded = corev1.ResourceList{}
			}
			bounded[name] = limit
		}
	}
	return bounded
}

// overhead is what the pod's runtime class costs beside its containers.
func overhead(pod *corev1.Pod) *criv1.LinuxContainerResources {
	if len(pod.Spec.Overhead) == 0 {
		return &criv1.LinuxContainerResources{}
	}
	return limits(pod.Spec.Overhead, pod.Spec.Overhead)
}

// pageSize spells a size as the kernel's hugetlb controller does: 2MB, 1GB.
func pageSize(bytes int64) string {
	units := []string{"B", "KB", "MB", "GB", "TB"}
	unit := 0
	for bytes >= 1024 && bytes%1024 == 0 && unit < len(units)-1 {
		bytes /= 1024
		unit++
	}
	return resource.NewQuantity(bytes, resource.DecimalSI).String() + units[unit]
}

func limits(requests, limits corev1.ResourceList) *criv1.LinuxContainerResources {
	request, requested := requests[corev1.ResourceCPU]
	limit := limits[corev1.ResourceCPU]
	if !requested {
		request = limit
	}
	memory := limits[corev1.ResourceMemory]
	r := &criv1.LinuxContainerResources{CpuShares: shares(request.MilliValue()), MemoryLimitInBytes: memory.Value(), CpuPeriod: quotaPeriod}
	if limit.Sign() > 0 {
		r.CpuQuota = max(limit.MilliValue()*quotaPeriod/milliPerCPU, minQuota)
	}
	return r
}

func shares(milli int64) int64 {
	return min(max(milli*sharesPerCPU/milliPerCPU, minShares), maxShares)
}

// podResources is the sum over the containers: a limit of the pod's stands only where every container has one. Ordinary init containers
// run before the others, so the pod needs the greater of the two; sidecars count with both.
func podResources(pod *corev1.Pod) *criv1.LinuxContainerResources {
	sumRequests, sumLimits := total(pod, false), total(pod, true)
	own := corev1.ResourceList{}
	if pod.Spec.Resources != nil {
		maps.Copy(sumRequests, pod.Spec.Resources.Requests)
		maps.Copy(sumLimits, pod.Spec.Resources.Limits)
		own = pod.Spec.Resources.Limits
	}
	r := limits(sumRequests, sumLimits)
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if limit := own[name]; allHave(pod, name) || !limit.IsZero() {
			continue
		}
		if name == corev1.ResourceCPU {
			r.CpuQuota = 0
		} else {
			r.MemoryLimitInBytes = 0
		}
	}
	return r
}

func total(pod *corev1.Pod, limits bool) corev1.ResourceList {
	sum, sidecars, peak := corev1.ResourceList{}, corev1.ResourceList{}, corev1.ResourceList{}
	of := func(c *corev1.Container) corev1.ResourceList {
		if limits {
			return c.Resources.Limits
		}
		return c.Resources.Requests
	}
	for i := range pod.Spec.Containers {
		add(sum, of(&pod.Spec.Containers[i]))
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil { // a sidecar
			add(sum, of(c))
			add(sidecars, of(c))
			raise(peak, sidecars)
			continue
		}
		now := sidecars.DeepCopy()
		add(now, of(c))
		raise(peak, now)
	}
	raise(sum, peak)
	return sum
}

func add(to, from corev1.ResourceList) {
	for name, quantity := range from {
		sum := to[name]
		sum.Add(quantity)
		to[name] = sum
	}
}

func raise(to, from corev1.ResourceList) {
	for name, quantity := range from {
		if have, ok := to[name]; !ok || quantity.Cmp(have) > 0 {
			to[name] = quantity.DeepCopy()
		}
	}
}

func allHave(pod *corev1.Pod, name corev1.ResourceName) bool {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if limit, ok := list[i].Resources.Limits[name]; !ok || limit.IsZero() {
				return false
			}
		}
	}
	return true
}

// QOS is the pod's quality of service class: what it may rely on when memory is short.
func QOS(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" { // the API server's word, which does not change
		return pod.Status.QOSClass
	}
	if own := pod.Spec.Resources; own != nil && len(own.Requests)+len(own.Limits) > 0 {
		return qosOf([]corev1.ResourceRequirements{*own})
	}
	var all []corev1.ResourceRequirements
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			all = append(all, list[i].Resources)
		}
	}
	return qosOf(all)
}

func qosOf(all []corev1.ResourceRequirements) corev1.PodQOSClass {
	some, guaranteed := false, true
	for i := range all {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, limit := all[i].Requests[name], all[i].Limits[name]
			some = some || !request.IsZero() || !limit.IsZero()
			guaranteed = guaranteed && !limit.IsZero() && request.Cmp(limit) == 0
		}
	}
	switch {
	case !some:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	default:
		return corev1.PodQOSBurstable
	}
}

// oomScore: the more of the node's memory a burstable container asked for, the later it is killed.
func oomScore(node Node, pod *corev1.Pod, c *corev1.Container) int64 {
	if pod.Spec.PriorityClassName == "system-node-critical" || (pod.Spec.Priority != nil && *pod.Spec.Priority >= nodeCritical) {
		return guaranteedOOM
	}
	switch QOS(pod) {
	case corev1.PodQOSGuaranteed:
		return guaranteedOOM
	case corev1.PodQOSBestEffort:
		return bestEffortOOM
	}
	request := memoryRequest(c)
	if isSidecar(pod, c) { // never killed before those that it serves
		least := request
		for i := range pod.Spec.Containers {
			if other := memoryRequest(&pod.Spec.Containers[i]); i == 0 || other < least {
				least = other
			}
		}
		request = max(request, least)
	}
	score := int64(bestEffortOOM)
	if node.MemoryCapacity > 0 {
		score -= 1000 * (request + shareOfPod(pod)) / node.MemoryCapacity
	}
	return min(max(score, 1000+guaranteedOOM), burstableOOM)
}

func memoryRequest(c *corev1.Container) int64 {
	request := c.Resources.Requests[corev1.ResourceMemory]
	return request.Value()
}

func isSidecar(pod *corev1.Pod, c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways &&
		slices.ContainsFunc(pod.Spec.InitContainers, func(i corev1.Container) bool { return i.Name == c.Name })
}

// shareOfPod is a container's part of the memory that the pod itself requests beyond its containers.
func shareOfPod(pod *corev1.Pod) int64 {
	if pod.Spec.Resources == nil {
		return 0
	}
	own, sum := pod.Spec.Resources.Requests[corev1.ResourceMemory], total(pod, false)[corev1.ResourceMemory]
	count := int64(len(pod.Spec.Containers))
	for i := range pod.Spec.InitContainers {
		if isSidecar(pod, &pod.Spec.InitContainers[i]) {
			count++
		}
	}
	return max(own.Value()-sum.Value(), 0) / max(count, 1)
}

// ContainerResources are those of a container, for a change while it runs.
func ContainerResources(node Node, pod *corev1.Pod, c *corev1.Container) *criv1.LinuxContainerResources {
	return containerResources(node, pod, c)
}

// Actual is what a runtime says that a container has, as far as it says it. Of memory requests it knows nothing.
func Actual(r *criv1.LinuxContainerResources) *corev1.ResourceRequirements {
	if r == nil || (r.CpuShares == 0 && r.CpuQuota == 0 && r.MemoryLimitInBytes == 0) {
		return nil
	}
	found := &corev1.ResourceRequirements{Limits: corev1.ResourceList{}, Requests: corev1.ResourceList{}}
	if r.CpuPeriod > 0 && r.CpuQuota > 0 {
		found.Limits[corev1.ResourceCPU] = *resource.NewMilliQuantity(r.CpuQuota*milliPerCPU/r.CpuPeriod, resource.DecimalSI)
	}
	if r.CpuShares > 0 {
		found.Requests[corev1.ResourceCPU] = *resource.NewMilliQuantity((r.CpuShares*milliPerCPU+sharesPerCPU-1)/sharesPerCPU, resource.DecimalSI)
	}
	if r.MemoryLimitInBytes > 0 {
		found.Limits[corev1.ResourceMemory] = *resource.NewQuantity(r.MemoryLimitInBytes, resource.BinarySI)
	}
	return found
}
