package containerlog_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/shimd/shimd/node/containerlog"
)

const sample = `2026-01-02T03:04:05.000000001Z stdout F one
2026-01-02T03:04:05.000000002Z stderr F two
2026-01-02T03:04:06Z stdout P thr
2026-01-02T03:04:06.5Z stdout F ee
not a line
2026-01-02T03:04:07.25+01:00 stdout F:later-tag four
2026-01-02T03:04:08.0Z stdout F half`

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func number(n int64) *int64 { return &n }

func TestRead(t *testing.T) {
	for name, test := range map[string]struct {
		options  containerlog.Options
		out, err string
	}{
		"all":        {out: "one\nthree\nfour\nhalf", err: "two\n"},
		"tail":       {options: containerlog.Options{Tail: number(2)}, out: "four\nhalf"}, // the unfinished line and "not a line" are lines of the file
		"tail 0":     {options: containerlog.Options{Tail: number(0)}, out: "half"},
		"tail more":  {options: containerlog.Options{Tail: number(100)}, out: "one\nthree\nfour\nhalf", err: "two\n"},
		"limit":      {options: containerlog.Options{Limit: number(6)}, out: "one\n", err: "tw"},
		"since":      {options: containerlog.Options{Since: time.Date(2026, 1, 2, 3, 4, 6, 1, time.UTC)}, out: "ee\nhalf"},
		"timestamps": {options: containerlog.Options{Timestamps: true, Tail: number(4)}, out: "2026-01-02T03:04:06.000000000Z three\n2026-01-02T03:04:07.250000000+01:00 four\n2026-01-02T03:04:08.000000000Z half"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			if err := containerlog.Read(t.Context(), file(t, sample), test.options, containerlog.Output{Stdout: &out, Stderr: &errs}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{test.out, test.err}, []string{out.String(), errs.String()}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestReadOneStream(t *testing.T) {
	var errs bytes.Buffer
	if err := containerlog.Read(t.Context(), file(t, sample), containerlog.Options{Limit: number(3)}, containerlog.Output{Stderr: &errs}); err != nil {
		t.Fatal(err)
	}
	if errs.String() != "two" { // what is not wanted does not count
		t.Errorf("read %q", errs.String())
	}
}

// Tails are found across the borders of blocks.
func TestTailOfLongLog(t *testing.T) {
	var log, want strings.Builder
	for i := range 3000 {
		text := strings.Repeat("x", i%100) + "\n"
		log.WriteString("2026-01-02T03:04:05Z stdout F " + text)
		if i >= 1000 {
			want.WriteString(text)
		}
	}
	var out bytes.Buffer
	if err := containerlog.Read(t.Context(), file(t, log.String()), containerlog.Options{Tail: number(2000)}, containerlog.Output{Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if out.String() != want.String() {
		t.Errorf("read %d bytes, want %d", out.Len(), want.Len())
	}
}

func TestNoLog(t *testing.T) {
	err := containerlog.Read(t.Context(), filepath.Join(t.TempDir(), "none"), containerlog.Options{}, containerlog.Output{})
	if !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
}

// shared is a buffer that can be waited for.
type shared struct {
	mu   sync.Mutex
	cond *sync.Cond
	text strings.Builder
}

func newShared() *shared {
	s := &shared{}
	s.cond = sync.NewCond(&s.mu)
	return s
}

func (s *shared) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.cond.Broadcast()
	return s.text.Write(p)
}

func (s *shared) await(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.text.String() != text {
		s.cond.Wait()
	}
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// A followed log is read over a half line, over a rotation, and to its end.
func TestFollow(t *testing.T) {
	const head = "2026-01-02T03:04:05Z stdout F "
	path := file(t, head+"one\n"+head+"tw")
	out := newShared()
	ended := make(chan struct{})
	running := func(context.Context) (bool, error) {
		select {
		case <-ended:
			return false, nil
		default:
			return true, nil
		}
	}
	result := make(chan error, 1)
	go func() {
		result <- containerlog.Follow(t.Context(), path, containerlog.Options{}, containerlog.Output{Stdout: out}, running)
	}()
	out.await("one\n")
	appendTo(t, path, "o\n")
	out.await("one\ntwo\n")
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	appendTo(t, path+".old", head+"three\n")
	appendTo(t, path, head+"four\n")
	out.await("one\ntwo\nthree\nfour\n")
	appendTo(t, path, head+"five")
	close(ended)
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	out.await("one\ntwo\nthree\nfour\nfive")
}

func TestFollowEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out := newShared()
	result := make(chan error, 1)
	go func() {
		result <- containerlog.Follow(ctx, file(t, sample), containerlog.Options{Tail: number(3)}, containerlog.Output{Stdout: out},
			func(context.Context) (bool, error) { return true, nil })
	}()
	out.await("ee\nfour\n")
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for line := range strings.Lines(sample) {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		line, err := containerlog.Parse(raw)
		if err == nil && line.Stream != containerlog.Stdout && line.Stream != containerlog.Stderr {
			t.Errorf("%q: stream %q", raw, line.Stream)
		}
	})
}
