package runtime

import (
	"io"
	"time"

	"github.com/shimd/shimd/cgroups"
)

// TerminalSize is the size of a terminal in characters.
type TerminalSize struct{ Columns, Rows uint16 }

// Streams are a client's ends of exec and attach. Nil ones are not wanted.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.WriteCloser
	Resize         <-chan TerminalSize
	TTY            bool
}

// Handler is a runtime handler that a RuntimeClass can name.
type Handler struct {
	Name                    string // "" is the default
	RecursiveReadOnlyMounts bool
	UserNamespaces          bool
}

// FsUsage is the space that a container's writable layer takes.
type FsUsage struct {
	Timestamp  time.Time
	Mountpoint string
	UsedBytes  uint64
	InodesUsed uint64
	// SizeBytes, Inodes and InodesFree are of the whole file system; 0: not asked for, or not known.
	SizeBytes, Inodes, InodesFree uint64
}

// ContainerStats are a container's counters. Cgroup is nil when it does not run.
type ContainerStats struct {
	Status        ContainerStatus
	Cgroup        *cgroups.Stats
	OOMKills      *uint64 // processes that the kernel killed in its cgroup (cgroups.Cgroup.OOMKills); nil: not known
	WritableLayer FsUsage
	Processes     *ProcessUsage // only what ContainerProcesses was asked for; nil otherwise
}

// ProcessUsage is what a container's processes hold.
type ProcessUsage struct {
	Descriptors uint64 // open files and sockets
	Sockets     uint64
	OpenFiles   *uint64 // how many descriptors the container's first process may open, its soft limit; nil: no limit, or not known
}

// NetworkInterface counts one interface's traffic.
type NetworkInterface struct {
	Name                                                                             string
	RxBytes, RxPackets, RxErrors, RxDropped, TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// SandboxStats are a sandbox's counters. Cgroup is that of the whole pod.
type SandboxStats struct {
	Status     SandboxStatus
	Cgroup     *cgroups.Stats
	Interfaces []NetworkInterface // the default one (eth0) first; nil on the host's network
	Containers []ContainerStats
	Time       time.Time
}
