package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/keeper/internal/wire"
)

// logName is where a keeper's own messages go, in the state directory.
const logName = "keeper.log"

const (
	startPatience = 10 * time.Second      // for a keeper to listen, and to say hello
	firstRetry    = 10 * time.Millisecond // between attempts to reach a keeper, doubled each time
	slowestRetry  = 2 * time.Second
)

// Options of a client.
type Options struct {
	// StateDir is the daemon's state directory, absolute: the socket, the lock and the keeper's log are in it.
	StateDir string
	// KeeperBinary is the path of shimd-keeper, which is started when no keeper runs, and which a keeper of another version is replaced by.
	KeeperBinary string
	// Version is KeeperBinary's. A running keeper that says another is upgraded in place by Connect; empty: never.
	Version string
	// OnExit gets each exit at least once, one after the other: as it happens, and those not acknowledged after each connection. It
	// may call Acknowledge. It may run before the Start of the same process has returned to its caller.
	OnExit func(Exit)
	// OnRestart is called when a keeper died and another was started: the daemon has to Adopt everything. ctx ends with Close.
	OnRestart func(ctx context.Context)
	// Logger may be nil.
	Logger *slog.Logger
}

// Client is a connection to the keeper that lasts: it is made anew when it breaks, and the keeper too.
type Client struct {
	opts   Options
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	group  sync.WaitGroup
	exits  *exitQueue
	ending sync.Mutex // held while the keeper is told to end: no new one is started meanwhile

	mu       sync.Mutex
	link     *link         // nil while there is none
	changed  chan struct{} // closed when link changes
	instance string
	version  string
}

// check that it is one.
var _ Keeper = (*Client)(nil)

// Connect reaches the keeper of a state directory, or starts one. It upgrades a keeper of another version in place; when that is
// refused it goes on with the old one as long as that one speaks the same protocol.
func Connect(ctx context.Context, opts Options) (*Client, error) {
	if !filepath.IsAbs(opts.StateDir) || !filepath.IsAbs(opts.KeeperBinary) {
		return nil, fmt.Errorf("keeper: StateDir %q and KeeperBinary %q must be absolute: %w", opts.StateDir, opts.KeeperBinary, errdefs.ErrInvalidArgument)
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Client{opts: opts, changed: make(chan struct{}), exits: newExitQueue()}
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	l, err := c.reach(ctx)
	if err == nil && opts.Version != "" && l.hello.version != opts.Version {
		l, err = c.renew(ctx, l)
	}
	if err == nil && l.hello.protocol != wire.Protocol {
		l.close()
		err = fmt.Errorf("keeper (process %d, version %s) speaks protocol %d, this daemon %d, and it cannot be upgraded: end the pods and then the keeper: %w",
			l.hello.pid, l.hello.version, l.hello.protocol, wire.Protocol, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		c.cancel()
		return nil, fmt.Errorf("connecting to the keeper: %w", err)
	}
	c.instance = l.hello.instance
	c.use(l)
	c.group.Go(func() { c.exits.deliver(c.ctx, opts.OnExit) })
	c.group.Go(c.stay)
	return c, nil
}

// Close disconnects. The keeper and all processes go on.
func (c *Client) Close() error {
	c.cancel()
	c.mu.Lock()
	l := c.link
	c.mu.Unlock()
	if l != nil {
		l.close()
	}
	c.group.Wait()
	return nil
}

// Version is what the connected keeper said it is.
func (c *Client) Version() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.version
}

// PID is the keeper's process; 0 while none is connected.
func (c *Client) PID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil {
		return 0
	}
	return c.link.hello.pid
}

