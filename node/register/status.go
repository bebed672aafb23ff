package register

import (
	"fmt"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
)

// Identity is what the node is told to be.
type Identity struct {
	Name       string
	Hostname   string            // empty: the name
	Addresses  []string          // IP addresses, the first one preferred
	Labels     map[string]string // --node-labels; set when the object is made, and never again
	Version    string            // empty: KubeletVersion
	RuntimeTag string            // containerRuntimeVersion while the runtime has never answered
}

// KubeletVersion is the release of Kubernetes whose kubelet this agent follows in what it does and says. Others read it as the kubelet's version, for
// the rules of version skew, so it must be one; the part after "+" is not compared, and says who it is.
const KubeletVersion = "v1.36.3+shimlet"

// Pressure is what the node lacks.
type Pressure struct{ Memory, Disk, PIDs bool }

// facts are all that a status is made of.
type facts struct {
	identity Identity
	config   *kubeletv1beta1.KubeletConfiguration
	machine  Machine
	runtime  Runtime
	images   []corev1.ContainerImage
	pressure Pressure
	problem  error // of the agent's own; nil: none
}

// event is one that a change of the status is told by.
type event struct{ kind, reason, message string }

// object is the Node as it is first registered, without its status.
func object(identity Identity, config *kubeletv1beta1.KubeletConfiguration) *corev1.Node {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: identity.Name, Labels: map[string]string{
		corev1.LabelHostname: hostname(identity), corev1.LabelOSStable: goruntime.GOOS, corev1.LabelArchStable: goruntime.GOARCH,
		"beta.kubernetes.io/os": goruntime.GOOS, "beta.kubernetes.io/arch": goruntime.GOARCH,
	}}}
	for name, value := range identity.Labels {
		node.Labels[name] = value
	}
	if *config.EnableControllerAttachDetach {
		node.Annotations = map[string]string{attachAnnotation: "true"}
	}
	node.Spec.Taints = slices.Clone(config.RegisterWithTaints)
	node.Spec.ProviderID = config.ProviderID
	return node
}

// attachAnnotation says that a controller attaches volumes, not the node.
const attachAnnotation = "volumes.kubernetes.io/controller-managed-attach-detach"

func hostname(identity Identity) string {
	if identity.Hostname != "" {
		return identity.Hostname
	}
	return identity.Name
}

// adopt brings an object that exists already up to what registration would have made; it says whether that changed something. Labels that an
// administrator has changed stay, but for those that describe the machine.
func adopt(existing, fresh *corev1.Node) bool {
	changed := false
	for _, name := range []string{corev1.LabelHostname, corev1.LabelOSStable, corev1.LabelArchStable, "beta.kubernetes.io/os", "beta.kubernetes.io/arch",
		corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelInstanceTypeStable} {
		if value, wanted := fresh.Labels[name]; wanted && existing.Labels[name] != value {
			if existing.Labels == nil {
				existing.Labels = map[string]string{}
			}
			existing.Labels[name], changed = value, true
		}
	}
	if value, wanted := fresh.Annotations[attachAnnotation]; wanted && existing.Annotations[attachAnnotation] != value {
		if existing.Annotations == nil {
			existing.Annotations = map[string]string{}
		}
		existing.Annotations[attachAnnotation], changed = value, true
	}
	return changed
}

// setStatus makes a node's status of facts, keeping what belongs to others, and tells what is worth an event.
func setStatus(node *corev1.Node, f facts, now time.Time) []event {
	s := &node.Status
	s.Addresses = addresses(f.identity)
	events := setInfo(s, f)
	setResources(s, f)
	s.DaemonEndpoints.KubeletEndpoint.Port = 0
	if *f.config.EnableServer {
		s.DaemonEndpoints.KubeletEndpoint.Port = f.config.Port
	}
	s.Images = f.images
	if most := int(*f.config.NodeStatusMaxImages); most >= 0 && len(s.Images) > most {
		s.Images = s.Images[:most]
	}
	if f.runtime.Version != "" { // else what was known last stays
		s.RuntimeHandlers, s.Features = f.runtime.Handlers, f.runtime.Features
	}
	return append(events, setConditions(s, f, metav1.NewTime(now).Rfc3339Copy())...)
}

