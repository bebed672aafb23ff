package runtime

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/shimd/shimd/cgroups"
	"github.com/shimd/shimd/runtime/request"
)

// Records announce what is about to exist. They stand on tmpfs, one directory for each sandbox and container, are
// written whole beside their name and renamed, before the side effect they announce, and never synced: they live as
// long as the boot does.
const recordFile = "record.json"

// sandboxPhase is where a sandbox stands in its life.
//
//	making --> ready --> stopping --> stopped --> (removed)
//	   \____________________________________________^
//
// "making" lasts until it is ready or undone whole: no client was ever told of it, and the same request makes it anew. A daemon that finds
// "making" or "stopping" after a crash finishes the teardown.
type sandboxPhase string

const (
	sandboxMaking   sandboxPhase = "making"
	sandboxReady    sandboxPhase = "ready"
	sandboxStopping sandboxPhase = "stopping"
	sandboxStopped  sandboxPhase = "stopped"
)

// sandboxRecord is what a restarted daemon needs to know of a sandbox.
type sandboxRecord struct {
	ID        SandboxID
	Phase     sandboxPhase
	Config    request.Sandbox
	CreatedAt time.Time
	IPs       []string
	Cgroup    cgroups.Path
	// OwnsCgroup tells that the client named no parent, so that the pod's cgroup is the runtime's to remove.
	OwnsCgroup bool
	// Pause is the process that holds a shared PID namespace.
	Pause  processIdentity
	Labels selinuxLabels
}

// containerPhase is where a container stands in its life.
//
//	making --> created --> starting --> running --> exited --> (removed)
//	                  \________/  \___________________^
//
// "making" after a crash is removed: the client's retry makes it anew. "starting" is settled by asking the keeper: a start that has not come
// to a process is forgotten, and the client's retry starts it.
type containerPhase string

const (
	containerMaking   containerPhase = "making"
	containerCreated  containerPhase = "created"
	containerStarting containerPhase = "starting"
	containerRunning  containerPhase = "running"
	containerExited   containerPhase = "exited"
)

// containerRecord is what a restarted daemon needs to know of a container.
type containerRecord struct {
	ID         ContainerID
	Sandbox    SandboxID
	Phase      containerPhase
	Config     request.Container
	ImageID    string
	ImageRef   string
	StopSignal string
	KillAt     time.Time // when the stop under way ends in SIGKILL; zero before the first
	CreatedAt  time.Time
	StartedAt  time.Time
	FinishedAt time.Time
	ExitCode   int32
	Reason     string
	Message    string
	Process    processIdentity
	Privileged bool
	Cgroup     cgroups.Path
	Resources  *request.Resources // as in force
	User       *ContainerUser
	Labels     selinuxLabels
	LogPath    string
}

// processIdentity names a process beyond the reuse of its pid.
type processIdentity struct {
	PID       int
	StartTime uint64 // in clock ticks after boot: field 22 of /proc/PID/stat
}

// writeRecord writes a record whole, so that a reader sees the old one or the new one.
func writeRecord(dir string, record any) error {
	data, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("encoding the record for %s: %w", dir, err)
	}
	name := filepath.Join(dir, recordFile)
	if err := os.WriteFile(name+".new", data, 0o600); err != nil {
		_ = os.Remove(name + ".new") // torn, and it takes room where there is none
		return fmt.Errorf("writing a record (is the state directory's file system full?): %w", err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return fmt.Errorf("writing a record: %w", err)
	}
	return nil
}

// readRecord reads a record. A directory without one was made by a daemon that ended before it wrote its first line.
func readRecord(dir string, record any) error {
	data, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	if err := decoder.Decode(record); err != nil {
		return fmt.Errorf("record %s: %w", filepath.Join(dir, recordFile), err)
	}
	return nil
}

// readRecords calls found for each directory below dir that holds a readable record, and unreadable for the rest.
func readRecords[R any](dir string, found func(name string, record R), unreadable func(name string, err error)) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		var record R
		if err := readRecord(filepath.Join(dir, entry.Name()), &record); err != nil {
			unreadable(entry.Name(), err)
			continue
		}
		found(entry.Name(), record)
	}
	return nil
}

// sameRequest tells whether two requests ask for the same thing. They are compared as records keep them.
func sameRequest(a, b any) bool {
	left, errLeft := json.Marshal(a)
	right, errRight := json.Marshal(b)
	return errLeft == nil && errRight == nil && bytes.Equal(left, right)
}
