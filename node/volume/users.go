package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// UsersLength is how many IDs a pod with a user namespace gets: all that files of images usually belong to.
const UsersLength = 1 << 16

// userRanges is how many such ranges there are. The first is the node's own, and the last has the ID that stands for nobody (-1).
const userRanges = math.MaxUint32/UsersLength - 1

// usersFile is in a pod's directory, in the kubelet's form (pkg/kubelet/userns).
const usersFile = "userns"

type userMappings struct {
	UIDs []userMapping `json:"uidMappings"`
	GIDs []userMapping `json:"gidMappings"`
}

type userMapping struct {
	Host      uint32 `json:"hostId"`
	Container uint32 `json:"containerId"`
	Length    uint32 `json:"length"`
}

// Users answers the first of the UsersLength IDs of the node that a pod's user namespace has as its own, and that no other pod of this agent has
// until this one is removed. It chooses and records them at the first call.
func (s *Store) Users(uid string) (uint32, error) {
	s.usersLock.Lock()
	defer s.usersLock.Unlock()
	if err := s.loadUsers(); err != nil {
		return 0, err
	}
	if first, ok := s.users[uid]; ok {
		return first, nil
	}
	taken := make(map[uint32]bool, len(s.users))
	for _, first := range s.users {
		taken[first] = true
	}
	for n := uint32(1); n <= userRanges; n++ {
		first := n * UsersLength
		if taken[first] {
			continue
		}
		mapping := []userMapping{{Host: first, Length: UsersLength}}
		text, err := json.Marshal(userMappings{UIDs: mapping, GIDs: mapping})
		if err == nil {
			err = replace(s.pod(uid, usersFile), text, 0o600)
		}
		if err != nil {
			return 0, fmt.Errorf("recording the IDs of the user namespace of pod %s: %w", uid, err)
		}
		s.users[uid] = first
		return first, nil
	}
	return 0, fmt.Errorf("choosing IDs for the user namespace of pod %s: all %d ranges of the node are in use: %w", uid, userRanges, errdefs.ErrResourceExhausted)
}

// loadUsers reads what an earlier agent chose. A file that can't be read is an error, not a free range: the pod may still run in it.
func (s *Store) loadUsers() error {
	if s.users != nil {
		return nil
	}
	files, err := filepath.Glob(s.pod("*", usersFile))
	if err != nil {
		return fmt.Errorf("listing the IDs of user namespaces: %w", err)
	}
	found := map[string]uint32{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) { // the pod was just removed
			continue
		}
		if err == nil && len(text) == 0 { // its content was lost when the machine went down, and what ran in the IDs with it
			continue
		}
		var mappings userMappings
		if err == nil {
			err = json.Unmarshal(text, &mappings)
		}
		if err == nil && (len(mappings.UIDs) != 1 || mappings.UIDs[0].Host%UsersLength != 0) {
			err = errors.New("it is not one range of 65536 IDs")
		}
		if err != nil {
			return fmt.Errorf("reading the IDs of a user namespace from %s: %w; remove the pod and its directory", file, err)
		}
		found[filepath.Base(filepath.Dir(file))] = mappings.UIDs[0].Host
	}
	s.users = found
	return nil
}

// freeUsers gives back a pod's IDs: its directory is gone.
func (s *Store) freeUsers(uid string) {
	s.usersLock.Lock()
	defer s.usersLock.Unlock()
	delete(s.users, uid)
}
