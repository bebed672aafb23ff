package server

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/keeper/internal/wire"
)

// upgradePatience is how long an upgrade waits for starts under way.
const upgradePatience = 10 * time.Second

// upgrade replaces the program by another, in place: the process stays, and with it its children, locks and descriptors.
// On success it does not return, and the client sees its connection end; what was not yet read waits in pipes and in the socket's queue.
//
//  1. nothing starts any more; attachments end
//  2. the gate: nothing is between a read and its write
//  3. the state is written down, and the new program asked whether it can read it
//  4. exec, with what is kept open across it
func (s *Server) upgrade(binary int) error {
	if binary < 0 {
		return fmt.Errorf("upgrade brings no program: %w", errdefs.ErrInvalidArgument)
	}
	defer func() { _ = unix.Close(binary) }()
	if err := s.quiesce(); err != nil {
		return err
	}
	s.gate.Lock()
	defer s.gate.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.leaving = false }()
	state, keep := s.encodeState()
	memory, err := stateFile(state)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(memory) }()
	if err := checkState(binary, memory); err != nil {
		return err
	}
	s.opts.Log.Printf("upgrading, with %d processes", len(s.processes))
	keep = append(keep, memory)
	for _, fd := range keep {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			s.opts.Log.Printf("keeping descriptor %d: %v", fd, err)
		}
	}
	err = syscall.Exec(selfPath(binary), []string{"shimd-keeper", "--state", s.opts.StateDir, "--resume", strconv.Itoa(memory)}, os.Environ())
	for _, fd := range keep {
		unix.CloseOnExec(fd)
	}
	return fmt.Errorf("executing the new keeper: %w", err)
}

// quiesce lets nothing start and waits for what is starting.
func (s *Server) quiesce() error {
	s.mu.Lock()
	if s.leaving {
		s.mu.Unlock()
		return fmt.Errorf("keeper is already being replaced: %w", errdefs.ErrUnavailable)
	}
	s.leaving = true
	s.mu.Unlock()
	for end := time.Now().Add(upgradePatience); ; time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		starting := s.starting
		if starting > 0 && time.Now().After(end) {
			s.leaving = false
			s.mu.Unlock()
			return fmt.Errorf("%d starts are under way; try again: %w", starting, errdefs.ErrUnavailable)
		}
		clients := make([]*client, 0, len(s.clients))
		for c := range s.clients {
			clients = append(clients, c)
		}
		s.mu.Unlock()
		if starting == 0 {
			for _, c := range clients {
				c.cancelAll() // attachments; a copier may be waiting for one
			}
			return nil
		}
	}
}

// stateFile puts state into a memfd.
func stateFile(state []byte) (int, error) {
	fd, err := unix.MemfdCreate("keeper-state", unix.MFD_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("making a file for the state: %w", err)
	}
	for off := 0; off < len(state); {
		n, err := unix.Pwrite(fd, state[off:], int64(off))
		if err != nil {
			_ = unix.Close(fd)
			return -1, fmt.Errorf("writing the state down: %w", err)
		}
		off += n
	}
	return fd, nil
}

// checkState asks the new program whether it understands the state, as long as the old one can still say no.
func checkState(binary, memory int) error {
	files := []uintptr{^uintptr(0), ^uintptr(0), 2, uintptr(memory)}
	pid, err := syscall.ForkExec(selfPath(binary), []string{"shimd-keeper", "--check", "3"}, &syscall.ProcAttr{Files: files, Env: os.Environ()})
	if err != nil {
		return fmt.Errorf("executing the new keeper to check the state: %w", err)
	}
	var word unix.WaitStatus
	for {
		if _, err := unix.Wait4(pid, &word, 0, nil); err != unix.EINTR {
			break
		}
	}
	if !word.Exited() || word.ExitStatus() != 0 {
		return fmt.Errorf("new keeper does not understand the state of this one (wait status %#x); end the pods and start it anew: %w", uint32(word), errdefs.ErrFailedPrecondition)
	}
	return nil
}

// Check reads a state that another keeper wrote, and tells whether Resume could go on from it.
func Check(fd int) error {
	_, err := readState(fd)
	return err
}

// Resume goes on where the keeper that executed this program left off.
func Resume(opts Options, fd int) error {
	s := newServer(opts)
	state, err := readState(fd)
	if err != nil {
		return err
	}
	_ = unix.Close(fd)
	if err := s.restore(state); err != nil {
		return err
	}
	// Children may have ended in between: their zombies wait.
	s.reaper.orphansLater()
	return s.serve()
}

func (s *Server) restore(state *savedState) error {
	s.instance = state.instance
	for _, fd := range state.descriptors() {
		unix.CloseOnExec(fd)
	}
	s.state, s.lock = state.directory, state.lock
	s.listener = os.NewFile(uintptr(state.listener), wire.SocketName)
	for i := range state.processes {
		saved := &state.processes[i]
		p := &process{id: saved.id, pid: saved.pid, startedAt: time.Unix(0, saved.startedAt), killOnDisconnect: saved.killOnDisconnect, exit: saved.exit}
		file, err := nonblocking(saved.pidfd, "pidfd of "+p.id)
		if err != nil {
			return err
		}
		p.pidfd = file
		if p.streams, err = s.newStreams(saved.io); err != nil {
			return fmt.Errorf("streams of %s: %w", p.id, err)
		}
		s.processes[p.id] = p
		p.streams.run()
		if p.exit != nil {
			p.streams.settle()
			continue
		}
		if p.pid > 0 {
			s.reaper.add(p.pid)
		}
		go s.watch(p)
	}
	return nil
}
