package logrotate

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fake is a runtime with one container; told to reopen its log it writes its number of logs into a new one.
type fake struct {
	path     string
	reopened int
	statuses int
	err      error
}

func (f *fake) ListContainers(context.Context, *criv1.ListContainersRequest, ...grpc.CallOption) (*criv1.ListContainersResponse, error) {
	return &criv1.ListContainersResponse{Containers: []*criv1.Container{{Id: "c1"}, {Id: "no log"}}}, nil
}

func (f *fake) ContainerStatus(_ context.Context, in *criv1.ContainerStatusRequest, _ ...grpc.CallOption) (*criv1.ContainerStatusResponse, error) {
	f.statuses++
	path := f.path
	if in.ContainerId == "no log" {
		path = ""
	}
	return &criv1.ContainerStatusResponse{Status: &criv1.ContainerStatus{LogPath: path}}, nil
}

func (f *fake) ReopenContainerLog(context.Context, *criv1.ReopenContainerLogRequest, ...grpc.CallOption) (*criv1.ReopenContainerLogResponse, error) {
	if f.err != nil {
		return nil, f.err
	}
	f.reopened++
	return &criv1.ReopenContainerLogResponse{}, os.WriteFile(f.path, nil, 0o600)
}

func fill(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
}

// files are the names in a directory with what is in them, uncompressed.
func files(t *testing.T, directory string) map[string]string {
	t.Helper()
	found := map[string]string{}
	entries, err := os.ReadDir(directory)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		file, err := os.Open(filepath.Join(directory, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		var from io.Reader = file
		if strings.HasSuffix(entry.Name(), ".gz") {
			if from, err = gzip.NewReader(file); err != nil {
				t.Fatal(err)
			}
		}
		text, err := io.ReadAll(from)
		if err != nil {
			t.Fatal(err)
		}
		found[entry.Name()] = string(text)
	}
	return found
}

func rotator(t *testing.T, f *fake) *Rotator {
	t.Helper()
	r, err := New(Policy{MaxSize: 4, MaxFiles: 3}, f, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	r.now = func() time.Time { now = now.Add(time.Second); return now }
	return r
}

func TestRounds(t *testing.T) {
	f := &fake{path: filepath.Join(t.TempDir(), "0.log")}
	r := rotator(t, f)
	for _, step := range []struct {
		text string
		want map[string]string
	}{
		{"one", map[string]string{"0.log": "one"}}, // small
		{"first", map[string]string{"0.log": "", "0.log.20260102-030401": "first"}},
		{"second", map[string]string{"0.log": "", "0.log.20260102-030401.gz": "first", "0.log.20260102-030402": "second"}},
		{"third", map[string]string{"0.log": "", "0.log.20260102-030402.gz": "second", "0.log.20260102-030403": "third"}},
	} {
		fill(t, f.path, step.text)
		if err := r.Round(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(step.want, files(t, filepath.Dir(f.path))); diff != "" {
			t.Errorf("%s: %s", step.text, diff)
		}
	}
	if f.statuses != 2 {
		t.Errorf("the runtime was asked for %d logs' places", f.statuses)
	}
}

// Each state that an interrupted round leaves is put right by the next one.
func TestInterrupted(t *testing.T) {
	f := &fake{path: filepath.Join(t.TempDir(), "0.log")}
	r := rotator(t, f)
	fill(t, f.path+".20260101-000000", "aside") // renamed, not told
	if err := r.Round(t.Context()); err != nil || f.reopened != 1 {
		t.Fatalf("reopened %d times, %v", f.reopened, err)
	}
	fill(t, f.path+".20260101-000000.tmp", "ha") // being compressed
	fill(t, f.path, "large")
	if err := r.Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	fill(t, f.path+".20260101-000000", "aside") // compressed, not removed
	f.err = errors.New("away")
	fill(t, f.path, "larger")
	if err := r.Round(t.Context()); err == nil {
		t.Error("no error of the runtime's")
	}
	want := map[string]string{"0.log": "larger", "0.log.20260102-030401.gz": "large"}
	if diff := cmp.Diff(want, files(t, filepath.Dir(f.path))); diff != "" {
		t.Error(diff)
	}
}

func TestPolicy(t *testing.T) {
	if _, err := New(Policy{MaxSize: 1, MaxFiles: 1}, nil, nil); err == nil {
		t.Error("one file is taken")
	}
	r, err := New(Policy{MaxSize: -1}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Run(t.Context()) // returns: nothing to do
}
