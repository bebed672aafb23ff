package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/keeper/internal/wire"
)

// reportIndex is the child's descriptor that its program reports on.
const reportIndex = 3

// startRequest owns its descriptors; -1 stands for none.
type startRequest struct {
	id                         string
	newPIDNamespace, reparents bool
	killOnDisconnect           bool
	program, cgroup            int
	files                      []int
	io                         ioRequest
}

func (r *startRequest) close() {
	wire.CloseAll(append(r.files, r.program, r.cgroup))
	r.files, r.program, r.cgroup = nil, -1, -1
}

// launchError is an operation of the program that failed.
type launchError struct{ op, errno int }

func (e *launchError) Error() string {
	return fmt.Sprintf("operation %d of the launch program: %v", e.op, syscall.Errno(e.errno))
}

// start launches a process. It is registered, and its output is copied; the caller has to watch it.
func (s *Server) start(ctx context.Context, owner *client, r *startRequest) (*process, error) {
	defer r.close()
	p := &process{id: r.id, starting: true, killOnDisconnect: r.killOnDisconnect, owner: owner}
	if err := s.reserve(p); err != nil {
		r.io.close()
		return nil, err
	}
	s.reaper.hold()
	err := s.launch(ctx, p, r)
	s.reaper.release()
	s.mu.Lock()
	s.starting--
	p.starting = false
	if err != nil {
		delete(s.processes, p.id)
	}
	s.mu.Unlock()
	if err != nil {
		p.release()
		return nil, err
	}
	p.streams.run()
	return p, nil
}

func (s *Server) reserve(p *process) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case p.id == "":
		return fmt.Errorf("process has no ID: %w", errdefs.ErrInvalidArgument)
	case s.leaving:
		return fmt.Errorf("keeper is being replaced: %w", errdefs.ErrUnavailable)
	case s.processes[p.id] != nil:
		return fmt.Errorf("process %q: %w", p.id, errdefs.ErrAlreadyExists)
	}
	s.processes[p.id] = p
	s.starting++
	return nil
}

// launch: 1. the streams, 2. the child, 3. its report, 4. the process that counts.
func (s *Server) launch(ctx context.Context, p *process, r *startRequest) (err error) {
	if p.streams, err = s.newStreams(r.io); err != nil {
		return err
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("making the report pipe of %q: %w", r.id, err)
	}
	pipeEnd, err := nonblocking(pipe[0], "report pipe")
	if err != nil {
		_ = unix.Close(pipe[1])
		return err
	}
	defer func() { _ = pipeEnd.Close() }()
	pid, pidfd, err := s.fork(r, pipe[1])
	_ = unix.Close(pipe[1])
	r.close() // the child has them: a pipe must end when the child's copy is closed, not ours
	if err != nil {
		return fmt.Errorf("starting the launch program of %q: %w", r.id, err)
	}
	child, err := s.newChild(pid, pidfd)
	if err != nil {
		return err
	}
	said, err := await(ctx, pipeEnd, child)
	if r.reparents && said.between > 0 {
		err = errors.Join(err, s.buryBetween(r.id, said.between))
	}
	if r.reparents && (err == nil || said.pid > 0) {
		second, rerr := s.reparented(r.id, child, said.pid)
		child, err = second, errors.Join(err, rerr)
	}
	if err != nil {
		go s.bury(child)
		return err
	}
	p.pid, p.pidfd, p.startedAt = child.pid, child.pidfd, time.Now()
	return nil
}

