package server

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// process is one that the keeper waits for, or whose exit nobody has acknowledged.
//
//	starting --> running --> exited --> (acknowledged: forgotten)
//	    \-> (failed: forgotten)
type process struct {
	id               string
	pid              int
	pidfd            *os.File
	startedAt        time.Time
	streams          *streams
	killOnDisconnect bool

	// Under Server.mu.
	starting bool
	owner    *client // whose disconnection kills it; nil for whoever connects next after an upgrade
	exit     *exit   // nil while it runs
}

type exit struct {
	status
	at time.Time
}

// reapPatience is how long a foreign parent may take to reap its child, whose status cannot be read earlier.
const reapPatience = 10 * time.Second

// watch waits for the process's end and announces it.
func (s *Server) watch(p *process) {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		s.opts.Log.Printf("waiting for %s: %v", p.id, err)
		return
	}
	if err := raw.Read(func(fd uintptr) bool { return pollNow(int(fd), unix.POLLIN) != 0 }); err != nil {
		s.opts.Log.Printf("waiting for %s: %v", p.id, err)
		return
	}
	at := time.Now()
	s.gate.RLock()
	st, reaped, err := s.collect(p)
	if !reaped {
		// A child of another process, whose status appears when that one has reaped it.
		s.gate.RUnlock()
		_ = p.pidfd.SetReadDeadline(at.Add(reapPatience))
		_ = raw.Read(func(fd uintptr) bool { return pollNow(int(fd), unix.POLLHUP) != 0 })
		s.gate.RLock()
		st = s.foreignStatus(p)
	}
	if err != nil && !errors.Is(err, unix.ECHILD) {
		s.opts.Log.Printf("waiting for %s: %v", p.id, err)
	}
	p.streams.settle()
	s.mu.Lock()
	p.exit = &exit{status: st, at: at}
	clients := s.greeted()
	s.mu.Unlock()
	s.gate.RUnlock()
	for _, c := range clients {
		c.announce(p)
	}
}

func (s *Server) collect(p *process) (st status, reaped bool, err error) {
	_ = control(p.pidfd, func(fd int) {
		st, reaped, err = s.reaper.wait(p.pid, fd)
		if !reaped {
			st, reaped = exitInfo(fd)
		}
	})
	return st, reaped, err
}

func (s *Server) foreignStatus(p *process) status {
	st, known := status{}, false
	_ = control(p.pidfd, func(fd int) { st, known = exitInfo(fd) })
	if !known {
		return status{unknown: true}
	}
	return st
}

func control(f *os.File, use func(fd int)) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { use(int(fd)) })
}

// pollNow asks for events without waiting. POLLHUP and POLLERR are always asked for, and count if they are in events.
func pollNow(fd int, events int16) int16 {
	set := []unix.PollFd{{Fd: int32(fd), Events: events}}
	if _, err := unix.Poll(set, 0); err != nil {
		return 0
	}
	return set[0].Revents & events
}

// signal sends a signal to the process.
func (s *Server) signal(id string, number int) error {
	p, err := s.find(id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	gone := p.exit != nil
	s.mu.Unlock()
	if gone {
		return fmt.Errorf("process %q has ended: %w", id, errdefs.ErrNotFound)
	}
	if number < 0 || number > 64 {
		return fmt.Errorf("signal %d for process %q is not between 0 and 64: %w", number, id, errdefs.ErrInvalidArgument)
	}
	return p.signal(number)
}

func (p *process) signal(number int) error {
	var err error
	if cerr := control(p.pidfd, func(fd int) { err = unix.PidfdSendSignal(fd, unix.Signal(number), nil, 0) }); cerr != nil {
		return fmt.Errorf("process %q is gone: %w", p.id, errdefs.ErrNotFound)
	}
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("process %q has ended: %w", p.id, errdefs.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("sending signal %d to process %q: %w", number, p.id, err)
	}
	return nil
}

// acknowledge forgets an exit.
func (s *Server) acknowledge(id string) error {
	s.mu.Lock()
	p := s.processes[id]
	if p == nil {
		s.mu.Unlock()
		return nil
	}
	if p.exit == nil {
		s.mu.Unlock()
		return fmt.Errorf("process %q has not ended, there is nothing to acknowledge: %w", id, errdefs.ErrFailedPrecondition)
	}
	delete(s.processes, id)
	s.mu.Unlock()
	p.release()
	return nil
}

// release closes what the process held here.
func (p *process) release() {
	if p.pidfd != nil {
		_ = p.pidfd.Close()
	}
	p.streams.close()
}

// pidOf reads the process number of a pidfd; 0 when it is gone.
func pidOf(pidfd int) int {
	info, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(pidfd))
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(info) {
		if value, found := bytes.CutPrefix(line, []byte("Pid:")); found {
			pid, _ := strconv.Atoi(string(bytes.TrimSpace(value)))
			return max(pid, 0)
		}
	}
	return 0
}

// adopt waits for a process that an earlier keeper, or an external runtime, started.
func (s *Server) adopt(id string, pidfd int, io ioRequest) error {
	s.gate.RLock()
	defer s.gate.RUnlock()
	if id == "" || pidfd < 0 {
		_ = unix.Close(pidfd)
		io.close()
		return fmt.Errorf("adopting needs an ID and a pidfd: %w", errdefs.ErrInvalidArgument)
	}
	p := &process{id: id, pid: pidOf(pidfd), startedAt: time.Now()}
	file, err := nonblocking(pidfd, "pidfd of "+id)
	if err != nil {
		io.close()
		return err
	}
	p.pidfd = file
	if p.streams, err = s.newStreams(io); err != nil {
		_ = file.Close()
		return err
	}
	s.mu.Lock()
	if s.leaving || s.processes[id] != nil {
		leaving := s.leaving
		s.mu.Unlock()
		p.release()
		if leaving {
			return fmt.Errorf("keeper is being replaced: %w", errdefs.ErrUnavailable)
		}
		return nil
	}
	s.processes[id] = p
	s.mu.Unlock()
	if p.pid > 0 {
		s.reaper.add(p.pid)
	}
	p.streams.run()
	go s.watch(p)
	return nil
}
