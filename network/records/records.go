// Package records keeps what a network backend has attached: a directory with one JSON file for each sandbox.
//
// It knows files and when they are whole. What a record says, and which one makes no sense, belongs to the backend.
package records

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Store is the directory of records of type T. Its methods may run at the same time for different sandboxes.
type Store[T any] struct {
	Dir     string
	What    string // what a record is called in errors
	MaxSize int64  // in bytes; a larger file is not read
	// Parse reads a record that anybody may have damaged.
	Parse func(data []byte) (*T, error)
	// ID is the sandbox that a record is of, checked by Parse to be fit for a file's name.
	ID func(*T) string
}

// Path is a sandbox's file.
func (s *Store[T]) Path(id string) string { return filepath.Join(s.Dir, id+".json") }

// Write makes or replaces the sandbox's record.
func (s *Store[T]) Write(r *T) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding the %s of sandbox %s: %w", s.What, s.ID(r), err)
	}
	return WriteWhole(s.Path(s.ID(r)), data)
}

// Remove removes the sandbox's record, if there is one.
func (s *Store[T]) Remove(id string) error {
	if err := os.Remove(s.Path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the %s of sandbox %s: %w", s.What, id, err)
	}
	return nil
}

// Load reads all records. What can't be read is set aside as NAME.broken and named in the second result: the daemon always starts.
func (s *Store[T]) Load() (records []*T, broken []error, err error) {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return nil, nil, fmt.Errorf("listing %ss in %s: %w", s.What, s.Dir, err)
	}
	for _, e := range entries {
		path := filepath.Join(s.Dir, e.Name())
		switch filepath.Ext(path) {
		case ".tmp": // a crash between write and rename: nothing of it was attached
			_ = os.Remove(path)
			continue
		case ".json":
		default:
			continue
		}
		r, err := s.read(path)
		if err == nil && s.ID(r) != strings.TrimSuffix(e.Name(), ".json") {
			err = fmt.Errorf("it is of sandbox %s", s.ID(r))
		}
		if err != nil {
			err = errors.Join(err, os.Rename(path, path+".broken"))
			broken = append(broken, fmt.Errorf("%s %s set aside as %s.broken: %w", s.What, path, path, err))
			continue
		}
		records = append(records, r)
	}
	return records, broken, nil
}

func (s *Store[T]) read(path string) (*T, error) {
	if fi, err := os.Lstat(path); err != nil || !fi.Mode().IsRegular() || fi.Size() > s.MaxSize {
		return nil, errors.Join(err, errors.New("not a regular file of a sensible size"))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return s.Parse(data)
}

// WriteWhole makes or replaces a file in one step, on a file system that lives as long as the boot: no fsync.
func WriteWhole(path string, data []byte) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
