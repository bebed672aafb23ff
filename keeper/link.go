package keeper

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/keeper/internal/wire"
)

const (
	sendPatience   = 30 * time.Second // for a keeper that does not read
	cancelPatience = 10 * time.Second // for the answer to a request that was given up
)

// errBroken says that the connection ended before the answer came: whether the keeper did what was asked is not known.
var errBroken = fmt.Errorf("keeper's connection broke: %w", errdefs.ErrUnavailable)

func errNotConnected() error { return fmt.Errorf("no keeper is connected: %w", errdefs.ErrUnavailable) }

type hello struct {
	protocol, pid     int
	version, instance string
}

// link is one connection. It ends once; Client makes the next.
type link struct {
	conn   *wire.Conn
	exits  *exitQueue
	hello  hello
	broken chan struct{}

	mu    sync.Mutex
	last  uint32
	calls map[uint32]*call
}

// call is a request that waits for its answer.
type call struct {
	answer    chan wire.Message // buffered
	kind      wire.Kind
	id        string
	abandoned bool // under link.mu: nobody waits any more
}

// newLink owns conn. It says hello and begins to listen.
func newLink(ctx context.Context, conn *wire.Conn, version string, exits *exitQueue) (*link, error) {
	if err := conn.PeerIsRoot(); err != nil {
		_ = conn.Close()
		return nil, err
	}
	l := &link{conn: conn, exits: exits, broken: make(chan struct{}), calls: map[uint32]*call{}}
	go l.listen()
	e := &wire.Encoder{}
	e.Int32(wire.Protocol)
	e.String(version)
	m, err := l.call(ctx, wire.Hello, "", e, nil)
	if err != nil {
		l.close()
		return nil, fmt.Errorf("saying hello to the keeper: %w", err)
	}
	d := m.Decoder()
	l.hello.protocol, l.hello.version, l.hello.instance, l.hello.pid = d.Int32(), d.String(), d.String(), d.Int32()
	if err := d.End(); err != nil {
		l.close()
		return nil, fmt.Errorf("keeper's hello: %w", err)
	}
	return l, nil
}

func (l *link) close() { _ = l.conn.Close() }

// listen hands out what comes, until the connection ends.
func (l *link) listen() {
	defer close(l.broken)
	defer l.close()
	for {
		m, err := l.conn.Receive()
		if err != nil {
			return
		}
		if m.Kind == wire.Exit {
			d := m.Decoder()
			x := decodeExit(d)
			if d.End() != nil {
				return
			}
			l.exits.add(x)
			continue
		}
		l.mu.Lock()
		waiting := l.calls[m.Request]
		delete(l.calls, m.Request)
		late := waiting != nil && waiting.abandoned
		if waiting != nil && !late {
			waiting.answer <- m
		}
		l.mu.Unlock()
		if waiting == nil || late {
			wire.CloseAll(m.Descriptors)
		}
		if late && waiting.kind == wire.Start && m.Kind == wire.Reply {
			go l.end(waiting.id) // its caller was told that it failed
		}
	}
}

func (l *link) end(id string) {
	e := &wire.Encoder{}
	e.String(id)
	e.Int32(int(unix.SIGKILL))
	_, _ = l.call(context.Background(), wire.Signal, id, e, nil)
}

// call sends a request and waits for its answer. When ctx ends it asks the keeper to give up, and waits for what came of it: a process
// that has started all the same is reported as started. sent may be nil.
func (l *link) call(ctx context.Context, kind wire.Kind, id string, e *wire.Encoder, sent func()) (wire.Message, error) {
	if err := ctx.Err(); err != nil {
		return wire.Message{}, err
	}
	c := &call{answer: make(chan wire.Message, 1), kind: kind, id: id}
	l.mu.Lock()
	for l.last++; l.last == 0 || l.calls[l.last] != nil; l.last++ {
	}
	request := l.last
	l.calls[request] = c
	l.mu.Unlock()
	if err := l.conn.Send(kind, request, e, sendPatience); err != nil {
		l.forget(request)
		if errdefs.IsInvalidArgument(err) {
			return wire.Message{}, err
		}
		return wire.Message{}, errors.Join(errBroken, err)
	}
	if sent != nil {
		sent()
	}
	done := ctx.Done()
	var patience <-chan time.Time
	for {
		select {
		case m := <-c.answer:
			return m, nil
		case <-l.broken:
			select {
			case m := <-c.answer:
				return m, nil
			default:
			}
			l.forget(request)
			return wire.Message{}, errBroken
		case <-done:
			done, patience = nil, time.After(cancelPatience)
			_ = l.conn.Send(wire.Cancel, request, &wire.Encoder{}, sendPatience)
		case <-patience:
			if l.abandon(request) {
				return wire.Message{}, ctx.Err()
			}
			patience = nil // the answer came this moment
		}
	}
}

func (l *link) forget(request uint32) {
	l.mu.Lock()
	delete(l.calls, request)
	l.mu.Unlock()
}

// abandon lets a late answer be thrown away; false when it is here already.
func (l *link) abandon(request uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.calls[request]
	if c == nil {
		return false
	}
	c.abandoned = true
	return true
}

// exitQueue holds exits for OnExit, which may take its time and may call the keeper.
type exitQueue struct {
	mu    sync.Mutex
	exits []Exit
	more  chan struct{}
}

func newExitQueue() *exitQueue { return &exitQueue{more: make(chan struct{}, 1)} }

func (q *exitQueue) add(x Exit) {
	q.mu.Lock()
	q.exits = append(q.exits, x)
	q.mu.Unlock()
	select {
	case q.more <- struct{}{}:
	default:
	}
}

func (q *exitQueue) deliver(ctx context.Context, to func(Exit)) {
	for {
		q.mu.Lock()
		exits := q.exits
		q.exits = nil
		q.mu.Unlock()
		for _, x := range exits {
			if ctx.Err() != nil {
				return
			}
			if to != nil {
				to(x)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-q.more:
		}
	}
}
