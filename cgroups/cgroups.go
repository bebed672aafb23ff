// Package cgroups makes, limits, measures and removes the control groups of pods and containers, on cgroup v1 and v2,
// by the cgroupfs or the systemd driver.
//
// It knows paths and limits, not sandboxes, containers or CRI.
package cgroups

import (
	"context"
	"errors"
	"os"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Driver says who owns the cgroup tree.
type Driver string

// The cgroup drivers that the kubelet knows.
const (
	Cgroupfs Driver = "cgroupfs"
	Systemd  Driver = "systemd"
)

// Manager makes cgroups. All methods may be called at the same time for different paths.
type Manager interface {
	Driver() Driver
	Version() int // 1 or 2
	// Controllers lists those that can be used, for Status.
	Controllers() []string

	// PodParent normalizes what a client wrote as cgroup parent ("/kubepods/burstable/podX" or
	// "kubepods-burstable-podX.slice" by driver; an error of kind invalid argument when it does not fit the driver)
	// to a Path. With "" it answers the path of a group of the runtime's own for that sandbox ID, and owned is true.
	PodParent(parent, sandboxID string) (path Path, owned bool, err error)
	// ContainerPath is where a container's cgroup stands below its pod's.
	ContainerPath(pod Path, containerID string) Path

	// Create makes the cgroup with its limits set, before any process is in it, and opens it. Idempotent. Limits and devices
	// that this kernel cannot honour are an error naming the field, but absent optional controllers with no limit asked are not.
	// devices nil means no device rules (pods).
	Create(ctx context.Context, path Path, res *specs.LinuxResources) (Cgroup, error)
	// Open opens an existing cgroup: for a restarted daemon. ErrNotFound when it is gone.
	Open(path Path) (Cgroup, error)
	// Remove kills what is in it (cgroup.kill, else repeated SIGKILL), and removes it with all below. Idempotent.
	// The runtime's own top group goes with the last one in it.
	Remove(ctx context.Context, path Path) error
	// Names lists the cgroups directly below one. One that is not there has none.
	Names(path Path) ([]string, error)
	// Leftovers lists the sandbox IDs that own a group below the runtime's own top group: what a crash left, among what still runs.
	Leftovers() ([]string, error)
	// Close ends the connection to systemd, if there is one. Cgroups stay.
	Close() error
}

// Path names a cgroup below the hierarchy's root, always with a leading slash; for systemd it is the expanded path
// ("/kubepods.slice/kubepods-podX.slice/shimd-ID.scope").
type Path string

// Cgroup is one open cgroup. It keeps descriptors to what is read often. Methods may run at the same time.
type Cgroup interface {
	Path() Path
	// Entry opens what a process needs to enter the cgroup. It is opened for each start and closed by the caller, so that a
	// container that runs holds no descriptors for it.
	Entry() (*Entry, error)
	// Update changes limits while processes run.
	Update(ctx context.Context, res *specs.LinuxResources) error
	// Stats reads all counters in one pass.
	Stats() (*Stats, error)
	// OOMKills is the number of processes the kernel has killed in this cgroup, by memory.events or memory.oom_control.
	OOMKills() (uint64, error)
	// Kill sends SIGKILL to every process in it and below.
	Kill() error
	// Freeze stops or thaws all processes.
	Freeze(frozen bool) error
	// Procs lists the processes in it and below.
	Procs() ([]int, error)
	// Close closes the descriptors; the cgroup stays.
	Close() error
}

// Entry is how a new process joins: on v2 by clone3(CLONE_INTO_CGROUP) with Dir; on v1 the single-threaded child writes
// "0" to each of Tasks. Neither waits for an RCU grace period, as writing the pid of a live process to cgroup.procs does (10 ms).
// The caller owns the descriptors.
type Entry struct {
	Dir   *os.File   // v2: the cgroup's directory, O_PATH; nil on v1
	Tasks []*os.File // v1: each hierarchy's "tasks" file, opened for writing
}

// Close closes the descriptors.
func (e *Entry) Close() error {
	var errs []error
	if e.Dir != nil {
		errs = append(errs, e.Dir.Close())
	}
	for _, f := range e.Tasks {
		errs = append(errs, f.Close())
	}
	e.Dir, e.Tasks = nil, nil
	return errors.Join(errs...)
}

// Stats are the counters of one cgroup at one time. Zero values of pointers mean that the kernel does not tell.
type Stats struct {
	Time      time.Time
	CPU       CPUStats
	Memory    MemoryStats
	Swap      *SwapStats
	IO        *IOStats
	Processes *uint64 // pids.current
	PidsLimit *uint64
	Hugetlb   map[string]HugetlbStats
}

// CPUStats are in nanoseconds.
type CPUStats struct {
	UsageNanos, UserNanos, SystemNanos        uint64
	Periods, ThrottledPeriods, ThrottledNanos uint64
	PSI                                       *PSI
}

// MemoryStats are in bytes, but for the counts of faults.
type MemoryStats struct {
	Usage, WorkingSet, RSS, Cache, MappedFile, KernelUsage, MaxUsage uint64
	ActiveFile, InactiveFile                                         uint64 // page cache that was used lately, and that was not
	Limit                                                            uint64 // 0: none
	PageFaults, MajorPageFaults                                      uint64
	FailCount                                                        uint64
	PSI                                                              *PSI
}

// SwapStats are in bytes.
type SwapStats struct{ Usage, Limit uint64 } // Limit 0: none

// HugetlbStats are in bytes.
type HugetlbStats struct{ Usage, Max, FailCount uint64 }

// IOStats are per device.
type IOStats struct {
	Devices []DeviceIO
	PSI     *PSI
}

// DeviceIO counts bytes and operations of one block device.
type DeviceIO struct {
	Major, Minor                             uint64
	ReadBytes, WriteBytes, ReadOps, WriteOps uint64
}

// PSI is pressure stall information: averages in percent, totals in microseconds.
type PSI struct{ Some, Full PSIData }

// PSIData is one line of a pressure file.
type PSIData struct {
	Avg10, Avg60, Avg300 float64
	TotalMicros          uint64
}
