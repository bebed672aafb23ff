package translate

import (
	"path/filepath"
	"strconv"

	corev1 "k8s.io/api/core/v1"
)

// Labels and annotations. The io.kubernetes ones are the kubelet's (pkg/kubelet/kuberuntime/labels.go), which crictl and log collectors read.
const (
	LabelPodName       = "io.kubernetes.pod.name"
	LabelPodNamespace  = "io.kubernetes.pod.namespace"
	LabelPodUID        = "io.kubernetes.pod.uid"
	LabelContainerName = "io.kubernetes.container.name"

	// LabelOwner marks what an agent made, with the folder or the node it serves, so that several agents on one runtime leave each other's pods alone.
	LabelOwner = "io.shimd.shimlet.owner"

	AnnotationSource        = "kubernetes.io/config.source"
	AnnotationConfigHash    = "kubernetes.io/config.hash"
	AnnotationFile          = "io.shimd.shimlet.pod-manifest-file"
	AnnotationBackoff       = "io.shimd.shimlet.backoff" // nanoseconds
	AnnotationImage         = "io.shimd.shimlet.image"
	annotationHash          = "io.kubernetes.container.hash"
	annotationRestartCount  = "io.kubernetes.container.restartCount"
	annotationMessagePath   = "io.kubernetes.container.terminationMessagePath"
	annotationMessagePolicy = "io.kubernetes.container.terminationMessagePolicy"
	annotationGracePeriod   = "io.kubernetes.pod.terminationGracePeriod"
	annotationPorts         = "io.kubernetes.container.ports"
)

// LogDirectory is where the logs of a pod are: under base, as the kubelet names it.
func LogDirectory(base string, pod *corev1.Pod) string {
	return filepath.Join(base, pod.Namespace+"_"+pod.Name+"_"+string(pod.UID))
}

// LogPath is the log of one run of a container, relative to LogDirectory.
func LogPath(container string, attempt uint32) string {
	return filepath.Join(container, strconv.FormatUint(uint64(attempt), 10)+".log")
}
