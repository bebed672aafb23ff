package folder

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestRead(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a.yaml", "b.yml", "c.json", ".hidden.yaml", "d.yaml~", "e.txt", ".a.yaml.swp", "sedAbc"} {
		write(name, name)
	}
	write("long.yaml", "12345678901234567890")
	if err := os.Mkdir(filepath.Join(dir, "dir.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo.yaml"), 0o600); err != nil { // would block whoever opens it to read
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "link.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("e.txt", filepath.Join(dir, "good.yaml")); err != nil {
		t.Fatal(err)
	}
	s := Read(dir, 16)
	if s.Err != nil || len(s.Files) != 8 {
		t.Fatalf("%d files: %v", len(s.Files), s)
	}
	for name, want := range map[string]string{"a.yaml": "a.yaml", "b.yml": "b.yml", "c.json": "c.json", "good.yaml": "e.txt"} {
		if f := s.Files[name]; string(f.Data) != want || f.Err != nil {
			t.Errorf("%s: %q %v", name, f.Data, f.Err)
		}
	}
	for _, name := range []string{"dir.yaml", "fifo.yaml", "link.yaml"} {
		if s.Files[name].Err == nil {
			t.Errorf("%s was read", name)
		}
	}
	if got := len(s.Files["long.yaml"].Data); got != 17 {
		t.Errorf("read %d bytes of a file that is too long", got)
	}
}

func TestRunSeesChanges(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	ctx, cancel := context.WithCancel(t.Context())
	changes := make(chan Snapshot, 100)
	done := make(chan struct{})
	w := Watcher{Path: dir, MaxSize: 100, Relist: time.Hour, Log: slog.New(slog.DiscardHandler)}
	go func() {
		defer close(done)
		w.Run(ctx, func(s Snapshot) { changes <- s })
	}()
	defer func() {
		cancel()
		<-done
	}()
	until := func(what string, is func(Snapshot) bool) {
		t.Helper()
		for timeout := time.After(20 * time.Second); ; {
			select {
			case s := <-changes:
				if is(s) {
					return
				}
			case <-timeout:
				t.Fatal("never seen: " + what)
			}
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	until("no folder", func(s Snapshot) bool { return s.Err != nil })
	must(os.Mkdir(dir, 0o700))
	until("empty", func(s Snapshot) bool { return s.Err == nil && len(s.Files) == 0 })
	must(os.WriteFile(filepath.Join(dir, "a.yaml"), []byte("1"), 0o600))
	until("added", func(s Snapshot) bool { return string(s.Files["a.yaml"].Data) == "1" })
	must(os.WriteFile(filepath.Join(dir, ".tmp"), []byte("2"), 0o600))
	must(os.Rename(filepath.Join(dir, ".tmp"), filepath.Join(dir, "a.yaml")))
	until("replaced", func(s Snapshot) bool { return string(s.Files["a.yaml"].Data) == "2" })
	must(os.Remove(filepath.Join(dir, "a.yaml")))
	until("removed", func(s Snapshot) bool { return s.Err == nil && len(s.Files) == 0 })
	must(os.Rename(dir, dir+".away"))
	until("the folder is gone", func(s Snapshot) bool { return s.Err != nil && strings.Contains(s.Err.Error(), "later") })
	must(os.Rename(dir+".away", dir))
	until("it is back", func(s Snapshot) bool { return s.Err == nil })
}
