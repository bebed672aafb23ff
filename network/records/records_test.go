package records

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

type note struct{ ID, Text string }

func newStore(t *testing.T) *Store[note] {
	return &Store[note]{Dir: t.TempDir(), What: "note", MaxSize: 100, ID: func(n *note) string { return n.ID },
		Parse: func(data []byte) (*note, error) {
			n := &note{}
			if err := json.Unmarshal(data, n); err != nil {
				return nil, err
			}
			if n.ID == "" {
				return nil, errors.New("no ID")
			}
			return n, nil
		}}
}

func TestWriteLoadRemove(t *testing.T) {
	s := newStore(t)
	for _, text := range []string{"first", "second"} {
		if err := s.Write(&note{"a", text}); err != nil {
			t.Fatal(err)
		}
	}
	records, broken, err := s.Load()
	if err != nil || len(broken) > 0 || len(records) != 1 || *records[0] != (note{"a", "second"}) {
		t.Fatalf("%v, %v, %v", records, broken, err)
	}
	for range 2 { // idempotent
		if err := s.Remove("a"); err != nil {
			t.Fatal(err)
		}
	}
	if records, _, err := s.Load(); err != nil || len(records) != 0 {
		t.Errorf("%v, %v", records, err)
	}
}

func TestLoadSetsAsideWhatItCannotRead(t *testing.T) {
	s := newStore(t)
	if err := s.Write(&note{"good", ""}); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"half.json":      `{"ID":"ha`,
		"large.json":     `{"ID":"large","Text":"` + strings.Repeat("x", 100) + `"}`,
		"refused.json":   `{}`,
		"misnamed.json":  `{"ID":"other"}`,
		"begun.json.tmp": `{"ID":"be`,
		"readme":         "nobody's",
	} {
		if err := os.WriteFile(filepath.Join(s.Dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/dev/zero", s.Path("link")); err != nil {
		t.Fatal(err)
	}
	records, broken, err := s.Load()
	if err != nil || len(records) != 1 || records[0].ID != "good" || len(broken) != 5 {
		t.Fatalf("%v, %v, %v", records, broken, err)
	}
	for _, name := range []string{"half.json.broken", "large.json.broken", "refused.json.broken", "misnamed.json.broken", "link.json.broken", "readme"} {
		if _, err := os.Lstat(filepath.Join(s.Dir, name)); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(filepath.Join(s.Dir, "begun.json.tmp")); err == nil {
		t.Error("what was only begun is still there")
	}
	if _, broken, err := s.Load(); err != nil || len(broken) != 0 {
		t.Errorf("the second time: %v, %v", broken, err)
	}
}
