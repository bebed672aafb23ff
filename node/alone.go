package node

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/node/objects"
)

// alone is the cluster of an agent that has none: nothing to look up, nobody to tell.
type alone struct{ objects.Offline }

var _ Cluster = alone{}

func (alone) Follow(ctx context.Context, _ Listener) { <-ctx.Done() }
func (alone) Report(*corev1.Pod, *corev1.PodStatus)  {}
func (alone) Finish(*corev1.Pod)                     {}
func (alone) Mirror(*corev1.Pod)                     {}
func (alone) Unmirror(*corev1.Pod)                   {}
func (alone) Event(_ *corev1.Pod, _, _, _, _ string) {}