func (c *Client) use(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link = l
	if l != nil {
		c.version = l.hello.version
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// stay keeps the client connected.
func (c *Client) stay() {
	for {
		c.mu.Lock()
		l := c.link
		c.mu.Unlock()
		select {
		case <-c.ctx.Done():
			l.close()
			<-l.broken
			return
		case <-l.broken:
		}
		c.use(nil)
		c.ending.Lock()
		c.ending.Unlock() //nolint:staticcheck // an end that was asked for cancels ctx before
		if c.ctx.Err() != nil {
			return
		}
		l = c.reachAgain()
		if l == nil {
			return
		}
		restarted := l.hello.instance != c.instance
		c.instance = l.hello.instance
		c.use(l)
		if restarted {
			c.opts.Logger.Error("keeper had died; a new one runs", "pid", l.hello.pid)
			if c.opts.OnRestart != nil {
				c.group.Go(func() { c.opts.OnRestart(c.ctx) })
			}
		}
	}
}

// reachAgain tries until it has a keeper, or the client is closed.
func (c *Client) reachAgain() *link {
	for wait := firstRetry; ; wait = min(2*wait, slowestRetry) {
		l, err := c.reach(c.ctx)
		if err == nil && l.hello.protocol != wire.Protocol {
			l.close()
			err = fmt.Errorf("keeper speaks protocol %d: %w", l.hello.protocol, errdefs.ErrFailedPrecondition)
		}
		if err == nil {
			return l
		}
		if c.ctx.Err() != nil {
			return nil
		}
		c.opts.Logger.Error("connecting to the keeper", "error", err, "again", wait)
		select {
		case <-c.ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// reach connects to a running keeper, or starts one.
func (c *Client) reach(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for wait := firstRetry; ; wait *= 2 {
		conn, err := wire.Dial(c.opts.StateDir)
		switch {
		case err == nil:
			return newLink(ctx, conn, c.opts.Version, c.exits)
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED):
			if err := c.spawn(ctx); err != nil {
				return nil, err
			}
		case !errors.Is(err, unix.EAGAIN): // EAGAIN: the queue of connections is full
			return nil, err
		}
		// A keeper that found the lock taken leaves the field to another, which may be about to listen, or about to end.
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("no keeper listens in %s (see %s there): %w", c.opts.StateDir, logName, errors.Join(errdefs.ErrUnavailable, err, ctx.Err()))
		case <-time.After(wait):
		}
	}
}

// spawn starts a keeper and waits until it listens, or ends. It is detached: a session of its own, no terminal, no working directory, and
// nothing but the log in common with the daemon; it outlives it. (Under systemd the daemon's unit needs KillMode=process.)
func (c *Client) spawn(ctx context.Context) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("starting the keeper: %w", err)
	}
	defer func() { _ = null.Close() }()
	log, err := os.OpenFile(filepath.Join(c.opts.StateDir, logName), os.O_CREATE|os.O_APPEND|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("opening the keeper's log: %w", err)
	}
	defer func() { _ = log.Close() }()
	ready, readyEnd, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("starting the keeper: %w", err)
	}
	defer func() { _ = ready.Close() }()
	process, err := os.StartProcess(c.opts.KeeperBinary, []string{"shimd-keeper", "--state", c.opts.StateDir, "--ready", "3"}, &os.ProcAttr{
		Dir: "/", Env: []string{}, Files: []*os.File{null, log, log, readyEnd}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	_ = readyEnd.Close()
	if err != nil {
		return fmt.Errorf("starting the keeper %s: %w", c.opts.KeeperBinary, err)
	}
	go func() { _, _ = process.Wait() }() // no zombie stays when it ends before the daemon
	stop := context.AfterFunc(ctx, func() { _ = ready.Close() })
	defer stop()
	_, _ = ready.Read(make([]byte, 1)) // a byte, or the end: then the caller finds nobody listening
	return nil
}

// renew upgrades the keeper at the other end of l.
func (c *Client) renew(ctx context.Context, l *link) (*link, error) {
	c.opts.Logger.Info("upgrading the keeper in place", "pid", l.hello.pid, "from", l.hello.version, "to", c.opts.Version)
	if err := c.upgradeLink(ctx, l); err != nil {
		c.opts.Logger.Error("keeper goes on in its old version", "error", err)
		return l, nil
	}
	return c.reach(ctx)
}

// upgradeLink asks for the upgrade; success is the end of the connection.
func (c *Client) upgradeLink(ctx context.Context, l *link) error {
	binary, err := os.Open(c.opts.KeeperBinary)
	if err != nil {
		return fmt.Errorf("upgrading the keeper: %w", err)
	}
	defer func() { _ = binary.Close() }()
	e := &wire.Encoder{}
	e.File(binary)
	_, err = l.call(ctx, wire.Upgrade, "", e, nil)
	if errors.Is(err, errBroken) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("keeper answered and did not end: %w", errdefs.ErrInternal)
	}
	return fmt.Errorf("upgrading the keeper: %w", err)
}

// Upgrade makes the keeper execute KeeperBinary in place. Processes, logs and exits go on; attachments end. It returns when the new one is connected.
func (c *Client) Upgrade(ctx context.Context) error {
	c.mu.Lock()
	l := c.link
	c.mu.Unlock()
	if l == nil {
		return errNotConnected()
	}
	if err := c.upgradeLink(ctx, l); err != nil {
		return err
	}
	for {
		c.mu.Lock()
		now, changed := c.link, c.changed
		c.mu.Unlock()
		if now != nil && now != l {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the upgraded keeper: %w", ctx.Err())
		case <-c.ctx.Done():
			return errNotConnected()
		}
	}
}
