package runtime

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// newID makes an ID: 256 random bits.
func newID() string {
	var id [32]byte
	_, _ = rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

func (r *Runtime) findSandbox(id SandboxID) (*sandbox, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return find(r.sandboxes, id, "sandbox")
}

func (r *Runtime) findContainer(id ContainerID) (*container, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return find(r.containers, id, "container")
}

// find looks an ID up, in full or by a prefix that fits only one.
func find[ID ~string, T any](all map[ID]T, id ID, kind string) (T, error) {
	var found T
	if thing, ok := all[id]; ok {
		return thing, nil
	}
	if id == "" {
		return found, fmt.Errorf("no %s ID given: %w", kind, errdefs.ErrInvalidArgument)
	}
	matches := 0
	for full, thing := range all {
		if strings.HasPrefix(string(full), string(id)) {
			found = thing
			matches++
		}
	}
	switch matches {
	case 0:
		return found, notFound(kind, string(id))
	case 1:
		return found, nil
	}
	return found, fmt.Errorf("%s ID %q fits %d of them, give more of it: %w", kind, id, matches, errdefs.ErrInvalidArgument)
}

// SandboxStatus tells what is known of a sandbox and its containers.
func (r *Runtime) SandboxStatus(_ context.Context, id SandboxID, verbose bool) (SandboxStatus, []ContainerStatus, error) {
	s, err := r.findSandbox(id)
	if err != nil {
		return SandboxStatus{}, nil, err
	}
	status := s.status()
	if verbose {
		status.Info = verboseInfo(s.snapshot())
	}
	members := s.members()
	containers := make([]ContainerStatus, 0, len(members))
	for _, c := range members {
		containers = append(containers, c.status())
	}
	return status, containers, nil
}

// Sandboxes lists the sandboxes. One whose run is under way is not there yet: its client has no answer.
func (r *Runtime) Sandboxes(context.Context) ([]SandboxStatus, error) {
	r.mu.RLock()
	all := make([]*sandbox, 0, len(r.sandboxes))
	for _, s := range r.sandboxes {
		all = append(all, s)
	}
	r.mu.RUnlock()
	list := make([]SandboxStatus, 0, len(all))
	for _, s := range all {
		if s.snapshot().Phase != sandboxMaking {
			list = append(list, s.status())
		}
	}
	return list, nil
}

// ContainerStatus tells what is known of a container.
func (r *Runtime) ContainerStatus(_ context.Context, id ContainerID, verbose bool) (ContainerStatus, error) {
	c, err := r.findContainer(id)
	if err != nil {
		return ContainerStatus{}, err
	}
	status := c.status()
	if verbose {
		status.Info = verboseInfo(c.snapshot())
	}
	return status, nil
}

// Containers lists the containers. One whose creation is under way is not there yet.
func (r *Runtime) Containers(context.Context) ([]ContainerStatus, error) {
	r.mu.RLock()
	all := make([]*container, 0, len(r.containers))
	for _, c := range r.containers {
		all = append(all, c)
	}
	r.mu.RUnlock()
	list := make([]ContainerStatus, 0, len(all))
	for _, c := range all {
		if c.snapshot().Phase != containerMaking {
			list = append(list, c.status())
		}
	}
	return list, nil
}
