package cgroups

import (
	"bytes"
	"errors"
	"io/fs"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// statFile is one file that Stats reads.
type statFile struct {
	controller string
	name       string
	// keep: a counter, read each time; its descriptor is kept. What else is read (limits) is opened and closed.
	keep bool
}

// budget bounds the descriptors that all cgroups together keep for statistics, and owns the buffers for reading.
type budget struct {
	left    atomic.Int64
	buffers sync.Pool
}

// newBudget takes a quarter of what the process may open: sockets and pipes need the rest.
func newBudget() *budget {
	b := &budget{}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		limit.Cur = 1024
	}
	b.left.Store(int64(min(limit.Cur/4, 1<<20)))
	return b
}

// buffer takes a buffer out of the pool.
func (b *budget) buffer() *[]byte {
	if buf, ok := b.buffers.Get().(*[]byte); ok {
		return buf
	}
	buf := make([]byte, 8192)
	return &buf
}

// take asks for one descriptor more.
func (b *budget) take() bool {
	if b.left.Add(-1) >= 0 {
		return true
	}
	b.left.Add(1)
	return false
}

const (
	unopened = -1
	absent   = -2
)

// statFiles holds the descriptors that Stats reads of one cgroup, opened when they are first needed: a container nobody measures holds
// none. One pread of a kept descriptor costs a fifth of open, read, close.
type statFiles struct {
	files  []statFile
	place  func(controller string) string
	budget *budget
	fds    []int
	buf    *[]byte // during one Stats
	sticky bool    // whether descriptors may be kept
}

func newStatFiles(files []statFile, place func(string) string, b *budget) *statFiles {
	f := &statFiles{files: files, place: place, budget: b, fds: make([]int, len(files)), sticky: true}
	for i := range f.fds {
		f.fds[i] = unopened
	}
	return f
}

func (f *statFiles) begin() { f.buf = f.budget.buffer() }
func (f *statFiles) end()   { f.budget.buffers.Put(f.buf); f.buf = nil }

// read answers the content of a file, valid until the next read; nil when this kernel doesn't have it.
func (f *statFiles) read(slot int) ([]byte, error) {
	fd := f.fds[slot]
	switch fd {
	case absent:
		return nil, nil
	case unopened:
		dir := f.place(f.files[slot].controller)
		if dir == "" {
			f.fds[slot] = absent
			return nil, nil
		}
		var err error
		if fd, err = openRetry(dir+"/"+f.files[slot].name, unix.O_RDONLY); err != nil {
			return nil, f.openError(slot, dir, err)
		}
		if f.files[slot].keep && f.sticky && f.budget.take() {
			f.fds[slot] = fd
		} else {
			defer unix.Close(fd)
		}
	}
	data, err := pread(fd, f.buf)
	if errors.Is(err, unix.EOPNOTSUPP) { // pressure files with psi=0
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: f.files[slot].name, Err: err}
	}
	return data, nil
}

// openError tells a file that this kernel doesn't have from a cgroup that is gone.
func (f *statFiles) openError(slot int, dir string, err error) error {
	var st unix.Stat_t
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, fs.ErrNotExist) && unix.Lstat(dir, &st) == nil:
		// A v2 cgroup gets files when controllers are enabled above it, so only here and now is it absent for good on v1.
		if f.files[slot].controller != "" {
			f.fds[slot] = absent
		}
		return nil
	}
	return &fs.PathError{Op: "open", Path: dir + "/" + f.files[slot].name, Err: err}
}

// pread reads a whole file into the buffer, which grows as needed.
func pread(fd int, buf *[]byte) ([]byte, error) {
	for {
		n, err := unix.Pread(fd, *buf, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, err
		case n < len(*buf) && (n < 4000 || !isCut(fd, n)):
			return (*buf)[:n], nil
		}
		*buf = make([]byte, 2*len(*buf))
	}
}

// isCut tells whether more follows: sequence files may answer less than asked for at the end of a page.
func isCut(fd, at int) bool {
	var one [1]byte
	n, err := unix.Pread(fd, one[:], int64(at))
	return err == nil && n > 0
}

func (f *statFiles) close() error {
	if f == nil {
		return nil
	}
	for i, fd := range f.fds {
		if fd >= 0 {
			_ = unix.Close(fd)
			f.budget.left.Add(1)
			f.fds[i] = unopened
		}
	}
	f.sticky = false
	return nil
}

// eachField calls do for every line of "key value".
func eachField(data []byte, do func(key []byte, value uint64)) {
	for len(data) > 0 {
		var line []byte
		line, data, _ = bytes.Cut(data, []byte{'\n'})
		if space := bytes.IndexByte(line, ' '); space > 0 {
			if v, ok := parseUint(line[space+1:]); ok {
				do(line[:space], v)
			}
		}
	}
}

// field is the value of one key.
func field(data []byte, name string) uint64 {
	var found uint64
	eachField(data, func(key []byte, value uint64) {
		if string(key) == name {
			found = value
		}
	})
	return found
}

// parseUint reads a decimal number without allocating.
func parseUint(b []byte) (uint64, bool) {
	if len(b) == 0 || len(b) > 20 {
		return 0, false
	}
	var v uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = v*10 + uint64(c-'0')
	}
	return v, true
}

// noLimit is where v1 begins to mean "no limit": the largest number of whole pages in an int64.
const noLimit = 1 << 62

// parseValue reads a file of one number; "max", as any number that means no limit, is 0.
func parseValue(data []byte) uint64 {
	v, _ := parseUint(bytes.TrimSpace(data))
	if v >= noLimit {
		return 0
	}
	return v
}

// parsePSI reads a pressure file: "some avg10=0.00 avg60=0.00 avg300=0.00 total=0" and a line "full", which older kernels leave out for the
// CPU.
func parsePSI(data []byte) *PSI {
	if len(data) == 0 {
		return nil
	}
	psi := &PSI{}
	for len(data) > 0 {
		var line []byte
		line, data, _ = bytes.Cut(data, []byte{'\n'})
		kind, rest, _ := bytes.Cut(line, []byte{' '})
		into := &psi.Some
		if string(kind) == "full" {
			into = &psi.Full
		}
		for len(rest) > 0 {
			var pair []byte
			pair, rest, _ = bytes.Cut(rest, []byte{' '})
			key, text, _ := bytes.Cut(pair, []byte{'='})
			switch string(key) {
			case "avg10":
				into.Avg10 = parsePercent(text)
			case "avg60":
				into.Avg60 = parsePercent(text)
			case "avg300":
				into.Avg300 = parsePercent(text)
			case "total":
				into.TotalMicros, _ = parseUint(text)
			}
		}
	}
	return psi
}

// parsePercent reads a number with two decimals.
func parsePercent(b []byte) float64 {
	whole, decimals, _ := bytes.Cut(b, []byte{'.'})
	w, _ := parseUint(whole)
	d, _ := parseUint(decimals)
	return (float64(w)*100 + float64(d)) / 100
}

// parseDevice reads "8:16".
func parseDevice(b []byte) (major, minor uint64, ok bool) {
	left, right, _ := bytes.Cut(b, []byte{':'})
	major, okMajor := parseUint(left)
	minor, okMinor := parseUint(right)
	return major, minor, okMajor && okMinor
}

// workingSet is what can't be reclaimed easily: usage without the page cache that nobody touched lately, as the kubelet's evictions
// understand it.
func workingSet(usage, inactiveFile uint64) uint64 {
	return usage - min(usage, inactiveFile)
}
