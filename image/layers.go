package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/image/layer"
)

// A layer's key is the hexadecimal part of its diff ID, or chainPrefix and that of its chain ID when its content depends on the layers below.
const chainPrefix = "chain-"

var layerKey = regexp.MustCompile(`^(chain-)?[a-f0-9]{64}$`)

func validLayerKey(key string) bool { return layerKey.MatchString(key) }

// layerState is a layer on disk, whole, and how many use it: images, containers and pulls, each once.
type layerState struct {
	key       string
	dir       string // below the root; changes once, when the layer is committed
	committed bool   // synced and under its final name
	refs      int
	bytes     int64
	inodes    int64
	root      bool // says of what owner and mode the root directory is
}

// layerInfo is layer.json, for people and for counting.
type layerInfo struct {
	Bytes, Inodes int64
	Root          bool
	Blob          string // digest of what was downloaded
}

// hold takes one reference of each layer, or of none when one is missing. mu is held.
func (s *Store) hold(keys []string) error {
	for i, key := range keys {
		st, ok := s.layers[key]
		if !ok {
			s.unhold(keys[:i])
			return fmt.Errorf("layer %s: %w", key, errdefs.ErrNotFound)
		}
		st.refs++
	}
	return nil
}

// unhold gives references back. A layer that nobody uses goes to the trash. mu is held.
func (s *Store) unhold(keys []string) {
	for _, key := range keys {
		st, ok := s.layers[key]
		if !ok {
			continue
		}
		if st.refs--; st.refs > 0 {
			continue
		}
		delete(s.layers, key)
		if err := s.discard(s.path(st.dir)); err != nil {
			s.log.Error("removing a layer", "layer", key, "error", err)
		}
	}
}

func (s *Store) release(keys []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unhold(keys)
}

// temp makes a directory for something that is being made.
func (s *Store) temp(kind string) (string, error) {
	dir := filepath.Join("tmp", fmt.Sprintf("%s-%d-%d", kind, time.Now().UnixNano(), s.tmpCount.Add(1)))
	return dir, os.Mkdir(s.path(dir), 0o700)
}

// discard moves a directory out of the way, to be removed in the background: removing many files takes seconds.
func (s *Store) discard(dir string) error {
	name := fmt.Sprintf("%.200s-%d-%d", filepath.Base(dir), time.Now().UnixNano(), s.tmpCount.Add(1))
	if err := os.Rename(dir, s.path("trash", name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	s.wakeTrash()
	return nil
}

func (s *Store) discardAll(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := s.discard(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) wakeTrash() {
	select {
	case s.trashWake <- struct{}{}:
	default:
	}
}

// emptyTrash removes what lies in the trash until the store is closed. What is left then goes after the next start.
func (s *Store) emptyTrash() {
	for {
		select {
		case <-s.background.Done():
			return
		case <-s.trashWake:
		}
		if err := s.removeTrash(); err != nil && s.background.Err() == nil {
			s.log.Error("removing discarded files of the image store; they are tried again with the next removal", "error", err)
		}
	}
}

func (s *Store) removeTrash() error {
	trash, err := os.Open(s.path("trash"))
	if err != nil {
		return err
	}
	defer trash.Close()
	names, err := trash.Readdirnames(-1)
	failures := []error{err}
	for _, name := range names {
		failures = append(failures, layer.RemoveTree(s.background, trash, name))
	}
	return errors.Join(failures...)
}

// load reads the index from the directories.
func (s *Store) load(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.loadLayers(); err != nil {
		return err
	}
	if err := s.loadImages(ctx); err != nil {
		return err
	}
	if err := s.loadContainers(); err != nil {
		return err
	}
	// What nobody uses was left by a crash between making a layer and recording its image, or between removing the record and the layer.
	for key, st := range s.layers {
		if st.refs == 0 {
			st.refs = 1
			s.unhold([]string{key})
		}
	}
	s.publish()
	return nil
}

func (s *Store) loadLayers() error {
	entries, err := os.ReadDir(s.path("layers"))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		key := entry.Name()
		dir := filepath.Join("layers", key)
		if !validLayerKey(key) || !entry.IsDir() {
			s.log.Warn("something in the image store's layers is no layer; it is left alone", "path", s.path(dir))
			continue
		}
		st := &layerState{key: key, dir: dir, committed: true}
		info, err := s.readLayerInfo(dir)
		if err != nil {
			s.log.Warn("reading a layer's size", "layer", key, "error", err)
		}
		st.bytes, st.inodes, st.root = info.Bytes, info.Inodes, info.Root
		s.layers[key] = st
	}
	return nil
}

func (s *Store) readLayerInfo(dir string) (layerInfo, error) {
	var info layerInfo
	content, err := readBounded(s.path(dir, "layer.json"))
	if err != nil {
		return info, err
	}
	return info, json.Unmarshal(content, &info)
}

func (s *Store) loadImages(ctx context.Context) error {
	entries, err := os.ReadDir(s.path("images"))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		dir := s.path("images", entry.Name())
		if strings.Contains(entry.Name(), badMark) {
			continue
		}
		r, err := readRecord(dir)
		if err == nil {
			err = s.hold(unique(r.Layers))
		}
		if err != nil {
			s.setAside(dir, err)
			continue
		}
		s.images[r.ID] = r
	}
	s.settleTags()
	return nil
}

// settleTags gives a tag that two records claim, after a crash between writing the new one and the old one, to the image that was pulled last.
func (s *Store) settleTags() {
	owner := map[string]*record{}
	for _, r := range s.images {
		for _, tag := range r.Tags {
			other := owner[tag]
			if other == nil || other.Pulled.Before(r.Pulled) {
				owner[tag] = r
			}
		}
	}
	for _, r := range s.images {
		for _, tag := range append([]string(nil), r.Tags...) {
			if owner[tag] != r {
				r.dropTag(tag)
			}
		}
	}
}

const badMark = ".bad-"

// setAside renames what cannot be read, so that a person can look at it and it is not in the way.
func (s *Store) setAside(path string, cause error) {
	aside := fmt.Sprintf("%s%s%d", path, badMark, time.Now().UnixNano())
	if err := os.Rename(path, aside); err != nil {
		s.log.Error("a record of the image store cannot be read, and not be set aside either", "path", path, "cause", cause, "error", err)
		return
	}
	s.log.Error("a record of the image store cannot be read; it is set aside, and the image has to be pulled again", "path", aside, "error", cause)
}

// unique keeps the last of equal keys, in order. A layer that an image has twice is needed only where it is on top: all that the lower one
// does, the upper one does again; and overlayfs refuses one directory twice.
func unique(keys []string) []string {
	last := map[string]int{}
	for i, key := range keys {
		last[key] = i
	}
	var out []string
	for i, key := range keys {
		if last[key] == i {
			out = append(out, key)
		}
	}
	return out
}

// commitLayers gives finished layers their final names. Everything below them was synced before.
func (s *Store) commitLayers(keys []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		st := s.layers[key]
		if st.committed {
			continue
		}
		final := filepath.Join("layers", key)
		if err := os.Rename(s.path(st.dir), s.path(final)); err != nil {
			return fmt.Errorf("moving layer %s into place: %w", key, err)
		}
		st.dir, st.committed = final, true
	}
	return nil
}

// sync brings everything that was unpacked to the disk, with one call for all layers.
func (s *Store) sync() error {
	if err := unix.Syncfs(int(s.root.Fd())); err != nil {
		return fmt.Errorf("syncing the image store's file system: %w", err)
	}
	return nil
}
