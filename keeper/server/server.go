// Package server is what the keeper process runs: see package keeper for what it promises.
//
// The mechanism belongs here: starting programs, waiting, copying output, terminals, handing all of it to a newer keeper. No
// policy does, and nothing that grows the process: no gRPC, no JSON, no reflection; one goroutine and a few hundred bytes per thing waited for.
package server

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/keeper/internal/wire"
)

// lockName is the file whose lock says that a keeper serves the state directory.
const lockName = "keeper.lock"

// Options of a keeper.
type Options struct {
	StateDir  string
	Version   string
	Log       *log.Logger
	Listening func() // called once when clients can connect
}

// Server is one keeper.
type Server struct {
	opts     Options
	instance string // survives an upgrade, and so tells it from a new keeper
	state    int    // descriptor of the state directory
	lock     int
	listener *os.File
	reaper   *reaper
	buffers  *bufferPool

	// gate is held for reading wherever something must not be cut in two by an upgrade: a read and the write of what was read, a
	// wait and the note of its result. An upgrade holds it for writing. It is never taken twice by one goroutine.
	gate sync.RWMutex

	mu        sync.Mutex
	processes map[string]*process
	clients   map[*client]struct{}
	starting  int  // starts under way
	leaving   bool // an upgrade or a shutdown is under way: nothing may start
	done      chan struct{}
}

func newServer(opts Options) *Server {
	s := &Server{
		opts: opts, state: -1, lock: -1,
		buffers:   &bufferPool{},
		processes: map[string]*process{},
		clients:   map[*client]struct{}{},
		done:      make(chan struct{}),
	}
	s.reaper = newReaper()
	return s
}

// ErrLocked says that another keeper serves the state directory.
var ErrLocked = fmt.Errorf("another keeper serves this state directory: %w", errdefs.ErrAlreadyExists)

// Run serves until a client says Shutdown.
func Run(opts Options) error {
	s := newServer(opts)
	id := make([]byte, 8)
	_, _ = rand.Read(id)
	s.instance = hex.EncodeToString(id)
	var err error
	if s.state, err = unix.Open(opts.StateDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("opening the state directory %s: %w", opts.StateDir, err)
	}
	if s.lock, err = unix.Openat(s.state, lockName, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600); err != nil {
		return fmt.Errorf("opening the lock file %s/%s: %w", opts.StateDir, lockName, err)
	}
	if err := unix.Flock(s.lock, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return ErrLocked
		}
		return fmt.Errorf("locking %s/%s: %w", opts.StateDir, lockName, err)
	}
	fd, err := wire.Listen(s.state)
	if err != nil {
		return err
	}
	s.listener = os.NewFile(uintptr(fd), wire.SocketName)
	return s.serve()
}

func (s *Server) serve() error {
	if err := protect(); err != nil {
		return err
	}
	s.handleSignals()
	go s.accept()
	if s.opts.Listening != nil {
		s.opts.Listening()
	}
	<-s.done
	return nil
}

// protect makes the process what the parent of containers must be.
func protect() error {
	// Processes whose parents end, such as the containers of external OCI runtimes, become children of the keeper.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("becoming the reaper of orphans: %w", err)
	}
	// A launch shares the keeper's memory for two system calls; nobody in a container may trace or dump it then.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbidding core dumps and tracing: %w", err)
	}
	// What children inherit unless their program says otherwise.
	unix.Umask(0o022)
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("leaving the working directory: %w", err)
	}
	protectFromOOM()
	return nil
}

// protectFromOOM asks for -999 and takes what is allowed: without CAP_SYS_RESOURCE nothing below the present value is.
func protectFromOOM() {
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-999"), 0)
}

// handleSignals keeps the keeper alive: it ends by Shutdown, or by SIGTERM when it has nothing to keep (a machine that shuts down).
// Asking for a signal also undoes "ignored", which containers would inherit.
func (s *Server) handleSignals() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGTERM, unix.SIGHUP, unix.SIGINT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU)
	go func() {
		for received := range signals {
			switch received {
			case unix.SIGCHLD:
				s.reaper.orphansLater()
			case unix.SIGTERM:
				if err := s.shutdown(false); err != nil {
					s.opts.Log.Printf("not ending on SIGTERM: %v", err)
				}
			}
		}
	}()
}

func (s *Server) accept() {
	raw, err := s.listener.SyscallConn()
	if err != nil {
		s.opts.Log.Printf("polling the socket: %v", err)
		return
	}
	for {
		fd := -1
		if rerr := raw.Read(func(l uintptr) bool {
			fd, _, err = unix.Accept4(int(l), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return !errors.Is(err, unix.EAGAIN)
		}); rerr != nil {
			return // the listener was closed
		}
		if err != nil {
			if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ECONNABORTED) {
				s.opts.Log.Printf("accepting a connection: %v", err)
				pause()
			}
			continue
		}
		conn, err := wire.NewConn(fd)
		if err != nil {
			s.opts.Log.Printf("accepting a connection: %v", err)
			continue
		}
		go s.talk(conn)
	}
}

// shutdown ends the keeper. What runs goes on running, without a keeper, if forced.
func (s *Server) shutdown(force bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	running := s.starting
	for _, p := range s.processes {
		if p.exit == nil {
			running++
		}
	}
	if running > 0 && !force {
		return fmt.Errorf("keeper keeps %d processes; end them first, or force it: %w", running, errdefs.ErrFailedPrecondition)
	}
	if !s.leaving {
		s.leaving = true
		_ = unix.Unlinkat(s.state, wire.SocketName, 0)
		close(s.done)
	}
	return nil
}

// find returns a process that has started.
func (s *Server) find(id string) (*process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.processes[id]
	if p == nil || p.starting {
		return nil, fmt.Errorf("keeper has no process %q: %w", id, errdefs.ErrNotFound)
	}
	return p, nil
}

// selfPath names a descriptor of this process for system calls that want a path.
func selfPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// nonblocking owns fd and makes a file of it that waits without a thread.
func nonblocking(fd int, name string) (*os.File, error) {
	if fd < 0 {
		return nil, nil
	}
	if err := syscall.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("%s: setting O_NONBLOCK: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
