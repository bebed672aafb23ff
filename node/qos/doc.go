// Package qos keeps the cgroups between the node's and those of containers: one for all pods, one for each of the lower classes of service,
// one for each pod.
//
//	ROOT/kubepods                       what the node has for pods; Guaranteed pods are directly below it
//	ROOT/kubepods/burstable/podUID      with the cgroupfs driver
//	ROOT/kubepods/besteffort/podUID
//	kubepods-burstable-podUID.slice     with the systemd driver, "-" in the UID written as "_"
//
// Inside: a pod's class, its limits (pure), making and removing these groups, and reading what they use.
// Not inside: containers' own cgroups (the runtime's), and what happens when memory is short (package eviction).
package qos
