// Package mounts prepares mounts that belong to no mount namespace yet: detached mounts, held by descriptors, which a launch program moves
// into a container.
//
// Inside belongs: making and changing detached mounts by the new mount API, the options of OCI mounts, resolving destinations inside of an untrusted
// root, and the two namespaces of almost no mounts that containers' own are copied from. Outside belongs: what a container's mounts are (package launch
// compiles them from the spec), overlay root file systems (package image).
//
// Everything works from Linux 6.1 on; what a newer kernel could do better is said where it matters.
package mounts
