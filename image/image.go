// Package image keeps the node's container images: it pulls them from registries, unpacks their layers, and makes
// root file systems of them by overlayfs.
//
// Image content, image configuration and registry answers are untrusted here. The package knows nothing of sandboxes,
// containers' processes, cgroups or CRI: a container is a key that owns a writable layer.
package image

import (
	"time"
)

// ID is an image's ID: the digest of its configuration, "sha256:" and 64 hexadecimal digits.
type ID string

// Image is one image in the store.
type Image struct {
	ID          ID
	RepoTags    []string // normalized: docker.io/library/busybox:1.36
	RepoDigests []string // docker.io/library/busybox@sha256:...
	Size        uint64   // bytes of the unpacked layers, the manifest and the configuration
	Config      Config
	DiffIDs     []string
	Pinned      bool
}

// Config is the part of an image's configuration that a runtime needs. All of it is untrusted.
type Config struct {
	User         string
	Env          []string
	Entrypoint   []string
	Cmd          []string
	WorkingDir   string
	Volumes      []string // sorted
	StopSignal   string
	Labels       map[string]string
	Architecture string
	OS           string
}

// PullRequest asks for an image.
type PullRequest struct {
	Ref  string // as a client writes it: "busybox", "host/name:tag", "host/name@sha256:..."
	Auth *Auth  // nil: anonymous
}

// Auth is what a client gives to authenticate at a registry: CRI's AuthConfig.
type Auth struct {
	Username, Password, Auth, ServerAddress, IdentityToken, RegistryToken string
}

// FsUsage is the use of the file system that the store stands on.
type FsUsage struct {
	Timestamp  time.Time
	Mountpoint string
	UsedBytes  uint64
	InodesUsed uint64
}

// IDMap maps IDs of a user namespace on to IDs of the host.
type IDMap struct {
	ContainerID, HostID, Length uint32
}

// RootfsOptions says how a container's root file system is mounted.
type RootfsOptions struct {
	UIDs, GIDs   []IDMap // idmapped, for a user namespace; empty: none
	SELinuxLabel string  // mount label; "" for none
}
