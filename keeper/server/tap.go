package server

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// tapLimit is how much output waits for a client; then the container waits.
	tapLimit = 256 << 10
	// tapGrace is how long a container waits for a client that takes nothing at all; then the client is dropped.
	tapGrace = 5 * time.Second
)

// tap shows a copy of an output to one attached client.
type tap struct {
	file *os.File

	mu       sync.Mutex
	queue    []byte
	waiting  int  // bytes in the queue and being written
	finished bool // nothing more will come
	dropped  bool

	wake  chan struct{} // there is something to write, or an end
	space chan struct{} // the client took something
	done  chan struct{} // closed when the client has got everything, or is gone
}

func newTap(file *os.File) *tap {
	return &tap{file: file, wake: make(chan struct{}, 1), space: make(chan struct{}, 1), done: make(chan struct{})}
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// show queues a copy of chunk, waiting for room unless the process has settled; false when the client is gone.
func (t *tap) show(chunk []byte, settled <-chan struct{}) bool {
	timer := time.NewTimer(tapGrace)
	defer timer.Stop()
	patient := true
	for {
		t.mu.Lock()
		if t.dropped {
			t.mu.Unlock()
			return false
		}
		if t.waiting < tapLimit || !patient {
			t.queue = append(t.queue, chunk...)
			t.waiting += len(chunk)
			t.mu.Unlock()
			nudge(t.wake)
			return true
		}
		t.mu.Unlock()
		select {
		case <-t.space:
			timer.Reset(tapGrace)
		case <-settled:
			patient = false // what is left is less than a pipe holds
		case <-t.done:
			return false
		case <-timer.C:
			t.drop()
			return false
		}
	}
}

// finish says that nothing more will come.
func (t *tap) finish() {
	t.mu.Lock()
	t.finished = true
	t.mu.Unlock()
	_ = t.file.SetWriteDeadline(time.Now().Add(tapGrace)) // also for a write that waits already
	nudge(t.wake)
}

// drop lets the client go, whatever it has not got. Idempotent.
func (t *tap) drop() {
	t.mu.Lock()
	t.dropped, t.queue = true, nil
	t.mu.Unlock()
	nudge(t.wake)
	nudge(t.space)
	_ = t.file.Close() // ends run and watchGone
}

// run writes to the client until the end.
func (t *tap) run() {
	defer close(t.done)
	defer t.drop()
	raw, err := t.file.SyscallConn()
	if err != nil {
		return
	}
	for range t.wake {
		for {
			t.mu.Lock()
			part := t.queue
			t.queue = nil
			over := t.dropped || t.finished && len(part) == 0
			t.mu.Unlock()
			if over {
				return
			}
			if len(part) == 0 {
				break
			}
			for len(part) > 0 {
				var n int
				_ = t.file.SetWriteDeadline(t.deadline())
				if werr := raw.Write(func(fd uintptr) bool {
					n, err = unix.Write(int(fd), part)
					return !errors.Is(err, unix.EAGAIN)
				}); werr != nil {
					return
				}
				if err != nil && !errors.Is(err, unix.EINTR) {
					return
				}
				n = max(n, 0)
				part = part[n:]
				t.mu.Lock()
				t.waiting -= n
				t.mu.Unlock()
				nudge(t.space)
			}
		}
	}
}

// complete tells whether the client has got everything.
func (t *tap) complete() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.finished && t.waiting == 0
}

// deadline limits how long the last bytes wait for a client when there is no more output that could run into a full queue.
func (t *tap) deadline() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.finished {
		return time.Now().Add(tapGrace)
	}
	return time.Time{}
}

// watchGone notices that the client has closed its end, when there is no output that would run into an error.
func (t *tap) watchGone() {
	raw, err := t.file.SyscallConn()
	if err != nil {
		return
	}
	if raw.Read(func(fd uintptr) bool { return pollNow(int(fd), unix.POLLERR|unix.POLLHUP) != 0 }) == nil {
		t.drop()
	}
}
