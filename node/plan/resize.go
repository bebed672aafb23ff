package plan

import (
	corev1 "k8s.io/api/core/v1"
)

// What the kernel rounds up to: two shares, and a quota of 1 ms in 100 ms. Amounts below are the same to it.
const (
	leastCPURequest = 2  // thousandths of a CPU
	leastCPULimit   = 10 // thousandths of a CPU
)

// Resized says whether a running container has other resources than its pod asks for, and whether the container wants to be restarted for that.
// Where the runtime does not tell what it has, nothing is known to differ.
func Resized(pod *corev1.Pod, c *corev1.Container, run Container) (differs, restart bool) {
	if run.Resources == nil || pod.Spec.Resources != nil || IsEphemeral(pod, c.Name) || (IsInit(pod, c.Name) && !IsSidecar(c)) {
		return false, false
	}
	cpuLimit := max(milli(c.Resources.Limits), 0)
	if cpuLimit > 0 {
		cpuLimit = max(cpuLimit, leastCPULimit)
	}
	request, asked := c.Resources.Requests[corev1.ResourceCPU]
	if !asked {
		request = c.Resources.Limits[corev1.ResourceCPU]
	}
	cpu := cpuLimit != milli(run.Resources.Limits) || max(request.MilliValue(), leastCPURequest) != max(milli(run.Resources.Requests), leastCPURequest)
	limit, has := c.Resources.Limits[corev1.ResourceMemory], run.Resources.Limits[corev1.ResourceMemory]
	memory := limit.Value() != has.Value()
	for _, policy := range c.ResizePolicy {
		changed := (policy.ResourceName == corev1.ResourceCPU && cpu) || (policy.ResourceName == corev1.ResourceMemory && memory)
		restart = restart || (changed && policy.RestartPolicy == corev1.RestartContainer)
	}
	return cpu || memory, restart
}

func milli(list corev1.ResourceList) int64 {
	quantity := list[corev1.ResourceCPU]
	return quantity.MilliValue()
}

// Fingerprint is what a container asks for, in one word.
func Fingerprint(c *corev1.Container) string {
	text := ""
	for _, list := range []corev1.ResourceList{c.Resources.Limits, c.Resources.Requests} {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			quantity := list[name]
			text += quantity.String() + "/"
		}
	}
	return text
}

// resize plans what gives a running container the resources that it asks for now. What was applied once is not applied again, whatever the runtime
// makes of it.
func (p *planner) resize(c *corev1.Container, run Container) {
	differs, restart := Resized(p.Pod, c, run)
	switch {
	case !differs || p.Memory.Applied[run.ID] == Fingerprint(c):
	case restart:
		p.do(p.stop(run, "Container "+c.Name+" resize requires restart", nil))
	default:
		p.do(Action{Verb: UpdateContainer, ID: run.ID, Name: c.Name, Attempt: run.Attempt, Reason: "other resources are wanted"})
	}
}
