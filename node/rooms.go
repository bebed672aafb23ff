package node

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/node/objects"
)

// Cluster is what the agent wants of the API server; package cluster has it. But for Source's look-ups and Follow all methods return at once: what
// they are told is written by goroutines of the cluster's, the newest word about a pod replaces older ones, and is tried again until it is
// written or the pod is gone from the API server. The API server may be away for any time: then nothing is told to the listener, and pods run on.
type Cluster interface {
	objects.Source
	// Follow tells the listener of changes until the context ends.
	Follow(ctx context.Context, listener Listener)
	// Report hands over the latest status of a pod (a static pod's goes to its mirror pod). Conditions of other owners (readiness gates,
	// DisruptionTarget) in the API server's object stay. Equal to what is there already: nothing is written.
	Report(pod *corev1.Pod, status *corev1.PodStatus)
	// Finish says that nothing of a pod with a deletion timestamp is left on this node: after its last status is written its object is deleted,
	// with grace period 0 and its UID as precondition.
	Finish(pod *corev1.Pod)
	// Mirror makes the API server's object that shows a static pod, or makes it anew when that pod was changed; Unmirror removes it.
	Mirror(static *corev1.Pod)
	Unmirror(static *corev1.Pod)
	// Event records one, "Normal" or "Warning", about a pod (field "") or a container of it (field "spec.containers{name}").
	Event(pod *corev1.Pod, field, kind, reason, message string)
}

// Cgroups are the control groups above those of the runtime; package qos has them.
type Cgroups interface {
	// Parent is what the runtime is told as the cgroup parent of a pod's sandbox.
	Parent(pod *corev1.Pod) string
	// Ensure makes the pod's group with its limits, or brings it up to date.
	Ensure(ctx context.Context, pod *corev1.Pod) error
	// Remove kills what is left in the pod's group and removes it; idempotent.
	Remove(ctx context.Context, pod *corev1.Pod) error
	// Balance divides the CPU among the classes of the pods that there are. It costs nothing when nothing changed.
	Balance(ctx context.Context, pods []*corev1.Pod) error
	// RemoveOrphans removes the groups of all pods but those to keep.
	RemoveOrphans(ctx context.Context, keep func(uid string) bool) error
}

// Listener is told what the API server has. Its functions are called one at a time and must return soon.
type Listener struct {
	// Pods gets all pods bound to this node, mirror pods left out: once they have been listed, and whenever one of them changed, is new or is gone.
	// They are shared and must not be changed.
	Pods func(pods []*corev1.Pod)
	// Objects gets the UIDs of pods that refer to a ConfigMap or Secret which has changed.
	Objects func(pods []string)
	// Node gets this node's object when it changed.
	Node func(node *corev1.Node)
}
