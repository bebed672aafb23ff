package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/image/overlay"
)

var containerKey = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,199}$`)

// containerState is what a container holds of the store, and what its record.json says.
type containerState struct {
	Image  ID
	Layers []string            // of its root file system, the lowest first
	Mounts map[string][]string // layers of images mounted as volumes, by image ID
	broken bool                // the record could not be read: the container can only be removed
}

func (c *containerState) held() []string {
	keys := slices.Clone(c.Layers)
	for _, layers := range c.Mounts {
		keys = append(keys, layers...)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

func checkContainer(container string) error {
	if !containerKey.MatchString(container) {
		return fmt.Errorf("container key %.200q: %w", container, errdefs.ErrInvalidArgument)
	}
	return nil
}

// CreateRootfs makes a writable layer on top of the image; see runtime.Images. Asked again for the same image it does nothing; for another, ErrAlreadyExists.
func (s *Store) CreateRootfs(_ context.Context, container string, id ID) error {
	if err := checkContainer(container); err != nil {
		return fmt.Errorf("creating a root file system: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.owners[container]
	if c != nil && !c.broken && c.Image != "" {
		if c.Image != id {
			return fmt.Errorf("container %s has a root file system of image %s: %w", container, c.Image, errdefs.ErrAlreadyExists)
		}
		return nil
	}
	rec, ok := s.images[id]
	if !ok {
		return fmt.Errorf("creating a root file system for %s: image %s: %w", container, id, errdefs.ErrNotFound)
	}
	next := &containerState{Image: id, Layers: unique(rec.Layers)}
	if c != nil {
		next.Mounts = c.Mounts
	}
	err := s.makeContainer(container)
	if err == nil {
		err = s.adoptRoot(container, next.Layers)
	}
	if err == nil {
		err = s.setContainer(container, c, next)
	}
	if err != nil {
		return fmt.Errorf("creating a root file system for %s: %w", container, err)
	}
	return nil
}

// setContainer holds what the container will hold, then writes it down, then lets go of what it held before. mu is held. Nothing here waits for a disk.
func (s *Store) setContainer(container string, before, after *containerState) error {
	if err := s.hold(after.held()); err != nil {
		return err
	}
	if err := s.writeContainer(container, after); err != nil {
		s.unhold(after.held())
		return err
	}
	s.owners[container] = after
	if before != nil {
		s.unhold(before.held())
	}
	return nil
}

func (s *Store) writeContainer(container string, c *containerState) error {
	content, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := s.makeContainer(container); err != nil {
		return err
	}
	return writeFile(s.path("containers", container, "record.json"), content, false)
}

// makeContainer keeps what the container writes out of reach of the host's other users, who could run its set-user-ID programs (CVE-2021-41103).
func (s *Store) makeContainer(container string) error {
	dir := s.path("containers", container)
	for _, d := range []string{dir, filepath.Join(dir, "upper"), filepath.Join(dir, "work")} {
		if err := os.Mkdir(d, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// adoptRoot gives the upper directory, which becomes the container's root directory, the owner and mode that the image's has: those of the topmost layer that says.
func (s *Store) adoptRoot(container string, layers []string) error {
	upper := s.path("containers", container, "upper")
	for _, key := range slices.Backward(layers) {
		if !s.layers[key].root {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(s.path(s.layers[key].dir, "fs"), &st); err != nil {
			return err
		}
		return errors.Join(unix.Chown(upper, int(st.Uid), int(st.Gid)), unix.Chmod(upper, st.Mode&0o7777))
	}
	return unix.Chmod(upper, 0o755)
}

// MountRootfs mounts the container's root file system, detached; see runtime.Images.
func (s *Store) MountRootfs(_ context.Context, container string, opts RootfsOptions) (*os.File, error) {
	c, err := s.container(container)
	if err != nil {
		return nil, fmt.Errorf("mounting a root file system: %w", err)
	}
	if c.Image == "" {
		return nil, fmt.Errorf("mounting the root file system of %s: it was not created: %w", container, errdefs.ErrFailedPrecondition)
	}
	spec := s.overlaySpec(c.Layers, opts)
	spec.Upper, spec.Work = filepath.Join("containers", container, "upper"), filepath.Join("containers", container, "work")
	f, err := s.mounter.Mount(spec)
	if err != nil {
		return nil, fmt.Errorf("mounting the root file system of %s: %w", container, err)
	}
	return f, nil
}

func (s *Store) container(container string) (*containerState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.owners[container]
	if !ok {
		return nil, fmt.Errorf("container %s: %w", container, errdefs.ErrNotFound)
	}
	if c.broken {
		return nil, fmt.Errorf("container %s: its record cannot be read, it can only be removed: %w", container, errdefs.ErrDataLoss)
	}
	return c, nil
}

// overlaySpec has the topmost layer first. Layers that are held are committed, so their directories do not change.
func (s *Store) overlaySpec(layers []string, opts RootfsOptions) overlay.Spec {
	spec := overlay.Spec{Root: s.opts.Root, UIDs: idMaps(opts.UIDs), GIDs: idMaps(opts.GIDs), Context: opts.SELinuxLabel}
	for _, key := range slices.Backward(layers) {
		spec.Lower = append(spec.Lower, filepath.Join("layers", key, "fs"))
	}
	if len(layers) == 0 {
		spec.Lower = []string{filepath.Join("empty", "a")}
	}
	return spec
}

func idMaps(ids []IDMap) []overlay.IDMap {
	var maps []overlay.IDMap
	for _, id := range ids {
		maps = append(maps, overlay.IDMap(id))
	}
	return maps
}

// MountImage mounts an image read-only, detached; see runtime.Images. ErrNotFound when the image or subPath is not there, ErrInvalidArgument when subPath leads
// out of the image or is no directory.
func (s *Store) MountImage(_ context.Context, container string, id ID, subPath string, opts RootfsOptions) (*os.File, error) {
	if err := checkContainer(container); err != nil {
		return nil, fmt.Errorf("mounting image %s: %w", id, err)
	}
	if err := checkSubPath(subPath); err != nil {
		return nil, fmt.Errorf("mounting image %s for %s: sub path %q: %w", id, container, subPath, err)
	}
	layers, err := s.holdForMount(container, id)
	if err != nil {
		return nil, fmt.Errorf("mounting image %s for %s: %w", id, container, err)
	}
	spec := s.overlaySpec(layers, opts)
	if len(spec.Lower) < 2 {
		spec.Lower = append(spec.Lower, filepath.Join("empty", "b"))
	}
	f, err := s.mounter.Mount(spec)
	if err != nil {
		return nil, fmt.Errorf("mounting image %s for %s: %w", id, container, err)
	}
	if subPath == "" {
		return f, nil
	}
	sub, err := s.mounter.Sub(f, subPath)
	if err != nil {
		return nil, fmt.Errorf("mounting image %s for %s: sub path %q: %w", id, container, subPath, err)
	}
	return sub, nil
}

func checkSubPath(subPath string) error {
	if path.IsAbs(subPath) || slices.Contains(strings.Split(subPath, "/"), "..") {
		return fmt.Errorf("it has to be relative and without \"..\": %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

func (s *Store) holdForMount(container string, id ID) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.owners[container]
	if before != nil && before.broken {
		return nil, fmt.Errorf("the record of container %s cannot be read: %w", container, errdefs.ErrDataLoss)
	}
	if before != nil && before.Mounts[string(id)] != nil {
		return before.Mounts[string(id)], nil
	}
	rec, ok := s.images[id]
	if !ok {
		return nil, errdefs.ErrNotFound
	}
	after := &containerState{Mounts: map[string][]string{}}
	if before != nil {
		after.Image, after.Layers = before.Image, before.Layers
		for k, v := range before.Mounts {
			after.Mounts[k] = v
		}
	}
	layers := unique(rec.Layers)
	if layers == nil {
		layers = []string{}
	}
	after.Mounts[string(id)] = layers
	return layers, s.setContainer(container, before, after)
}

// RemoveRootfs removes the writable layer and lets go of all layers; see runtime.Images.
func (s *Store) RemoveRootfs(_ context.Context, container string) error {
	if err := checkContainer(container); err != nil {
		return fmt.Errorf("removing a root file system: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.discard(s.path("containers", container)); err != nil {
		return fmt.Errorf("removing the root file system of %s: %w", container, err)
	}
	s.usage.forget(container)
	if c := s.owners[container]; c != nil {
		delete(s.owners, container)
		s.unhold(c.held())
	}
	return nil
}

// Containers lists the keys that own something here, sorted.
func (s *Store) Containers(context.Context) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := make([]string, 0, len(s.owners))
	for key := range s.owners {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys, nil
}

func (s *Store) loadContainers() error {
	entries, err := os.ReadDir(s.path("containers"))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !containerKey.MatchString(entry.Name()) || !entry.IsDir() {
			continue
		}
		c := &containerState{}
		content, err := readBounded(s.path("containers", entry.Name(), "record.json"))
		if err == nil {
			c, err = parseContainer(content)
		}
		if err == nil {
			err = s.hold(c.held())
		}
		if err != nil {
			s.log.Error("the record of a container's writable layer cannot be read; it can only be removed", "container", entry.Name(), "error", err)
			c = &containerState{broken: true}
		}
		s.owners[entry.Name()] = c
	}
	return nil
}

// parseContainer is pure.
func parseContainer(content []byte) (*containerState, error) {
	var c containerState
	if err := json.Unmarshal(content, &c); err != nil {
		return nil, fmt.Errorf("reading the record: %w: %w", err, errdefs.ErrDataLoss)
	}
	for _, key := range c.held() {
		if !validLayerKey(key) {
			return nil, fmt.Errorf("the record names a layer %.200q: %w", key, errdefs.ErrDataLoss)
		}
	}
	return &c, nil
}
