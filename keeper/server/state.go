package server

import (
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/keeper/internal/wire"
)

// stateVersion is the version of what an upgrade hands over. A newer keeper reads older versions.
const stateVersion = 1

// savedState is what one program of the keeper tells the next. Descriptors are numbers, as exec keeps them.
type savedState struct {
	instance                  string
	directory, lock, listener int
	processes                 []savedProcess
}

type savedProcess struct {
	id               string
	pid, pidfd       int
	startedAt        int64 // nanoseconds since 1970
	killOnDisconnect bool
	exit             *exit
	io               ioRequest
}

// descriptors are all those that the state names.
func (st *savedState) descriptors() []int {
	all := []int{st.directory, st.lock, st.listener}
	for i := range st.processes {
		p := &st.processes[i]
		all = append(all, p.pidfd)
		if p.io.set {
			all = append(all, p.io.stdout, p.io.stderr, p.io.stdin, p.io.terminal, p.io.log)
		}
	}
	kept := all[:0]
	for _, fd := range all {
		if fd >= 0 {
			kept = append(kept, fd)
		}
	}
	return kept
}

// encodeState writes everything down. Under Server.mu and the gate.
func (s *Server) encodeState() (state []byte, keep []int) {
	saved := &savedState{instance: s.instance, directory: s.state, lock: s.lock, listener: number(s.listener)}
	for _, p := range s.processes {
		saved.processes = append(saved.processes, savedProcess{
			id: p.id, pid: p.pid, pidfd: number(p.pidfd), startedAt: p.startedAt.UnixNano(),
			killOnDisconnect: p.killOnDisconnect, exit: p.exit, io: p.streams.save(),
		})
	}
	e := &wire.Encoder{}
	e.Int32(stateVersion)
	e.String(saved.instance)
	e.Int32(saved.directory)
	e.Int32(saved.lock)
	e.Int32(saved.listener)
	e.Int32(len(saved.processes))
	for i := range saved.processes {
		saved.processes[i].encode(e)
	}
	return e.Body, saved.descriptors()
}

func (p *savedProcess) encode(e *wire.Encoder) {
	e.String(p.id)
	e.Int32(p.pid)
	e.Int32(p.pidfd)
	e.Int64(p.startedAt)
	e.Bool(p.killOnDisconnect)
	e.Bool(p.exit != nil)
	if p.exit != nil {
		encodeExit(e, p.id, p.exit)
	}
	e.Bool(p.io.set)
	if !p.io.set {
		return
	}
	for _, fd := range []int{p.io.stdout, p.io.stderr, p.io.stdin, p.io.terminal, p.io.log} {
		e.Int32(fd)
	}
	e.Bool(p.io.stdinOnce)
	e.Int32(p.io.maxLogLine)
	e.Bytes(p.io.pendingOut)
	e.Bytes(p.io.pendingErr)
}

// save notes the streams' descriptors and the lines that have begun.
func (st *streams) save() ioRequest {
	r := ioRequest{stdout: -1, stderr: -1, stdin: -1, terminal: -1, log: -1}
	if st == nil {
		return r
	}
	r.set, r.stdinOnce, r.log = true, st.stdinOnce, number(st.log.File())
	for _, o := range st.outputs {
		r.maxLogLine = o.split.Max()
		switch {
		case o.terminal:
			r.terminal, r.pendingOut = number(o.file), o.split.Pending()
		case o.name == "stderr":
			r.stderr, r.pendingErr = number(o.file), o.split.Pending()
		default:
			r.stdout, r.pendingOut = number(o.file), o.split.Pending()
		}
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	r.stdin = number(st.stdin)
	return r
}

// number is a file's descriptor; -1 for none, or a closed one.
func number(f *os.File) int {
	n := -1
	if f != nil {
		_ = control(f, func(fd int) { n = fd })
	}
	return n
}

func readState(fd int) (*savedState, error) {
	var body []byte
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Pread(fd, buf, int64(len(body)))
		if err != nil {
			return nil, fmt.Errorf("reading the state of the keeper before: %w", err)
		}
		if n == 0 {
			return decodeState(body)
		}
		body = append(body, buf[:n]...)
	}
}

func decodeState(body []byte) (*savedState, error) {
	d := wire.NewDecoder(body, nil)
	if version := d.Int32(); version != stateVersion {
		return nil, fmt.Errorf("state has version %d, this keeper reads %d: %w", version, stateVersion, errdefs.ErrNotImplemented)
	}
	st := &savedState{instance: d.String(), directory: d.Int32(), lock: d.Int32(), listener: d.Int32()}
	count := d.Int32()
	if count < 0 || count > len(body) {
		return nil, fmt.Errorf("state has %d processes in %d bytes: %w", count, len(body), errdefs.ErrInvalidArgument)
	}
	for range count {
		st.processes = append(st.processes, decodeProcess(d))
	}
	if err := d.End(); err != nil {
		return nil, fmt.Errorf("state of the keeper before: %w", err)
	}
	return st, nil
}

func decodeProcess(d *wire.Decoder) savedProcess {
	p := savedProcess{id: d.String(), pid: d.Int32(), pidfd: d.Int32(), startedAt: d.Int64(), killOnDisconnect: d.Bool()}
	if d.Bool() {
		_ = d.String()
		p.exit = &exit{status: status{code: d.Int32(), signal: d.Int32(), unknown: d.Bool()}}
		p.exit.at = time.Unix(0, d.Int64())
	}
	if p.io.set = d.Bool(); p.io.set {
		p.io.stdout, p.io.stderr, p.io.stdin, p.io.terminal, p.io.log = d.Int32(), d.Int32(), d.Int32(), d.Int32(), d.Int32()
		p.io.stdinOnce, p.io.maxLogLine = d.Bool(), d.Int32()
		p.io.pendingOut, p.io.pendingErr = d.Bytes(), d.Bytes()
	}
	return p
}
