package server

import (
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	readSize    = 256 << 10
	formatSize  = 512 << 10
	spare       = 2               // buffers kept for the next reader
	bufferIdle  = 5 * time.Second // after which they are given back
	busyPipe    = 256 << 10       // what a pipe is enlarged to once a read has filled 64 KiB
	defaultPipe = 64 << 10
)

// buffer is what a stream needs while it copies. Idle streams hold none.
type buffer struct{ memory, in, out []byte }

// bufferPool lends buffers. They are mapped outside of Go's heap: untouched pages cost nothing, what is
// unmapped is gone at once, and the garbage collector's idea of the heap stays small.
type bufferPool struct {
	mu    sync.Mutex
	free  []*buffer
	used  bool
	armed bool
}

func (p *bufferPool) get() *buffer {
	p.mu.Lock()
	p.used = true
	if n := len(p.free); n > 0 {
		b := p.free[n-1]
		p.free = p.free[:n-1]
		p.mu.Unlock()
		return b
	}
	p.mu.Unlock()
	memory, err := unix.Mmap(-1, 0, readSize+formatSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil { // no address space: the heap says so louder
		memory = make([]byte, readSize+formatSize)
		return &buffer{in: memory[:readSize], out: memory[readSize:]}
	}
	return &buffer{memory: memory, in: memory[:readSize], out: memory[readSize:]}
}

func (p *bufferPool) put(b *buffer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) >= spare {
		b.unmap()
		return
	}
	p.free = append(p.free, b)
	if !p.armed {
		p.armed = true
		time.AfterFunc(bufferIdle, p.tidy)
	}
}

func (p *bufferPool) tidy() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.used {
		p.used = false
		time.AfterFunc(bufferIdle, p.tidy)
		return
	}
	for _, b := range p.free {
		b.unmap()
	}
	p.free, p.armed = nil, false
}

func (b *buffer) unmap() {
	if b.memory != nil {
		_ = unix.Munmap(b.memory)
	}
}

// readSome reads without waiting.
func readSome(fd int, buf []byte) (int, error) {
	for {
		n, err := unix.Read(fd, buf)
		if err != unix.EINTR {
			return n, err
		}
	}
}

func wouldBlock(err error) bool { return errors.Is(err, unix.EAGAIN) }