func addresses(identity Identity) []corev1.NodeAddress {
	var found []corev1.NodeAddress
	for _, ip := range identity.Addresses {
		found = append(found, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
	}
	return append(found, corev1.NodeAddress{Type: corev1.NodeHostName, Address: hostname(identity)})
}

func setInfo(s *corev1.NodeStatus, f facts) []event {
	var events []event
	if s.NodeInfo.BootID != "" && s.NodeInfo.BootID != f.machine.BootID {
		events = append(events, event{corev1.EventTypeWarning, "Rebooted", fmt.Sprintf("Node %s has been rebooted, boot id: %s", f.identity.Name, f.machine.BootID)})
	}
	runtime := first(f.runtime.Version, s.NodeInfo.ContainerRuntimeVersion, f.identity.RuntimeTag, "Unknown")
	s.NodeInfo = corev1.NodeSystemInfo{
		MachineID: f.machine.MachineID, SystemUUID: f.machine.SystemUUID, BootID: f.machine.BootID, KernelVersion: f.machine.KernelVersion,
		OSImage: f.machine.OSImage, ContainerRuntimeVersion: runtime, KubeletVersion: first(f.identity.Version, KubeletVersion),
		OperatingSystem: goruntime.GOOS, Architecture: goruntime.GOARCH,
	}
	if f.machine.Swap > 0 {
		s.NodeInfo.Swap = &corev1.NodeSwapStatus{Capacity: &f.machine.Swap}
	}
	return events
}

// setResources keeps resources that others have added (extended ones), and takes away huge pages of sizes that are gone.
func setResources(s *corev1.NodeStatus, f facts) {
	capacity := Capacity(f.machine, f.config)
	for _, list := range []corev1.ResourceList{s.Capacity, s.Allocatable} {
		for name := range list {
			if _, there := capacity[name]; !there && strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
				delete(list, name)
			}
		}
	}
	if s.Capacity == nil {
		s.Capacity = corev1.ResourceList{}
	}
	for name, quantity := range capacity {
		s.Capacity[name] = quantity
	}
	s.Allocatable = Allocatable(s.Capacity, f.config)
}