// fork makes the child, by clone with CLONE_VM|CLONE_VFORK in the standard library.
func (s *Server) fork(r *startRequest, report int) (pid, pidfd int, err error) {
	if len(r.files) <= reportIndex {
		r.files = append(r.files, -1, -1, -1, -1)[:reportIndex+1]
	}
	highest := 0
	files := make([]uintptr, len(r.files))
	for i, fd := range r.files {
		highest = max(highest, fd)
		files[i] = uintptr(fd) // -1 becomes the value that the library closes
	}
	// A client that opened these for polling passes them non-blocking, and a program that does not expect that loses its output.
	for _, fd := range r.files[:reportIndex] {
		if fd >= 0 {
			_ = syscall.SetNonblock(fd, false)
		}
	}
	files[reportIndex] = uintptr(report)
	highest = max(highest, report)
	// Renumbering in the child uses the numbers right above the highest one as scratch room; the program must not stand there.
	program, err := unix.FcntlInt(uintptr(r.program), unix.F_DUPFD_CLOEXEC, highest+len(files)+8)
	if err != nil {
		return 0, -1, fmt.Errorf("moving the program's descriptor away: %w", err)
	}
	defer func() { _ = unix.Close(program) }()
	child := -1
	attr := &syscall.ProcAttr{Files: files, Env: []string{}, Sys: &syscall.SysProcAttr{PidFD: &child}}
	if r.newPIDNamespace {
		attr.Sys.Cloneflags |= unix.CLONE_NEWPID
	}
	if r.cgroup >= 0 {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, r.cgroup
	}
	pid, err = syscall.ForkExec(selfPath(program), []string{"launch"}, attr)
	if err != nil {
		return 0, -1, err
	}
	return pid, child, nil
}

// child is a process that the keeper made, before it counts.
type child struct {
	pid   int
	pidfd *os.File
}

func (s *Server) newChild(pid, pidfd int) (child, error) {
	var err error
	if pidfd < 0 { // a kernel without CLONE_PIDFD; the child cannot be reaped in between
		if pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
			return child{}, fmt.Errorf("opening process %d: %w", pid, err)
		}
	}
	s.reaper.add(pid)
	file, err := nonblocking(pidfd, "pidfd")
	return child{pid: pid, pidfd: file}, err
}

// reparented takes the place of the first child, which has done its work, by the one that it made (CLONE_PARENT).
func (s *Server) reparented(id string, first child, pid int) (child, error) {
	if pid <= 0 {
		return first, fmt.Errorf("launch program of %q ended without naming the process it made: %w", id, errdefs.ErrInternal)
	}
	second, err := s.claim(id, pid)
	if err != nil {
		return first, err
	}
	go s.bury(first)
	return second, nil
}

// buryBetween collects a process that has made the one that counts, at once: or each exec probe would leave a zombie until somebody looks
// for orphans.
func (s *Server) buryBetween(id string, pid int) error {
	between, err := s.claim(id, pid)
	if err != nil {
		return err
	}
	go s.bury(between)
	return nil
}

// claim takes a process that a launch program names. No number is believed: it must be a child of ours, and nobody else's process.
func (s *Server) claim(id string, pid int) (child, error) {
	if !s.reaper.claim(pid) {
		return child{}, fmt.Errorf("launch program of %q named process %d, which is no child of the keeper, or another's: %w", id, pid, errdefs.ErrInternal)
	}
	c, err := s.newChild(pid, -1)
	if err != nil {
		s.reaper.disclaim(pid)
	}
	return c, err
}

// bury kills a child and collects it.
func (s *Server) bury(c child) {
	if c.pidfd == nil {
		return
	}
	defer func() { _ = c.pidfd.Close() }()
	_ = control(c.pidfd, func(fd int) { _ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) })
	raw, err := c.pidfd.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool { return pollNow(int(fd), unix.POLLIN) != 0 })
	_ = control(c.pidfd, func(fd int) { _, _, _ = s.reaper.wait(c.pid, fd) })
}

// await reads the report: its end without a word is success, as the final execve closes it.
// When the caller gives up the child is killed, which ends the report.
func await(ctx context.Context, pipe *os.File, c child) (said report, err error) {
	stop := context.AfterFunc(ctx, func() {
		_ = control(c.pidfd, func(fd int) { _ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) })
		_ = pipe.SetReadDeadline(time.Now())
	})
	said, err = readReport(pipe)
	if !stop() {
		return said, fmt.Errorf("start was given up: %w", errors.Join(ctx.Err(), err))
	}
	return said, err
}
