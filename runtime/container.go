package runtime

import (
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/shimd/shimd/cgroups"
	"github.com/shimd/shimd/runtime/request"
)

// container is one container.
type container struct {
	id      ContainerID
	sandbox *sandbox
	dir     string // below the state directory: record and FIFOs
	files   string // below the root directory: the image's volumes
	// promised is when a stop that began under an earlier daemon was to end in SIGKILL; zero when none did.
	promised time.Time

	op sync.Mutex // held by create, start and remove

	mu      sync.Mutex // guards what follows
	record  containerRecord
	create  *flight  // the creation under way; nil after it
	start   *flight  // set by the first Start
	rootfs  *os.File // the mounted root between create and start
	bundle  bundle   // what start needs of create
	cgroup  cgroups.Cgroup
	pidfd   *os.File
	exited  chan struct{} // closed once the exit is recorded
	owed    bool          // the keeper's word of the exit is not acknowledged: the record could not be written
	removed bool
}

func (r *Runtime) newContainer(s *sandbox, record containerRecord) *container {
	return &container{
		id:       record.ID,
		sandbox:  s,
		dir:      filepath.Join(r.State, "containers", string(record.ID)),
		files:    filepath.Join(r.Root, "volumes", string(record.ID)),
		promised: record.KillAt,
		record:   record,
		exited:   make(chan struct{}),
	}
}

// snapshot is the record as it is now.
func (c *container) snapshot() containerRecord {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.record
}

// update changes the record, in memory and then on disk.
func (c *container) update(change func(*containerRecord)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.record)
	return writeRecord(c.dir, c.record)
}

func (c *container) isRemoved() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.removed
}

// release closes what the daemon holds open for a container that has ended or goes.
func (c *container) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, file := range []*os.File{c.rootfs, c.pidfd} {
		if file != nil {
			file.Close()
		}
	}
	c.rootfs, c.pidfd = nil, nil
	c.bundle.close()
	if c.cgroup != nil {
		c.cgroup.Close()
		c.cgroup = nil
	}
}

// privatePIDNamespace tells whether the kernel ends all of the container's processes with its first one.
func privatePIDNamespace(cfg request.Container) bool {
	return cfg.Security.Namespaces.PID == request.NamespaceContainer
}

// status puts what is known of the container into words.
func (c *container) status() ContainerStatus {
	record := c.snapshot()
	status := ContainerStatus{
		ID:         record.ID,
		Sandbox:    record.Sandbox,
		Config:     record.Config,
		CreatedAt:  record.CreatedAt,
		StartedAt:  record.StartedAt,
		FinishedAt: record.FinishedAt,
		ExitCode:   record.ExitCode,
		Reason:     record.Reason,
		Message:    record.Message,
		ImageID:    record.ImageID,
		ImageRef:   record.ImageRef,
		LogPath:    record.LogPath,
		Resources:  record.Resources,
		User:       record.User,
		StopSignal: record.StopSignal,
	}
	switch record.Phase {
	case containerRunning:
		status.State, status.PID = ContainerRunning, record.Process.PID
	case containerExited:
		status.State = ContainerExited
	default:
		status.State = ContainerCreated
	}
	return status
}
