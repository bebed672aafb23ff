package server

import (
	"context"
	"fmt"
	"os"
	"sort"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/keeper/internal/wire"
)

// listPage is how many processes one reply lists: each brings a descriptor.
const listPage = 200

// handle does what a request says. The reply's files are closed after it was sent.
func (c *client) handle(ctx context.Context, m wire.Message) (reply *wire.Encoder, then func(), err error) {
	s, d := c.server, m.Decoder()
	switch m.Kind {
	case wire.Start:
		return c.handleStart(ctx, d)
	case wire.Adopt:
		id, pidfd := d.String(), d.Descriptor()
		streams := decodeIO(d)
		if err := d.End(); err != nil {
			wire.CloseAll([]int{pidfd})
			streams.close()
			return nil, nil, err
		}
		return nil, nil, s.adopt(id, pidfd, streams)
	case wire.Signal:
		id, number := d.String(), d.Int32()
		if err := d.End(); err != nil {
			return nil, nil, err
		}
		return nil, nil, s.signal(id, number)
	case wire.Attach:
		return nil, nil, s.handleAttach(ctx, d)
	case wire.Resize:
		id, columns, rows := d.String(), d.Uint16(), d.Uint16()
		if err := d.End(); err != nil {
			return nil, nil, err
		}
		return nil, nil, s.resize(id, columns, rows)
	case wire.SetLog:
		id, log := d.String(), d.File("container log")
		if err := d.End(); err != nil {
			if log != nil {
				_ = log.Close()
			}
			return nil, nil, err
		}
		return nil, nil, s.setLog(id, log)
	case wire.List:
		after := d.String()
		if err := d.End(); err != nil {
			return nil, nil, err
		}
		reply, err = s.list(after)
		return reply, nil, err
	case wire.Acknowledge:
		id := d.String()
		if err := d.End(); err != nil {
			return nil, nil, err
		}
		return nil, nil, s.acknowledge(id)
	case wire.Upgrade:
		binary := d.Descriptor()
		if err := d.End(); err != nil {
			wire.CloseAll([]int{binary})
			return nil, nil, err
		}
		return nil, nil, s.upgrade(binary)
	case wire.Shutdown:
		force := d.Bool()
		if err := d.End(); err != nil {
			return nil, nil, err
		}
		return nil, nil, s.shutdown(force)
	}
	wire.CloseAll(m.Descriptors)
	return nil, nil, fmt.Errorf("keeper does not know request kind %d: %w", m.Kind, errdefs.ErrNotImplemented)
}

func (c *client) handleStart(ctx context.Context, d *wire.Decoder) (*wire.Encoder, func(), error) {
	r := &startRequest{id: d.String(), newPIDNamespace: d.Bool(), reparents: d.Bool(), killOnDisconnect: d.Bool()}
	r.program, r.cgroup = d.Descriptor(), d.Descriptor()
	count := int(d.Uint16())
	for range min(count, wire.MaxDescriptors) {
		r.files = append(r.files, d.Descriptor())
	}
	r.io = decodeIO(d)
	err := d.End()
	if err == nil && (r.program < 0 || count > wire.MaxDescriptors) {
		err = fmt.Errorf("start of %q has no program, or %d files: %w", r.id, count, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		r.close()
		r.io.close()
		return nil, nil, err
	}
	p, err := c.server.start(ctx, c, r)
	if err != nil {
		return nil, nil, err
	}
	// Only after the reply: an exit must not be announced before its start is.
	watch := func() { go c.server.watch(p) }
	e := &wire.Encoder{}
	e.Int32(p.pid)
	e.Int64(p.startedAt.UnixNano())
	pidfd, err := duplicate(p.pidfd)
	if err != nil {
		_ = p.signal(int(unix.SIGKILL)) // the caller hears of no process, so there must be none
		return nil, watch, err
	}
	e.File(pidfd)
	return e, watch, nil
}

func duplicate(f *os.File) (*os.File, error) {
	fd, err := -1, error(nil)
	if cerr := control(f, func(n int) { fd, err = unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, 0) }); cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, fmt.Errorf("copying descriptor of %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// decodeIO owns the descriptors that it takes; the caller closes them when the message turns out wrong.
func decodeIO(d *wire.Decoder) ioRequest {
	r := ioRequest{stdout: -1, stderr: -1, stdin: -1, terminal: -1, log: -1}
	if r.set = d.Bool(); !r.set {
		return r
	}
	r.stdout, r.stderr, r.stdin, r.terminal, r.log = d.Descriptor(), d.Descriptor(), d.Descriptor(), d.Descriptor(), d.Descriptor()
	r.stdinOnce, r.maxLogLine = d.Bool(), d.Int32()
	return r
}

func (s *Server) handleAttach(ctx context.Context, d *wire.Decoder) error {
	r := attachRequest{id: d.String()}
	fds := []int{d.Descriptor(), d.Descriptor(), d.Descriptor()}
	if err := d.End(); err != nil {
		wire.CloseAll(fds)
		return err
	}
	var errs [3]error
	r.stdin, errs[0] = nonblocking(fds[0], "client's stdin")
	r.stdout, errs[1] = nonblocking(fds[1], "client's stdout")
	r.stderr, errs[2] = nonblocking(fds[2], "client's stderr")
	for _, err := range errs {
		if err != nil {
			r.close()
			return err
		}
	}
	return s.attach(ctx, r)
}

// list encodes a page of the processes whose IDs come after one.
func (s *Server) list(after string) (*wire.Encoder, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for id, p := range s.processes {
		if id > after && !p.starting {
			ids = append(ids, id)
		}
	}
	sort.Strings(ids)
	more := len(ids) > listPage
	if more {
		ids = ids[:listPage]
	}
	e := &wire.Encoder{}
	e.Bool(more)
	e.Uint16(uint16(len(ids)))
	for _, id := range ids {
		p := s.processes[id]
		e.String(id)
		e.Int32(p.pid)
		e.Bool(p.exit != nil)
		if p.exit != nil {
			encodeExit(e, id, p.exit)
			continue
		}
		pidfd, err := duplicate(p.pidfd) // the process may end and be acknowledged before this is sent
		if err != nil {
			for _, f := range e.Files {
				_ = f.Close()
			}
			return nil, err
		}
		e.File(pidfd)
	}
	return e, nil
}
