package status

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/resource"

	"github.com/shimd/shimd/node/plan"
	"github.com/shimd/shimd/node/translate"
)

// Input is what a pod's status is made of.
type Input struct {
	plan.Input
	Before  corev1.PodStatus // the last one: this agent's, or the API server's from an earlier agent
	Runtime string           // the container runtime's name, which IDs begin with
	HostIPs []string
	Pending *plan.Verdict // why resources that the pod asks for are not agreed to: Deferred or Infeasible
	Static  bool          // from a file: its end is the file's, so it gets no final phase
	// RecursiveReadOnly says whether the runtime can make mounts read-only with all that is mounted below them.
	RecursiveReadOnly bool
}

// Make is the status of a pod as the kubelet words it (generateAPIPodStatus, pkg/kubelet/kubelet_pods.go).
func Make(in Input) corev1.PodStatus {
	s := corev1.PodStatus{
		ObservedGeneration: in.Pod.Generation, QOSClass: translate.QOS(in.Pod),
		StartTime: in.Before.StartTime, NominatedNodeName: in.Before.NominatedNodeName,
		Resize: in.Before.Resize, ResourceClaimStatuses: in.Pod.Status.ResourceClaimStatuses, ExtendedResourceClaimStatus: in.Pod.Status.ExtendedResourceClaimStatus,
	}
	if s.StartTime == nil && !in.StartedAt.IsZero() {
		s.StartTime = &metav1.Time{Time: in.StartedAt}
	}
	addresses(&s, in)
	s.InitContainerStatuses = containers(in, in.Pod.Spec.InitContainers, in.Before.InitContainerStatuses)
	s.ContainerStatuses = containers(in, in.Pod.Spec.Containers, in.Before.ContainerStatuses)
	s.EphemeralContainerStatuses = containers(in, ephemeral(in.Pod), in.Before.EphemeralContainerStatuses)
	byName(s.ContainerStatuses)
	byName(s.EphemeralContainerStatuses)
	setPhase(&s, in)
	if quiet(in) && (final(s.Phase) || !in.Terminating.IsZero() || in.Verdict != nil) {
		finish(&s, in)
	}
	conditions(&s, in)
	s.AllocatedResources = resource.PodRequests(in.Pod, resource.PodResourcesOptions{})
	if in.Pod.Spec.Resources != nil {
		s.Resources = in.Pod.Spec.Resources.DeepCopy()
	}
	normalise(&s, in.Pod)
	return s
}

// Rejected is the status of a pod that this node does not take.
func Rejected(pod *corev1.Pod, verdict plan.Verdict, now metav1.Time) corev1.PodStatus {
	s := *pod.Status.DeepCopy()
	s.Phase, s.Reason, s.Message = corev1.PodFailed, verdict.Reason, "Pod was rejected: "+verdict.Message
	s.QOSClass, s.ObservedGeneration = translate.QOS(pod), pod.Generation
	if s.StartTime == nil {
		s.StartTime = &now
	}
	s.StartTime = &metav1.Time{Time: s.StartTime.Rfc3339Copy().Time}
	return s
}

// Same says whether two statuses mean the same.
func Same(a, b *corev1.PodStatus) bool { return equality.Semantic.DeepEqual(a, b) }

func ephemeral(pod *corev1.Pod) []corev1.Container {
	var found []corev1.Container
	for i := range pod.Spec.EphemeralContainers {
		found = append(found, *plan.Ephemeral(&pod.Spec.EphemeralContainers[i]))
	}
	return found
}

func byName(list []corev1.ContainerStatus) {
	slices.SortFunc(list, func(a, b corev1.ContainerStatus) int {
		switch {
		case a.Name < b.Name:
			return -1
		case a.Name > b.Name:
			return 1
		}
		return 0
	})
}

// quiet says that nothing of the pod runs or is about to.
func quiet(in Input) bool {
	if active(in) || len(in.Memory.Busy) > 0 {
		return false
	}
	return !slices.ContainsFunc(in.Seen.Sandboxes, func(s plan.Sandbox) bool { return s.Ready })
}

// active says whether a container may run.
func active(in Input) bool {
	return slices.ContainsFunc(in.Seen.Containers, func(c plan.Container) bool { return c.State == plan.Running || c.State == plan.Unknown })
}

// addresses: a pod's are those of its sandbox, in the order of the node's families, one of each; in the node's network, the node's, once and
// for all. What was known stays when the sandbox has gone.
func addresses(s *corev1.PodStatus, in Input) {
	for i, ip := range in.HostIPs {
		if i == 0 {
			s.HostIP = ip
		}
		s.HostIPs = append(s.HostIPs, corev1.HostIP{IP: ip})
	}
	var ips []string
	if current, ok := plan.Current(in.Seen); ok {
		ips = current.IPs
	}
	if in.Pod.Spec.HostNetwork {
		ips = in.HostIPs
	}
	for _, ip := range Ordered(ips, in.HostIPs) {
		s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: ip})
	}
	if len(s.PodIPs) == 0 {
		s.PodIPs = in.Before.PodIPs
	}
	if len(s.PodIPs) > 0 {
		s.PodIP = s.PodIPs[0].IP
	}
}

// Ordered takes the first address of the family that the node prefers, and the first of the other one.
func Ordered(ips, hostIPs []string) []string {
	four := true
	if len(hostIPs) > 0 {
		first, err := netip.ParseAddr(hostIPs[0])
		four = err != nil || first.Unmap().Is4()
	}
	var found []string
	for _, want := range []bool{four, !four} {
		for _, text := range ips {
			if ip, err := netip.ParseAddr(text); err == nil && ip.Unmap().Is4() == want {
				found = append(found, ip.Unmap().String())
				break
			}
		}
	}
	return found
}

// normalise makes times those that the API server keeps, in whole seconds, and bounds what containers said.
func normalise(s *corev1.PodStatus, pod *corev1.Pod) {
	const most = 12 << 10 // bytes of the messages of all containers
	bytes := most / max(1, len(pod.Spec.Containers)+len(pod.Spec.InitContainers))
	short := func(t *metav1.Time) {
		if !t.IsZero() {
			*t = t.Rfc3339Copy()
		}
	}
	state := func(c *corev1.ContainerState) {
		if c.Running != nil {
			short(&c.Running.StartedAt)
		}
		if t := c.Terminated; t != nil {
			short(&t.StartedAt)
			short(&t.FinishedAt)
			if len(t.Message) > bytes {
				t.Message = t.Message[:bytes]
			}
		}
	}
	if s.StartTime != nil {
		s.StartTime = &metav1.Time{Time: s.StartTime.Rfc3339Copy().Time}
	}
	for i := range s.Conditions {
		short(&s.Conditions[i].LastTransitionTime)
		short(&s.Conditions[i].LastProbeTime)
	}
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			state(&list[i].State)
			state(&list[i].LastTerminationState)
		}
	}
}
