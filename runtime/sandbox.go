package runtime

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/shimd/shimd/cgroups"
	"github.com/shimd/shimd/runtime/request"
)

// sandbox is one pod sandbox.
type sandbox struct {
	id  SandboxID
	dir string // below the state directory: record, pinned namespaces, shm
	// files is below the root directory: what containers may write to, so that it takes disk and not memory.
	files string

	op sync.Mutex // held by Run, Stop and Remove

	mu         sync.Mutex // guards what follows
	record     sandboxRecord
	run        *flight // the run under way; nil after it
	cgroup     cgroups.Cgroup
	containers map[ContainerID]*container
	byName     map[request.ContainerMetadata]*container
	removed    bool
}

func (r *Runtime) newSandbox(record sandboxRecord) *sandbox {
	return &sandbox{
		id:         record.ID,
		dir:        filepath.Join(r.State, "sandboxes", string(record.ID)),
		files:      filepath.Join(r.Root, "sandboxes", string(record.ID)),
		record:     record,
		containers: make(map[ContainerID]*container),
		byName:     make(map[request.ContainerMetadata]*container),
	}
}

// snapshot is the record as it is now.
func (s *sandbox) snapshot() sandboxRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.record
}

// update changes the record, in memory and then on disk.
func (s *sandbox) update(change func(*sandboxRecord)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.record)
	return writeRecord(s.dir, s.record)
}

// members lists the sandbox's containers, the newest first: where the kubelet gets statuses with those of their pod, it takes the first of a
// name for the latest attempt, and would ask again and again for an attempt that there is already.
func (s *sandbox) members() []*container {
	s.mu.Lock()
	members := slices.Collect(maps.Values(s.containers))
	s.mu.Unlock()
	slices.SortFunc(members, func(a, b *container) int { return b.snapshot().CreatedAt.Compare(a.snapshot().CreatedAt) })
	return members
}

// namespacePath is where a namespace of the sandbox is pinned.
func (s *sandbox) namespacePath(name string) string { return filepath.Join(s.dir, name) }

// filePath is where a file that containers see in /etc is.
func (s *sandbox) filePath(name string) string { return filepath.Join(s.files, name) }

func (s *sandbox) shmPath() string { return filepath.Join(s.dir, "shm") }

// procPath is where the proc of a shared PID namespace is mounted.
func (s *sandbox) procPath() string { return filepath.Join(s.dir, "proc") }

// pauseID names to the keeper the process that holds the sandbox's PID namespace.
func (s *sandbox) pauseID() string { return pausePrefix + string(s.id) }

const pausePrefix = "pause-"

// sandboxOfPause finds the sandbox whose pauseID it is; nil when there is none.
func (r *Runtime) sandboxOfPause(id string) *sandbox {
	sandboxID, ok := strings.CutPrefix(id, pausePrefix)
	if !ok {
		return nil
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.sandboxes[SandboxID(sandboxID)]
}

func ownNetwork(cfg request.Sandbox) bool { return cfg.Namespaces.Network != request.NamespaceNode }

func ownIPC(cfg request.Sandbox) bool { return cfg.Namespaces.IPC != request.NamespaceNode }

func sharedPID(cfg request.Sandbox) bool {
	mode := cfg.Namespaces.PID
	return mode == request.NamespacePod || mode == ""
}

// metadataKey is a sandbox's name among all sandboxes.
func metadataKey(m request.SandboxMetadata) string {
	return fmt.Sprintf("%q/%q/%q/%d", m.Namespace, m.Name, m.UID, m.Attempt)
}

// status puts what is known of the sandbox into words.
func (s *sandbox) status() SandboxStatus {
	record := s.snapshot()
	status := SandboxStatus{
		ID:        record.ID,
		Config:    record.Config,
		State:     SandboxNotReady,
		CreatedAt: record.CreatedAt,
		IPs:       record.IPs,
	}
	if record.Phase == sandboxReady {
		status.State = SandboxReady
	}
	if ownNetwork(record.Config) {
		status.NetNSPath = s.namespacePath("net")
	}
	return status
}
