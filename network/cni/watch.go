package cni

import (
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/fsnotify/fsnotify"
)

// A watch notices that a directory changed. The directory may appear, vanish and appear again: while it is not there, its nearest parent that is
// gets watched. Without inotify (too many instances on the machine, say) every look is a change.
type watch struct {
	dir      string
	notifier *fsnotify.Watcher // nil without inotify
	dirty    atomic.Bool
	done     chan struct{}
}

func startWatch(dir string, log *slog.Logger) *watch {
	w := &watch{dir: filepath.Clean(dir), done: make(chan struct{})}
	w.dirty.Store(true)
	if dir == "" { // CNI is switched off
		close(w.done)
		return w
	}
	notifier, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("can't watch the CNI configuration directory; it is read again at every use", "dir", dir, "error", err)
		close(w.done)
		return w
	}
	w.notifier = notifier
	w.follow()
	go w.run()
	return w
}

func (w *watch) run() {
	defer close(w.done)
	for {
		select {
		case _, ok := <-w.notifier.Events:
			if !ok {
				return
			}
		case _, ok := <-w.notifier.Errors: // events were lost
			if !ok {
				return
			}
		}
		w.follow()
		w.dirty.Store(true)
	}
}

// follow watches the directory and its nearest parent that exists. The parent tells when the directory is replaced.
func (w *watch) follow() {
	want := map[string]bool{w.dir: true}
	for p := filepath.Dir(w.dir); ; p = filepath.Dir(p) {
		if _, err := os.Stat(p); err == nil || p == filepath.Dir(p) {
			want[p] = true
			break
		}
	}
	for _, have := range w.notifier.WatchList() {
		if !want[have] {
			_ = w.notifier.Remove(have)
		}
	}
	for p := range want {
		_ = w.notifier.Add(p) // what is not there is noticed by the parent
	}
}

// changed says whether the directory may have changed since the last call.
func (w *watch) changed() bool {
	return w.dirty.Swap(false) || w.notifier == nil && w.dir != "."
}

func (w *watch) close() error {
	if w.notifier == nil {
		return nil
	}
	err := w.notifier.Close()
	<-w.done
	return err
}
