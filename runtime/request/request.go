// Package request holds what clients ask of the runtime: sandboxes and containers as CRI words them, validated and free of
// CRI's own types. It is data alone: it is stored in records, so every field survives JSON. What the runtime makes of it and answers
// (states, statuses, events) belongs to package runtime; its translation to an OCI spec to package ocispec.
package request

// SandboxMetadata identifies a sandbox for its client. Two requests with equal metadata mean the same sandbox.
type SandboxMetadata struct {
	Name, Namespace, UID string
	Attempt              uint32
}

// ContainerMetadata identifies a container within its sandbox.
type ContainerMetadata struct {
	Name    string
	Attempt uint32
}

// Sandbox is what a client asks of a sandbox: CRI's PodSandboxConfig, validated, in the runtime's own words.
// It is stored in the sandbox's record, so every field must survive JSON.
type Sandbox struct {
	Metadata       SandboxMetadata
	Hostname       string
	LogDirectory   string // absolute; "" when the client wants no logs on disk
	DNS            *DNSConfig
	PortMappings   []PortMapping
	Labels         map[string]string
	Annotations    map[string]string
	CgroupParent   string // as the client wrote it: a path (cgroupfs) or a slice name (systemd); "" for the runtime's own
	Sysctls        map[string]string
	Namespaces     Namespaces
	SELinux        SELinuxLabel
	Privileged     bool
	Overhead       *Resources
	Resources      *Resources
	RuntimeHandler string // "" is the built-in runtime
}

// DNSConfig is the resolv.conf of a sandbox's containers.
type DNSConfig struct {
	Servers, Searches, Options []string
}

// PortMapping publishes a container port on the host.
type PortMapping struct {
	Protocol      string // "tcp", "udp" or "sctp"
	ContainerPort int32
	HostPort      int32 // 0: not published
	HostIP        string
}

// NamespaceMode says whose namespace of one kind a container lives in.
type NamespaceMode string

// The namespace modes of CRI.
const (
	NamespacePod       NamespaceMode = "pod"
	NamespaceContainer NamespaceMode = "container"
	NamespaceNode      NamespaceMode = "node"
	NamespaceTarget    NamespaceMode = "target"
)

// Namespaces is CRI's NamespaceOption. Zero modes are NamespacePod.
type Namespaces struct {
	Network, PID, IPC NamespaceMode
	Target            string // the container's ID, with PID NamespaceTarget
	User              *UserNamespace
}

// UserNamespace gives the ID mappings of a sandbox that has a user namespace of its own.
type UserNamespace struct {
	UIDs, GIDs []IDMapping
}

// IDMapping maps Length IDs from ContainerID on to HostID on.
type IDMapping struct {
	HostID, ContainerID, Length uint32
}

// SELinuxLabel is CRI's SELinuxOption.
type SELinuxLabel struct {
	User, Role, Type, Level string
}

// SecurityProfileKind is the kind of a seccomp or AppArmor profile.
type SecurityProfileKind string

// The kinds of profile; "" means that the request named none.
const (
	ProfileRuntimeDefault SecurityProfileKind = "runtime/default"
	ProfileUnconfined     SecurityProfileKind = "unconfined"
	ProfileLocalhost      SecurityProfileKind = "localhost"
)

// SecurityProfile is a seccomp or AppArmor profile. Localhost is a file path (seccomp) or a loaded profile's name (AppArmor).
type SecurityProfile struct {
	Kind      SecurityProfileKind
	Localhost string
}

// Resources is CRI's LinuxContainerResources. Zero fields are not set.
type Resources struct {
	CPUPeriod       int64 // microseconds
	CPUQuota        int64 // microseconds per period; negative: none
	CPUShares       int64
	MemoryLimit     int64 // bytes
	MemorySwapLimit int64 // bytes, memory plus swap, as in CRI
	OOMScoreAdj     int64
	CPUSetCPUs      string
	CPUSetMems      string
	HugepageLimits  []HugepageLimit
	Unified         map[string]string
}

// HugepageLimit limits one page size, written as cgroup files have it ("2MB").
type HugepageLimit struct {
	PageSize string
	Limit    uint64 // bytes
}

// Container is what a client asks of a container: CRI's ContainerConfig, validated. It is stored in the record.
type Container struct {
	Metadata    ContainerMetadata
	Image       ImageRef
	Command     []string
	Args        []string
	WorkingDir  string
	Envs        []EnvVar
	Mounts      []Mount
	Devices     []Device
	CDIDevices  []string // fully qualified names
	Labels      map[string]string
	Annotations map[string]string
	LogPath     string // relative to the sandbox's LogDirectory
	Stdin       bool
	StdinOnce   bool
	TTY         bool
	StopSignal  string // "SIGTERM"; "" takes the image's, else SIGTERM
	Resources   *Resources
	Security    Security
}

// ImageRef is the image that a container runs: CRI's ImageSpec.
type ImageRef struct {
	Image          string // what CreateContainer named: usually the image's ID
	UserSpecified  string // what the person wrote
	Ref            string // CRI's image_ref
	Annotations    map[string]string
	RuntimeHandler string
}

// EnvVar is one environment variable.
type EnvVar struct{ Key, Value string }

// MountPropagation is the propagation of a mount.
type MountPropagation string

// The mount propagations of CRI.
const (
	PropagationPrivate         MountPropagation = "private"
	PropagationHostToContainer MountPropagation = "rslave"
	PropagationBidirectional   MountPropagation = "rshared"
)

// Mount is CRI's Mount. Either HostPath or Image is set.
type Mount struct {
	ContainerPath     string
	HostPath          string
	ReadOnly          bool
	RecursiveReadOnly bool
	SELinuxRelabel    bool
	Propagation       MountPropagation
	UIDs, GIDs        []IDMapping // idmapped mount; empty: none
	Image             *ImageRef
	ImageSubPath      string
	Options           []string // mount options such as "noexec", "nosuid"
}

// Device is a device node of the host given to a container.
type Device struct {
	ContainerPath, HostPath string
	Permissions             string // of "rwm"
}

// Security is CRI's LinuxContainerSecurityContext.
type Security struct {
	AddCapabilities, DropCapabilities, AddAmbientCapabilities []string // without "CAP_"; "ALL" is allowed
	Privileged                                                bool
	Namespaces                                                Namespaces
	SELinux                                                   SELinuxLabel
	RunAsUser, RunAsGroup                                     *int64
	RunAsUsername                                             string
	ReadonlyRootfs                                            bool
	SupplementalGroups                                        []int64
	StrictSupplementalGroups                                  bool // policy Strict; else Merge
	NoNewPrivs                                                bool
	MaskedPaths, ReadonlyPaths                                []string
	Seccomp, AppArmor                                         SecurityProfile
}
