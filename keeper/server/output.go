package server

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/keeper/internal/crilog"
)

// output is one stream of a container's output: the read end of a FIFO, or a pty's master.
type output struct {
	server   *Server
	name     string
	file     *os.File
	terminal bool
	log      *crilog.Log
	settled  chan struct{} // closed when the process has ended

	mu    sync.Mutex // a read and all that is done with it
	split *crilog.Splitter
	taps  []*tap
	large bool // the pipe was enlarged
	ended bool
}

// run copies until the output ends or the file is closed.
func (o *output) run() {
	raw, err := o.file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool { return o.copyReady(int(fd)) })
	o.end()
}

// copyReady copies what is there, and tells whether the output has ended.
func (o *output) copyReady(fd int) bool {
	b := o.server.buffers.get()
	defer o.server.buffers.put(b)
	for {
		switch o.copyOnce(fd, b) {
		case drained:
			return false
		case finished:
			return true
		}
	}
}

// progress is what one read found.
type progress int

const (
	drained progress = iota
	copied
	finished
)

func (o *output) copyOnce(fd int, b *buffer) progress {
	o.server.gate.RLock()
	defer o.server.gate.RUnlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	_, result := o.copyLocked(fd, b)
	return result
}

// copyLocked reads once, logs it and shows it to attached clients.
func (o *output) copyLocked(fd int, b *buffer) (n int, result progress) {
	if o.ended {
		return 0, finished
	}
	n, err := unix.Read(fd, b.in)
	switch {
	case errors.Is(err, unix.EINTR):
		return 0, copied
	case errors.Is(err, unix.EAGAIN):
		return 0, drained
	case errors.Is(err, unix.EIO) && o.terminal:
		// Nobody holds the terminal open just now. A program may open it again; when the process has ended, settle ends it.
		return 0, drained
	case err != nil || n <= 0:
		return 0, finished
	}
	chunk := b.in[:n]
	o.logChunk(chunk, b)
	o.showLocked(chunk)
	if n >= defaultPipe && !o.large && !o.terminal {
		o.large = true // a stream that is busy gets a larger pipe; the others stay as they are
		_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, busyPipe)
	}
	return n, copied
}

func (o *output) logChunk(chunk []byte, b *buffer) {
	var space [64]byte
	prefix := o.split.Prefix(space[:0], time.Now())
	for len(chunk) > 0 {
		var lines []byte
		lines, chunk = o.split.Format(b.out[:0], chunk, prefix)
		o.log.Write(lines)
	}
}

func (o *output) showLocked(chunk []byte) {
	for i := 0; i < len(o.taps); i++ {
		if !o.taps[i].show(chunk, o.settled) {
			o.taps = append(o.taps[:i], o.taps[i+1:]...)
			i--
		}
	}
}

// settle is called when the process has ended: it copies what the process left behind, and no more, as others may go on writing to
// the same pipe for ever. Afterwards the log is complete, and attached clients have got everything.
func (o *output) settle() {
	b := o.server.buffers.get()
	defer o.server.buffers.put(b)
	o.mu.Lock()
	defer o.mu.Unlock()
	_ = control(o.file, func(fd int) {
		left := busyPipe // a terminal's buffers are smaller
		if size, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0); err == nil {
			left = size
		}
		for left > 0 {
			n, result := o.copyLocked(fd, b)
			if result != copied {
				break
			}
			left -= n
		}
	})
	o.finishLocked(b)
	if o.terminal {
		o.ended = true
	}
}

// finishLocked writes a line that has begun, and lets attached clients go.
func (o *output) finishLocked(b *buffer) {
	var space [64]byte
	o.log.Write(o.split.Finish(b.out[:0], o.split.Prefix(space[:0], time.Now())))
	for _, t := range o.taps {
		t.finish()
	}
	o.taps = nil
}

func (o *output) end() {
	o.server.gate.RLock()
	defer o.server.gate.RUnlock()
	b := o.server.buffers.get()
	defer o.server.buffers.put(b)
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.ended {
		o.ended = true
		o.finishLocked(b)
	}
}

// attach adds a client; false when there is nothing more to come.
func (o *output) attach(t *tap) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case <-o.settled:
		return false
	default:
	}
	if o.ended {
		return false
	}
	o.taps = append(o.taps, t)
	return true
}

func (o *output) detach(t *tap) {
	t.drop() // before the lock: a copier may be waiting for it
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.taps {
		if o.taps[i] == t {
			o.taps = append(o.taps[:i], o.taps[i+1:]...)
			return
		}
	}
}
