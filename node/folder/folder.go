// Package folder watches a folder of pod files.
//
// Inside: which files count, reading them whole and in bounded memory, and noticing changes: by inotify at once, and by looking again now and then
// for what inotify does not tell (a link's target, a folder on a network, an overflow).
// Not inside: what is in the files (package manifest).
package folder

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

const (
	// settle is how long a folder must be still before it is read: an editor writes a file in several steps.
	settle = 30 * time.Millisecond
	// impatience is how long it may be unsettled.
	impatience = 500 * time.Millisecond
)

// File is the content of a file, or why there is none.
type File struct {
	Data []byte
	Err  error
}

// Snapshot is a folder at one time. With an error it could not be listed, and nothing is known of its files.
type Snapshot struct {
	Files map[string]File // by name
	Err   error
}

// Watcher says what to watch.
type Watcher struct {
	Path    string
	MaxSize int64         // bytes of a file
	Relist  time.Duration // how often to look without being told
	Log     *slog.Logger
}

// Run calls changed with the folder as it is now, and again whenever it differs, until the context ends.
func (w Watcher) Run(ctx context.Context, changed func(Snapshot)) {
	var before *Snapshot
	look := func() {
		if now := Read(w.Path, w.MaxSize); before == nil || !same(*before, now) {
			before = &now
			changed(now)
		}
	}
	for ctx.Err() == nil {
		notify := w.subscribe() // before reading, so that nothing happens in between
		look()
		if notify == nil {
			pause(ctx, time.Second) // a folder that is not there yet
			continue
		}
		w.follow(ctx, notify, look)
		notify.Close()
	}
}

// follow looks at each event, and now and then, until the folder goes away or the context ends.
func (w Watcher) follow(ctx context.Context, notify *fsnotify.Watcher, look func()) {
	timer := time.NewTicker(w.Relist)
	defer timer.Stop()
	for {
		stays := true
		select {
		case <-ctx.Done():
			return
		case event := <-notify.Events:
			stays = w.settled(ctx, event, notify.Events)
		case err := <-notify.Errors:
			w.Log.Warn("watching the folder", "path", w.Path, "error", err)
		case <-timer.C:
		}
		look()
		if !stays {
			return
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (w Watcher) subscribe() *fsnotify.Watcher {
	notify, err := fsnotify.NewWatcher()
	if err == nil {
		if err = notify.Add(w.Path); err == nil {
			return notify
		}
		notify.Close()
	}
	w.Log.Debug("cannot watch the folder, looking every second", "path", w.Path, "error", err)
	return nil
}

// settled waits until the folder is still; it answers false when the folder itself went away, and has to be watched anew.
func (w Watcher) settled(ctx context.Context, event fsnotify.Event, events <-chan fsnotify.Event) bool {
	deadline := time.After(impatience)
	quiet := time.NewTimer(settle)
	defer quiet.Stop()
	for {
		if filepath.Clean(event.Name) == filepath.Clean(w.Path) && event.Op&(fsnotify.Remove|fsnotify.Rename) != 0 {
			return false
		}
		select {
		case event = <-events:
			quiet.Reset(settle)
		case <-quiet.C:
			return true
		case <-deadline:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

// Counts says whether a file of this name is a pod file: *.yaml, *.yml or *.json that is not hidden. Others are what editors and sed -i leave
// for a moment, and would run as pods.
func Counts(name string) bool {
	if strings.HasPrefix(name, ".") {
		return false
	}
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// Read reads a folder.
func Read(path string, maxSize int64) Snapshot {
	entries, err := os.ReadDir(path)
	if err != nil {
		return Snapshot{Err: fmt.Errorf("listing the pod files: %w", err)}
	}
	files := map[string]File{}
	for _, entry := range entries {
		if !Counts(entry.Name()) {
			continue
		}
		data, err := readFile(filepath.Join(path, entry.Name()), maxSize)
		if os.IsNotExist(err) { // removed in the meantime, or a link to nowhere
			if _, err := os.Lstat(filepath.Join(path, entry.Name())); err != nil {
				continue
			}
		}
		files[entry.Name()] = File{Data: data, Err: err}
	}
	return Snapshot{Files: files}
}

func readFile(path string, maxSize int64) ([]byte, error) {
	// Nonblocking: a FIFO would hold up all pods.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("reading a pod file: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading a pod file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("reading the pod file %s: it is not a file but %s: %w", path, info.Mode(), errdefs.ErrInvalidArgument)
	}
	data, err := io.ReadAll(io.LimitReader(file, maxSize+1)) // one more, so that what is too long is seen to be
	if err != nil {
		return nil, fmt.Errorf("reading a pod file: %w", err)
	}
	return data, nil
}

func same(a, b Snapshot) bool {
	return text(a.Err) == text(b.Err) && maps.EqualFunc(a.Files, b.Files, func(a, b File) bool {
		return bytes.Equal(a.Data, b.Data) && text(a.Err) == text(b.Err)
	})
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
