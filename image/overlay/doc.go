// Package overlay mounts directories as overlayfs, detached: the mount is a descriptor, attached nowhere, and goes when it is closed.
//
// It knows the ways that different kernels need, and idmapped layers for user namespaces. It knows nothing of images or containers: its callers say which
// directories.
package overlay
