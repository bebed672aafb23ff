package server

import (
	"fmt"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/keeper/internal/crilog"
	"github.com/shimd/shimd/keeper/internal/wire"
)

// ioRequest owns its descriptors; -1 stands for none.
type ioRequest struct {
	set                                  bool
	stdout, stderr, stdin, terminal, log int
	stdinOnce                            bool
	maxLogLine                           int
	pendingOut, pendingErr               []byte // lines that an earlier keeper saw the beginning of
}

func (r *ioRequest) close() {
	if r.set {
		wire.CloseAll([]int{r.stdout, r.stderr, r.stdin, r.terminal, r.log})
	}
}

// streams are the keeper's ends of a process's standard streams; nil when the daemon has them.
type streams struct {
	outputs   []*output
	log       *crilog.Log
	stdinOnce bool
	settled   chan struct{}

	mu       sync.Mutex
	stdin    *os.File // nil when there is none, or it was closed
	terminal *os.File
	over     bool
}

// newStreams owns the request's descriptors, also if it fails.
func (s *Server) newStreams(r ioRequest) (*streams, error) {
	if !r.set {
		return nil, nil
	}
	if r.maxLogLine < 0 || r.maxLogLine > crilog.LargestMaxLine {
		r.close()
		return nil, fmt.Errorf("MaxLogLine is %d, at most %d is possible: %w", r.maxLogLine, crilog.LargestMaxLine, errdefs.ErrInvalidArgument)
	}
	if r.terminal >= 0 && (r.stdout >= 0 || r.stderr >= 0 || r.stdin >= 0) {
		r.close()
		return nil, fmt.Errorf("a process has a terminal or pipes, not both: %w", errdefs.ErrInvalidArgument)
	}
	st := &streams{stdinOnce: r.stdinOnce, settled: make(chan struct{})}
	var logFile *os.File
	if r.log >= 0 {
		logFile = os.NewFile(uintptr(r.log), "container log")
	}
	st.log = crilog.NewLog(logFile)
	add := func(fd int, name, stream string, pending []byte, terminal bool) (*os.File, error) {
		file, err := nonblocking(fd, name)
		if file != nil {
			st.outputs = append(st.outputs, &output{
				server: s, name: stream, file: file, terminal: terminal, log: st.log, settled: st.settled,
				split: crilog.NewSplitter(stream, r.maxLogLine, pending),
			})
		}
		return file, err
	}
	_, err1 := add(r.stdout, "stdout", "stdout", r.pendingOut, false)
	_, err2 := add(r.stderr, "stderr", "stderr", r.pendingErr, false)
	var err3, err4 error
	st.stdin, err3 = nonblocking(r.stdin, "stdin")
	st.terminal, err4 = add(r.terminal, "terminal", "stdout", r.pendingOut, true)
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			st.close()
			return nil, err
		}
	}
	return st, nil
}

func (st *streams) run() {
	if st == nil {
		return
	}
	for _, o := range st.outputs {
		go o.run()
	}
}

// settle completes the log when the process has ended.
func (st *streams) settle() {
	if st == nil {
		return
	}
	st.mu.Lock()
	if !st.over {
		st.over = true
		close(st.settled) // no copier waits for a slow client from now on
	}
	st.mu.Unlock()
	for _, o := range st.outputs {
		o.settle()
	}
}

func (st *streams) close() {
	if st == nil {
		return
	}
	st.settleNothing()
	for _, o := range st.outputs {
		_ = o.file.Close()
	}
	st.closeStdin()
	st.log.Close()
}

// settleNothing lets copiers go without reading more.
func (st *streams) settleNothing() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.over {
		st.over = true
		close(st.settled)
	}
}

func (st *streams) closeStdin() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.stdin != nil {
		_ = st.stdin.Close()
		st.stdin = nil
	}
}

// input is an open end of its own to write the process's stdin to, so that closing it ends a write that waits; nil when there is none.
func (st *streams) input() (*os.File, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	target := st.stdin
	if st.terminal != nil {
		target = st.terminal
	}
	if target == nil {
		return nil, nil
	}
	fd, err := -1, error(nil)
	if cerr := control(target, func(n int) { fd, err = unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, 0) }); cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, fmt.Errorf("copying stdin's descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), "stdin"), nil
}

// resize sets the terminal's size.
func (s *Server) resize(id string, columns, rows uint16) error {
	p, err := s.find(id)
	if err != nil {
		return err
	}
	if p.streams == nil || p.streams.terminal == nil {
		return fmt.Errorf("process %q has no terminal: %w", id, errdefs.ErrFailedPrecondition)
	}
	size := &unix.Winsize{Row: rows, Col: columns}
	if cerr := control(p.streams.terminal, func(fd int) { err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size) }); cerr != nil {
		return fmt.Errorf("terminal of process %q is closed: %w", id, errdefs.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("setting the terminal size of process %q: %w", id, err)
	}
	return nil
}

// setLog owns log.
func (s *Server) setLog(id string, log *os.File) error {
	s.gate.RLock()
	defer s.gate.RUnlock()
	p, err := s.find(id)
	if err == nil && p.streams == nil {
		err = fmt.Errorf("output of process %q is not logged here: %w", id, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		if log != nil {
			_ = log.Close()
		}
		return err
	}
	p.streams.log.SetFile(log)
	return nil
}