// Capacity is what the machine has.
func Capacity(m Machine, config *kubeletv1beta1.KubeletConfiguration) corev1.ResourceList {
	pods := int64(config.MaxPods)
	if config.PodsPerCore > 0 {
		pods = min(pods, m.CPUs*int64(config.PodsPerCore))
	}
	capacity := corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewQuantity(m.CPUs, resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(m.Memory, resource.BinarySI),
		corev1.ResourcePods:   *resource.NewQuantity(pods, resource.DecimalSI),
	}
	if *config.LocalStorageCapacityIsolation {
		capacity[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(m.Storage, resource.BinarySI)
	}
	for size, bytes := range m.HugePages {
		name := corev1.ResourceHugePagesPrefix + resource.NewQuantity(size, resource.BinarySI).String()
		capacity[corev1.ResourceName(name)] = *resource.NewQuantity(bytes, resource.BinarySI)
	}
	return capacity
}

// Allocatable is what pods may have of it: less what is reserved for the system and the agent, less what eviction keeps free, and for memory less what
// huge pages hold.
func Allocatable(capacity corev1.ResourceList, config *kubeletv1beta1.KubeletConfiguration) corev1.ResourceList {
	allocatable := corev1.ResourceList{}
	for name, quantity := range capacity {
		left := quantity.DeepCopy()
		for _, reserved := range []map[string]string{config.SystemReserved, config.KubeReserved} {
			if q, err := resource.ParseQuantity(reserved[string(name)]); err == nil {
				left.Sub(q)
			}
		}
		switch name {
		case corev1.ResourceMemory:
			left.Sub(threshold(config.EvictionHard["memory.available"], quantity))
			for other, pages := range capacity {
				if strings.HasPrefix(string(other), corev1.ResourceHugePagesPrefix) {
					left.Sub(pages)
				}
			}
		case corev1.ResourceEphemeralStorage:
			left.Sub(threshold(config.EvictionHard["nodefs.available"], quantity))
		}
		if left.Sign() < 0 {
			left.Set(0)
		}
		allocatable[name] = left
	}
	return allocatable
}

// threshold is an eviction threshold, "100Mi" or "10%", as an amount.
func threshold(value string, capacity resource.Quantity) resource.Quantity {
	if percent, is := strings.CutSuffix(value, "%"); is {
		if p, err := strconv.ParseFloat(percent, 64); err == nil {
			return *resource.NewQuantity(int64(float64(capacity.Value())*p/100), resource.BinarySI)
		}
		return resource.Quantity{}
	}
	q, err := resource.ParseQuantity(value)
	if err != nil {
		return resource.Quantity{}
	}
	return q
}

// pressureWords are the kubelet's, of each condition: when it is so, when it is not, and the events.
var pressureWords = []struct {
	kind                                 corev1.NodeConditionType
	reason, message, noReason, noMessage string
	event, noEvent                       string
	is                                   func(Pressure) bool
}{
	{corev1.NodeMemoryPressure, "KubeletHasInsufficientMemory", "kubelet has insufficient memory available",
		"KubeletHasSufficientMemory", "kubelet has sufficient memory available", "NodeHasInsufficientMemory", "NodeHasSufficientMemory",
		func(p Pressure) bool { return p.Memory }},
	{corev1.NodeDiskPressure, "KubeletHasDiskPressure", "kubelet has disk pressure",
		"KubeletHasNoDiskPressure", "kubelet has no disk pressure", "NodeHasDiskPressure", "NodeHasNoDiskPressure",
		func(p Pressure) bool { return p.Disk }},
	{corev1.NodePIDPressure, "KubeletHasInsufficientPID", "kubelet has insufficient PID available",
		"KubeletHasSufficientPID", "kubelet has sufficient PID available", "NodeHasInsufficientPID", "NodeHasSufficientPID",
		func(p Pressure) bool { return p.PIDs }},
}

func setConditions(s *corev1.NodeStatus, f facts, now metav1.Time) []event {
	var events []event
	changed := func(reason string) {
		events = append(events, event{corev1.EventTypeNormal, reason, fmt.Sprintf("Node %s status is now: %s", f.identity.Name, reason)})
	}
	for _, w := range pressureWords {
		c := corev1.NodeCondition{Type: w.kind, Status: corev1.ConditionFalse, Reason: w.noReason, Message: w.noMessage}
		reason := w.noEvent
		if w.is(f.pressure) {
			c.Status, c.Reason, c.Message, reason = corev1.ConditionTrue, w.reason, w.message, w.event
		}
		if setCondition(s, c, now) {
			changed(reason)
		}
	}
	problems := []error{}
	for _, problem := range []error{f.runtime.Problem, f.problem} {
		if problem != nil {
			problems = append(problems, problem)
		}
	}
	ready, reason := corev1.NodeCondition{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status",
	}, "NodeReady"
	if problem := aggregate(problems); problem != nil {
		ready.Status, ready.Reason, ready.Message, reason = corev1.ConditionFalse, "KubeletNotReady", problem.Error(), "NodeNotReady"
	}
	isNew := Condition(s, corev1.NodeReady) == nil
	if setCondition(s, ready, now) && !isNew {
		changed(reason)
	}
	return events
}

// setCondition puts a condition in place, and says whether its status changed.
func setCondition(s *corev1.NodeStatus, c corev1.NodeCondition, now metav1.Time) bool {
	c.LastHeartbeatTime, c.LastTransitionTime = now, now
	before := Condition(s, c.Type)
	if before == nil {
		s.Conditions = append(s.Conditions, c)
		return true
	}
	changed := before.Status != c.Status
	if !changed {
		c.LastTransitionTime = before.LastTransitionTime
	}
	*before = c
	return changed
}

// Condition is the condition of a type, or nil.
func Condition(s *corev1.NodeStatus, kind corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == kind {
			return &s.Conditions[i]
		}
	}
	return nil
}

// same says whether two statuses differ in nothing but the times of heartbeats.
func same(a, b *corev1.NodeStatus) bool {
	return apiequality.Semantic.DeepEqual(timeless(a), timeless(b))
}

func timeless(s *corev1.NodeStatus) *corev1.NodeStatus {
	copied := *s
	copied.Conditions = slices.Clone(s.Conditions)
	for i := range copied.Conditions {
		copied.Conditions[i].LastHeartbeatTime = metav1.Time{}
	}
	slices.SortFunc(copied.Conditions, func(a, b corev1.NodeCondition) int { return strings.Compare(string(a.Type), string(b.Type)) })
	return &copied
}

// PodCIDRs are the addresses of this node's pods, separated by commas; empty as long as none are assigned. They are what CRI.SetPodCIDR takes.
func PodCIDRs(node *corev1.Node) string {
	if len(node.Spec.PodCIDRs) > 0 {
		return strings.Join(node.Spec.PodCIDRs, ",")
	}
	return node.Spec.PodCIDR
}
