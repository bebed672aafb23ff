package cluster

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shimd/shimd/node/api"
)

// messageBytes is what all termination messages of a pod may have together; the kubelet's bound.
const messageBytes = 12 << 10

// ownConditions are the types of conditions that a node agent owns. Those of any other type belong to others: they stay as they are.
var ownConditions = []corev1.PodConditionType{
	corev1.PodScheduled, corev1.PodReady, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReadyToStartContainers,
	corev1.PodResizeInProgress, corev1.PodResizePending, corev1.AllContainersRestarting,
}

func own(kind corev1.PodConditionType) bool { return slices.Contains(ownConditions, kind) }

func terminal(phase corev1.PodPhase) bool {
	return phase == corev1.PodSucceeded || phase == corev1.PodFailed
}

// merge makes the status that the API server's object gets: the agent's, with what belongs to others taken from the object as it is, and with
// times that only change when what they are times of does. generation is that of the pod which the agent made the status of. It changes no argument.
func merge(base *corev1.Pod, status *corev1.PodStatus, generation int64, now time.Time) *corev1.PodStatus {
	old, merged := &base.Status, status.DeepCopy()
	normalise(&base.Spec, merged)
	observe(merged, max(generation, old.ObservedGeneration))
	if old.StartTime != nil {
		merged.StartTime = old.StartTime
	} else if merged.StartTime == nil {
		start := metav1.NewTime(now).Rfc3339Copy()
		merged.StartTime = &start
	}
	merged.QOSClass = or(merged.QOSClass, old.QOSClass)
	merged.NominatedNodeName = old.NominatedNodeName
	merged.ResourceClaimStatuses = old.ResourceClaimStatuses
	merged.ExtendedResourceClaimStatus = old.ExtendedResourceClaimStatus
	merged.NodeAllocatableResourceClaimStatuses = old.NodeAllocatableResourceClaimStatuses
	if merged.PodIP == "" { // of a sandbox that has gone: where the pod was stays known
		merged.PodIP, merged.PodIPs = old.PodIP, old.PodIPs
	}
	if merged.HostIP == "" {
		merged.HostIP, merged.HostIPs = old.HostIP, old.HostIPs
	}
	// ends is read before the phase is put back: DisruptionTarget is told with the end that it explains.
	ends := terminal(merged.Phase) && !terminal(old.Phase)
	if terminal(old.Phase) && merged.Phase != old.Phase { // what has ended never runs again, and never ends otherwise
		merged.Phase, merged.Reason, merged.Message = old.Phase, old.Reason, old.Message
	}
	mergeConditions(old, merged, ends, metav1.NewTime(now).Rfc3339Copy())
	return merged
}

// observe writes which generation of the pod a status is about, where the agent has not.
func observe(s *corev1.PodStatus, generation int64) {
	s.ObservedGeneration = or(s.ObservedGeneration, generation)
	for i := range s.Conditions {
		if own(s.Conditions[i].Type) {
			s.Conditions[i].ObservedGeneration = or(s.Conditions[i].ObservedGeneration, generation)
		}
	}
}

func mergeConditions(old, merged *corev1.PodStatus, ends bool, now metav1.Time) {
	conditions := make([]corev1.PodCondition, 0, len(old.Conditions)+len(merged.Conditions))
	for _, c := range old.Conditions {
		if !own(c.Type) || c.Type == corev1.PodScheduled && condition(merged, c.Type) == nil {
			conditions = append(conditions, c)
		}
	}
	for _, c := range merged.Conditions {
		before := condition(old, c.Type)
		switch {
		case before != nil && before.Status == c.Status:
			c.LastTransitionTime, c.LastProbeTime = before.LastTransitionTime, before.LastProbeTime
		case c.LastTransitionTime.IsZero():
			c.LastTransitionTime = now
		}
		if (c.Type == corev1.PodReady || c.Type == corev1.ContainersReady) && terminal(merged.Phase) && c.Status == corev1.ConditionTrue {
			c.Status, c.Reason, c.LastTransitionTime = corev1.ConditionFalse, endReason(merged.Phase), now
		}
		switch {
		case own(c.Type):
			conditions = append(conditions, c)
		case c.Type == corev1.DisruptionTarget && ends:
			conditions = slices.DeleteFunc(conditions, func(o corev1.PodCondition) bool { return o.Type == c.Type })
			conditions = append(conditions, c)
		}
	}
	merged.Conditions = conditions
}

// endReason is the reason of the readiness of a pod that has ended, as the kubelet words it.
func endReason(phase corev1.PodPhase) string {
	if phase == corev1.PodSucceeded {
		return "PodCompleted"
	}
	return "PodFailed"
}

func condition(status *corev1.PodStatus, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range status.Conditions {
		if status.Conditions[i].Type == kind {
			return &status.Conditions[i]
		}
	}
	return nil
}

// normalise brings a status to what the API server keeps of it, so that what was written compares equal to what comes back: times in whole
// seconds, bounded messages, statuses in one order.
func normalise(spec *corev1.PodSpec, s *corev1.PodStatus) {
	bound := messageBytes / max(1, len(spec.Containers)+len(spec.InitContainers)+len(spec.EphemeralContainers))
	if s.StartTime != nil {
		start := s.StartTime.Rfc3339Copy()
		s.StartTime = &start
	}
	for i := range s.Conditions {
		c := &s.Conditions[i]
		c.LastProbeTime, c.LastTransitionTime = c.LastProbeTime.Rfc3339Copy(), c.LastTransitionTime.Rfc3339Copy()
	}
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			normaliseState(&list[i].State, bound)
			normaliseState(&list[i].LastTerminationState, bound)
		}
	}
	byName := func(a, b corev1.ContainerStatus) int { return strings.Compare(a.Name, b.Name) }
	slices.SortStableFunc(s.ContainerStatuses, byName)
	slices.SortStableFunc(s.EphemeralContainerStatuses, byName)
	place := map[string]int{}
	for i := range spec.InitContainers {
		place[spec.InitContainers[i].Name] = i
	}
	slices.SortStableFunc(s.InitContainerStatuses, func(a, b corev1.ContainerStatus) int { return place[a.Name] - place[b.Name] })
}

func normaliseState(s *corev1.ContainerState, bound int) {
	if s.Running != nil {
		s.Running.StartedAt = s.Running.StartedAt.Rfc3339Copy()
	}
	if t := s.Terminated; t != nil {
		t.StartedAt, t.FinishedAt = t.StartedAt.Rfc3339Copy(), t.FinishedAt.Rfc3339Copy()
		if len(t.Message) > bound {
			t.Message = strings.ToValidUTF8(t.Message[:bound], "")
		}
	}
}

// patch is the strategic merge patch of the status subresource that makes one status of another; nil when they are the same. It holds for this UID
// only: a pod made anew under the same name must not get the words about its forerunner.
func patch(uid types.UID, old, merged *corev1.PodStatus) ([]byte, error) {
	p, err := api.StrategicPatch(corev1.Pod{Status: *old}, corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid}, Status: *merged})
	if err != nil {
		return nil, fmt.Errorf("comparing the statuses: %w", err)
	}
	if bytes.Equal(p, fmt.Appendf(nil, `{"metadata":{"uid":%q}}`, uid)) {
		return nil, nil
	}
	return p, nil
}
