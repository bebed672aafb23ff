package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// Store is the agent's directory.
type Store struct {
	root string
	lock *os.File

	mu     sync.Mutex
	states map[string]*state // by UID
	claims sync.Mutex        // guards who uses which persistent volume

	usersLock sync.Mutex
	users     map[string]uint32 // by UID: the first ID of its user namespace; nil: not yet read
}

// Record is what the agent has to know of a pod when its file is gone or broken.
type Record struct {
	File string      `json:"file"`
	Pod  *corev1.Pod `json:"pod"`
}

// Open makes the directory, for one agent at a time.
func Open(root string) (*Store, error) {
	if !filepath.IsAbs(root) {
		return nil, fmt.Errorf("opening the agent's directory: %q is not an absolute path", root)
	}
	if err := os.MkdirAll(filepath.Join(root, "pods"), 0o711); err != nil {
		return nil, fmt.Errorf("making the agent's directory: %w", err)
	}
	root, err := filepath.EvalSymlinks(root) // as the kernel names mounts below it
	if err != nil {
		return nil, fmt.Errorf("resolving the agent's directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(root, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the agent's lock: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("locking %s: another shimlet uses this directory; give one of them another --root-dir: %w", root, err)
	}
	return &Store{root: root, lock: lock, states: map[string]*state{}}, nil
}

// Close lets another agent in.
func (s *Store) Close() error { return s.lock.Close() }

func (s *Store) pod(uid string, below ...string) string {
	return filepath.Join(append([]string{s.root, "pods", uid}, below...)...)
}

// Save records a pod that is about to run.
func (s *Store) Save(record Record) error {
	uid := string(record.Pod.UID)
	text, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("recording pod %s: %w", uid, err)
	}
	// Others than root pass through to volumes, but do not list.
	if err := os.MkdirAll(s.pod(uid), 0o711); err != nil {
		return fmt.Errorf("making the directory of pod %s: %w", uid, err)
	}
	return replace(s.pod(uid, "pod.json"), text, 0o600)
}

// Load reads all records. Those that cannot be read are errors, joined, beside the others; the directories stay.
func (s *Store) Load() (map[string]Record, error) {
	entries, err := os.ReadDir(filepath.Join(s.root, "pods"))
	if err != nil {
		return nil, fmt.Errorf("listing recorded pods: %w", err)
	}
	found := map[string]Record{}
	var problems error
	for _, entry := range entries {
		var record Record
		text, err := os.ReadFile(s.pod(entry.Name(), "pod.json"))
		if err == nil {
			err = json.Unmarshal(text, &record)
		}
		if err == nil && (record.Pod == nil || string(record.Pod.UID) != entry.Name() || record.Pod.Spec.SecurityContext == nil) {
			err = errors.New("it holds another pod")
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			problems = errors.Join(problems, fmt.Errorf("reading the record of pod %s: %w", entry.Name(), err))
		}
		if err != nil {
			record = Record{}
		}
		found[entry.Name()] = record
	}
	return found, problems
}

// Started says whether a container's startup probe succeeded before the agent was restarted.
func (s *Store) Started(uid, container, id string) bool {
	text, err := os.ReadFile(s.pod(uid, "containers", container, "started"))
	return err == nil && string(text) == id
}

// SetStarted records that it did.
func (s *Store) SetStarted(uid, container, id string) error {
	if err := os.MkdirAll(s.pod(uid, "containers", container), 0o711); err != nil {
		return fmt.Errorf("recording that container %s has started: %w", container, err)
	}
	return replace(s.pod(uid, "containers", container, "started"), []byte(id), 0o600)
}

// replace writes a file whole: readers, and a crash, see the old one or the new one.
func replace(path string, content []byte, mode fs.FileMode) error {
	temporary := path + ".new"
	if err := os.WriteFile(temporary, content, mode); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Chmod(temporary, mode); err != nil { // not less than was asked for, whatever the umask
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
