package node

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// AnnotationHash and the like are those by which an API server's object is known to show a static pod.
const (
	annotationConfigHash   = "kubernetes.io/config.hash"
	annotationConfigSource = "kubernetes.io/config.source"
)

// mirrored makes a pod of a file one that a cluster can show: its name is the node's own, it stays on the node whatever taints that gets, and its
// hash says which version of the file it is.
func mirrored(pod *corev1.Pod, node string) {
	pod.Name += "-" + strings.ToLower(node)
	pod.Spec.NodeName = node
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[annotationConfigHash] = string(pod.UID)
	pod.Annotations[annotationConfigSource] = "file"
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute})
}
