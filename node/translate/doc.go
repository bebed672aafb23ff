// Package translate makes CRI configurations of pods, the way the kubelet does, so that tools which know the kubelet's labels, log paths
// and limits work.
//
// Inside: pure functions from a pod (and what is known of the node) to PodSandboxConfig and ContainerConfig.
// Not inside: making the directories and files that mounts name (package volume), and calls (package criclient).
package translate
