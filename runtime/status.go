package runtime

import (
	"time"

	"github.com/shimd/shimd/runtime/request"
)

// SandboxID names a pod sandbox: 64 lower-case hexadecimal digits, chosen by the runtime.
type SandboxID string

// ContainerID names a container: 64 lower-case hexadecimal digits, chosen by the runtime.
type ContainerID string

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
	Config    request.Sandbox
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
	Config     request.Container
	State      ContainerState
	PID        int // on the host; 0 unless running
	CreatedAt  time.Time
	StartedAt  time.Time
	FinishedAt time.Time
	ExitCode   int32
	Reason     string // "Completed", "Error", "OOMKilled", "ContainerCannotRun", ...
	Message    string
	ImageID    string             // the image's ID
	ImageRef   string             // the image's repo digest, else its ID
	LogPath    string             // absolute; "" without a log
	Resources  *request.Resources // as in force
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
