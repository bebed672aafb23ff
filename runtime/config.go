package runtime

import "time"

// SandboxID names a pod sandbox: 64 lower-case hexadecimal digits, chosen by the runtime.
type SandboxID string

// ContainerID names a container: 64 lower-case hexadecimal digits, chosen by the runtime.
type ContainerID string

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

// SandboxConfig is what a client asks of a sandbox: CRI's PodSandboxConfig, validated, in the runtime's own words.
// It is stored in the sandbox's record, so every field must survive JSON.
type SandboxConfig struct {
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
	Target            ContainerID // with PID NamespaceTarget
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

// ContainerConfig is what a client asks of a container: CRI's ContainerConfig, validated. It is stored in the record.
type ContainerConfig struct {
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

// SandboxState is the state of a sandbox.
type SandboxState string

// A sandbox is ready from the end of Run until the start of Stop.
const (
	SandboxReady    SandboxState = "ready"
	SandboxNotReady SandboxState = "notready"
)

// SandboxStatus is what the runtime knows of a sandbox.
type SandboxStatus struct {
	ID        SandboxID
	Config    SandboxConfig
	State     SandboxState
	CreatedAt time.Time
	IPs       []string // the first is the primary one; empty on the host's network
	NetNSPath string
	Info      map[string]string // verbose answers: JSON by key; only when asked
}

// ContainerState is the state of a container.
//
//	created --Start--> running --exit--> exited
//	   \______________Stop____________/
//	unknown: the record or the process could not be read.
type ContainerState string

// The states of CRI.
const (
	ContainerCreated ContainerState = "created"
	ContainerRunning ContainerState = "running"
	ContainerExited  ContainerState = "exited"
	ContainerUnknown ContainerState = "unknown"
)

// ContainerUser is the identity that a container's first process got.
type ContainerUser struct {
	UID, GID int64
	Groups   []int64
}

// ContainerStatus is what the runtime knows of a container.
type ContainerStatus struct {
	ID         ContainerID
	Sandbox    SandboxID
	Config     ContainerConfig
	State      ContainerState
	PID        int // on the host; 0 unless running
	CreatedAt  time.Time
	StartedAt  time.Time
	FinishedAt time.Time
	ExitCode   int32
	Reason     string // "Completed", "Error", "OOMKilled", "ContainerCannotRun", ...
	Message    string
	ImageID    string     // the image's ID
	ImageRef   string     // the image's repo digest, else its ID
	LogPath    string     // absolute; "" without a log
	Resources  *Resources // as in force
	User       *ContainerUser
	StopSignal string
	Info       map[string]string
}

// EventType is the kind of a container event.
type EventType string

// The container events of CRI.
const (
	EventCreated EventType = "created"
	EventStarted EventType = "started"
	EventStopped EventType = "stopped"
	EventDeleted EventType = "deleted"
)

// Event tells that a container or sandbox changed. A sandbox's own events carry its ID as ContainerID, as CRI has it.
// Sandbox and Containers are as they were when the event was made.
type Event struct {
	Type        EventType
	ContainerID string
	Time        time.Time
	Sandbox     *SandboxStatus
	Containers  []ContainerStatus
}
