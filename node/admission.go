package node

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/shimd/shimd/node/plan"
)

// admit says why this node does not take a pod; nil: it does. The scheduler has asked the same before it bound a pod; those that were bound by hand
// it has not, and between two looks a node may have changed. The words are the kubelet's (pkg/kubelet/lifecycle, canAdmitPod).
func (a *Agent) admit(d desired) *plan.Verdict {
	if d.Pod.DeletionTimestamp != nil || final(d.Pod.Status.Phase) {
		return nil // nothing of it will be started
	}
	verdict := a.underPressure(d)
	if verdict == nil && d.File == "" {
		verdict = admitSysctls(d.Pod, a.config.UnsafeSysctls)
	}
	node, err := a.cluster.Node()
	if verdict == nil && err == nil { // without a cluster, or before it has answered, whoever named the node is believed
		verdict = Admit(d.Pod, node, a.besides(string(d.Pod.UID)))
	}
	if verdict != nil {
		a.log.Warn("a pod is not taken", "pod", d.name(), "reason", verdict.Reason, "message", verdict.Message)
		tell(a.cluster, d.Pod, "", corev1.EventTypeWarning, verdict.Reason, verdict.Message)
	}
	return verdict
}

// underPressure refuses what would be evicted again.
func (a *Agent) underPressure(d desired) *plan.Verdict {
	if a.config.Pressure == nil {
		return nil
	}
	message := a.config.Pressure(d.Pod)
	if message == "" {
		return nil
	}
	return &plan.Verdict{Reason: "Evicted", Message: message}
}

// besides are the pods that take something of the node beside one.
func (a *Agent) besides(uid string) []*corev1.Pod {
	var others []*corev1.Pod
	for other, e := range a.pods {
		if other != uid && (e.worker == nil || e.worker.usesNode()) {
			others = append(others, e.Pod)
		}
	}
	return others
}

// usesNode says whether a pod's requests count; safe from any goroutine.
func (w *worker) usesNode() bool { return !final(w.told.Load().pod.Status.Phase) }

// Admit says why a node with these pods does not take another one; nil: it does.
func Admit(pod *corev1.Pod, node *corev1.Node, others []*corev1.Pod) *plan.Verdict {
	if pod.Spec.OS != nil && pod.Spec.OS.Name != "" && pod.Spec.OS.Name != corev1.Linux {
		return &plan.Verdict{Reason: "PodOSNotSupported", Message: "Failed to admit pod as the OS field doesn't match node OS"}
	}
	if value, ok := pod.Spec.NodeSelector[corev1.LabelOSStable]; ok && value != string(corev1.Linux) {
		return &plan.Verdict{Reason: "PodOSSelectorNodeLabelDoesNotMatch", Message: "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"}
	}
	if static := pod.Annotations[annotationConfigSource]; static == "" || static == "api" {
		if match, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err != nil || !match {
			return &plan.Verdict{Reason: "NodeAffinity", Message: "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"}
		}
		taint, untolerated := schedulinghelper.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, pod.Spec.Tolerations,
			func(t *corev1.Taint) bool { return t.Effect == corev1.TaintEffectNoExecute }, true)
		if untolerated {
			return &plan.Verdict{Reason: "TaintToleration", Message: fmt.Sprintf("Predicate TaintToleration failed: node(s) had untolerated taint {%s: %s}", taint.Key, taint.Value)}
		}
	}
	if pod.Spec.HostNetwork || anyHostPort(pod) {
		if port := portTaken(pod, others); port != "" {
			return &plan.Verdict{Reason: "NodePorts", Message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"}
		}
	}
	return fits(pod, node, others)
}

// fits: what all pods of a node request may not be more than what it has for them.
func fits(pod *corev1.Pod, node *corev1.Node, others []*corev1.Pod) *plan.Verdict {
	free := node.Status.Allocatable.DeepCopy()
	if free == nil {
		return nil // not told yet
	}
	if room, ok := free[corev1.ResourcePods]; ok && int64(len(others))+1 > room.Value() {
		return &plan.Verdict{Reason: "OutOfpods", Message: fmt.Sprintf("Node didn't have enough resource: pods, requested: 1, used: %d, capacity: %d", len(others), room.Value())}
	}
	used := corev1.ResourceList{}
	for _, other := range others {
		for name, quantity := range resourcehelper.PodRequests(other, resourcehelper.PodResourcesOptions{}) {
			sum := used[name]
			sum.Add(quantity)
			used[name] = sum
		}
	}
	wanted := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if verdict := enough(name, wanted[name], used[name], free[name]); verdict != nil {
			return verdict
		}
	}
	for name, quantity := range wanted {
		if strings.Contains(string(name), "/") { // extended resources, which nobody lends here
			if _, known := free[name]; !known {
				continue // as the kubelet: those of a cluster as a whole are not its own
			}
			if verdict := enough(name, quantity, used[name], free[name]); verdict != nil {
				return verdict
			}
		}
	}
	return nil
}

func enough(name corev1.ResourceName, wanted, used, room resource.Quantity) *plan.Verdict {
	if wanted.IsZero() {
		return nil
	}
	value := func(q resource.Quantity) int64 {
		if name == corev1.ResourceCPU {
			return q.MilliValue()
		}
		return q.Value()
	}
	if value(wanted)+value(used) <= value(room) {
		return nil
	}
	return &plan.Verdict{
		Reason:  "OutOf" + string(name),
		Message: fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, value(wanted), value(used), value(room)),
	}
}

func anyHostPort(pod *corev1.Pod) bool { return len(hostPorts(pod)) > 0 }

// hostPorts are those of the node's that a pod takes: protocol/ip/port.
func hostPorts(pod *corev1.Pod) []corev1.ContainerPort {
	var found []corev1.ContainerPort
	for c := range plan.All(pod) {
		if plan.IsEphemeral(pod, c.Name) || (plan.IsInit(pod, c.Name) && !plan.IsSidecar(c)) {
			continue
		}
		for _, port := range c.Ports {
			if port.HostPort > 0 {
				found = append(found, port)
			}
		}
	}
	return found
}

func portTaken(pod *corev1.Pod, others []*corev1.Pod) string {
	everywhere := func(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }
	for _, wanted := range hostPorts(pod) {
		for _, other := range others {
			for _, taken := range hostPorts(other) {
				sameIP := wanted.HostIP == taken.HostIP || everywhere(wanted.HostIP) || everywhere(taken.HostIP)
				if wanted.HostPort == taken.HostPort && wanted.Protocol == taken.Protocol && sameIP {
					return fmt.Sprintf("%s/%d", wanted.Protocol, wanted.HostPort)
				}
			}
		}
	}
	return ""
}
