package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/keeper/internal/wire"
)

const (
	// sendPatience is how long a client may leave its messages unread.
	sendPatience = time.Minute
	// maxRequests is how many requests of one client may be under way.
	maxRequests = 8192
)

// client is a connected daemon.
type client struct {
	server *Server
	conn   *wire.Conn

	group   sync.WaitGroup
	mu      sync.Mutex
	cancels map[uint32]context.CancelFunc
	hello   bool // under Server.mu: it gets exits
}

// talk serves a connection until it ends, then undoes what was under way for it.
func (s *Server) talk(conn *wire.Conn) {
	c := &client{server: s, conn: conn, cancels: map[uint32]context.CancelFunc{}}
	err := c.receive()
	_ = conn.Close()
	if !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		s.opts.Log.Printf("connection ended: %v", err)
	}
	c.cancelAll()
	c.group.Wait()
	s.disconnected(c)
}

// receive takes messages until the connection ends; its error says by what.
func (c *client) receive() error {
	if err := c.conn.PeerIsRoot(); err != nil {
		return err
	}
	c.server.mu.Lock()
	c.server.clients[c] = struct{}{}
	c.server.mu.Unlock()
	for {
		m, err := c.conn.Receive()
		if err != nil {
			return err
		}
		if err := c.take(m); err != nil {
			return err
		}
	}
}

// take begins to answer a message; an error ends the connection.
func (c *client) take(m wire.Message) error {
	switch m.Kind {
	case wire.Hello:
		return c.greet(m)
	case wire.Cancel:
		if err := m.Decoder().End(); err != nil {
			return err
		}
		c.mu.Lock()
		cancel := c.cancels[m.Request]
		c.mu.Unlock()
		if cancel != nil {
			cancel()
		}
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.mu.Lock()
	_, twice := c.cancels[m.Request]
	full := len(c.cancels) >= maxRequests
	if !twice && !full {
		c.cancels[m.Request] = cancel
	}
	c.mu.Unlock()
	if twice || full || !c.hello {
		cancel()
		wire.CloseAll(m.Descriptors)
		return fmt.Errorf("request %d: its number is taken, there are %d, or no hello came before: %w", m.Request, maxRequests, errdefs.ErrInvalidArgument)
	}
	c.group.Go(func() {
		then := c.answer(ctx, m)
		cancel()
		if then != nil {
			then()
		}
	})
	return nil
}

// answer handles a request and replies. What it returns is to be done after the reply.
func (c *client) answer(ctx context.Context, m wire.Message) (then func()) {
	reply, then, err := c.handle(ctx, m)
	c.mu.Lock()
	delete(c.cancels, m.Request) // before the reply: the client may use the number again
	c.mu.Unlock()
	kind := wire.Reply
	if err != nil {
		kind, reply = wire.Failure, &wire.Encoder{}
		encodeFailure(reply, err)
	}
	if reply == nil {
		reply = &wire.Encoder{}
	}
	err = c.conn.Send(kind, m.Request, reply, sendPatience)
	for _, f := range reply.Files {
		_ = f.Close()
	}
	if err != nil {
		_ = c.conn.Close()
	}
	return then
}

// encodeFailure writes a launch's operation and error number, 0 and 0 for other errors, and the error.
func encodeFailure(e *wire.Encoder, err error) {
	var launch *launchError
	if !errors.As(err, &launch) {
		launch = &launchError{}
	}
	e.Int32(launch.op)
	e.Int32(launch.errno)
	wire.EncodeError(e, err)
}

// greet answers a hello, and tells the exits that nobody has acknowledged.
func (c *client) greet(m wire.Message) error {
	d := m.Decoder()
	_, _ = d.Int32(), d.String() // the client's protocol and version: it decides whether to upgrade
	if err := d.End(); err != nil {
		return err
	}
	s := c.server
	e := &wire.Encoder{}
	e.Int32(wire.Protocol)
	e.String(s.opts.Version)
	e.String(s.instance)
	e.Int32(unix.Getpid())
	if err := c.conn.Send(wire.Reply, m.Request, e, sendPatience); err != nil {
		return err
	}
	s.mu.Lock()
	c.hello = true
	var ended []*process
	for _, p := range s.processes {
		if p.exit != nil {
			ended = append(ended, p)
		}
		if p.killOnDisconnect && p.owner == nil {
			p.owner = c // it came through an upgrade
		}
	}
	s.mu.Unlock()
	for _, p := range ended {
		c.announce(p)
	}
	return nil
}

// greeted lists the clients that get exits. Under Server.mu.
func (s *Server) greeted() []*client {
	var all []*client
	for c := range s.clients {
		if c.hello {
			all = append(all, c)
		}
	}
	return all
}

func (c *client) announce(p *process) {
	e := &wire.Encoder{}
	encodeExit(e, p.id, p.exit)
	if err := c.conn.Send(wire.Exit, 0, e, sendPatience); err != nil {
		_ = c.conn.Close() // it gets everything again when it comes back
	}
}

func encodeExit(e *wire.Encoder, id string, x *exit) {
	e.String(id)
	e.Int32(x.code)
	e.Int32(x.signal)
	e.Bool(x.unknown)
	e.Int64(x.at.UnixNano())
}

func (c *client) cancelAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cancel := range c.cancels {
		cancel()
	}
}

// disconnected ends what nobody could end any more.
func (s *Server) disconnected(c *client) {
	s.mu.Lock()
	delete(s.clients, c)
	var orphans []*process
	for _, p := range s.processes {
		if p.killOnDisconnect && p.owner == c && p.exit == nil && !p.starting && !s.leaving {
			orphans = append(orphans, p)
		}
	}
	s.mu.Unlock()
	for _, p := range orphans {
		if err := p.signal(int(unix.SIGKILL)); err != nil && !errdefs.IsNotFound(err) {
			s.opts.Log.Printf("ending %s, whose client is gone: %v", p.id, err)
		}
	}
}
