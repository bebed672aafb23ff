package register

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/node/api"
)

// patch makes one node of another, but for what others decide about it.
func patch(before, after *corev1.Node) ([]byte, error) {
	after = after.DeepCopy()
	after.Spec = before.Spec
	return api.StrategicPatch(before, after)
}
