package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"github.com/shimd/shimd/keeper/internal/wire"
)

func (c *Client) call(ctx context.Context, kind wire.Kind, id string, e *wire.Encoder, sent func()) (wire.Message, error) {
	c.mu.Lock()
	l := c.link
	c.mu.Unlock()
	if l == nil {
		return wire.Message{}, errNotConnected()
	}
	m, err := l.call(ctx, kind, id, e, sent)
	if err == nil && m.Kind == wire.Failure {
		err = decodeFailure(m)
	}
	return m, err
}

// order is a call whose answer says nothing.
func (c *Client) order(ctx context.Context, kind wire.Kind, id string, e *wire.Encoder) error {
	m, err := c.call(ctx, kind, id, e, nil)
	if err != nil {
		return err
	}
	return m.Decoder().End()
}

// decodeFailure gives a *LaunchError or an error of the keeper's words and kind.
func decodeFailure(m wire.Message) error {
	d := m.Decoder()
	launch := &LaunchError{Op: d.Int32(), Errno: d.Int32()}
	err := wire.DecodeError(d)
	if derr := d.End(); derr != nil {
		return fmt.Errorf("keeper's answer: %w", derr)
	}
	if launch.Errno != 0 {
		return launch
	}
	return err
}

// Start implements Keeper.
func (c *Client) Start(ctx context.Context, req StartRequest) (Started, error) {
	if req.Program == nil {
		return Started{}, fmt.Errorf("starting %q: no Program: %w", req.ID, errdefs.ErrInvalidArgument)
	}
	e := &wire.Encoder{}
	e.String(req.ID)
	e.Bool(req.NewPIDNamespace)
	e.Bool(req.Reparents)
	e.Bool(req.KillOnDisconnect)
	e.File(req.Program)
	e.File(req.CgroupDir)
	e.Uint16(uint16(min(len(req.Files), wire.MaxDescriptors+1)))
	for _, f := range req.Files {
		e.File(f)
	}
	encodeIO(e, req.IO)
	m, err := c.call(ctx, wire.Start, req.ID, e, nil)
	if err != nil {
		return Started{}, fmt.Errorf("starting %q: %w", req.ID, err)
	}
	d := m.Decoder()
	started := Started{PID: d.Int32(), StartedAt: time.Unix(0, d.Int64()), PIDFD: d.File("pidfd of " + req.ID)}
	if err := d.End(); err != nil {
		if started.PIDFD != nil {
			_ = started.PIDFD.Close()
		}
		return Started{}, fmt.Errorf("starting %q: keeper's answer: %w", req.ID, err)
	}
	return started, nil
}

func encodeIO(e *wire.Encoder, io *IO) {
	e.Bool(io != nil)
	if io == nil {
		return
	}
	for _, f := range []*os.File{io.Stdout, io.Stderr, io.Stdin, io.Terminal, io.Log} {
		e.File(f)
	}
	e.Bool(io.StdinOnce)
	e.Int32(io.MaxLogLine)
}

// Adopt implements Keeper.
func (c *Client) Adopt(ctx context.Context, req AdoptRequest) error {
	e := &wire.Encoder{}
	e.String(req.ID)
	e.File(req.PIDFD)
	encodeIO(e, req.IO)
	return wrap("adopting", req.ID, c.order(ctx, wire.Adopt, req.ID, e))
}

// Signal implements Keeper.
func (c *Client) Signal(ctx context.Context, id string, signal int) error {
	e := &wire.Encoder{}
	e.String(id)
	e.Int32(signal)
	return wrap("signalling", id, c.order(ctx, wire.Signal, id, e))
}

// Attach implements Keeper. It closes req's files, so that each side sees the other's end.
func (c *Client) Attach(ctx context.Context, req AttachRequest) error {
	closeFiles := func() {
		for _, f := range []*os.File{req.Stdin, req.Stdout, req.Stderr} {
			if f != nil {
				_ = f.Close()
			}
		}
	}
	defer closeFiles()
	e := &wire.Encoder{}
	e.String(req.ID)
	e.File(req.Stdin)
	e.File(req.Stdout)
	e.File(req.Stderr)
	m, err := c.call(ctx, wire.Attach, req.ID, e, closeFiles)
	if err == nil {
		err = m.Decoder().End()
	}
	return wrap("attaching to", req.ID, err)
}

// Resize implements Keeper.
func (c *Client) Resize(ctx context.Context, id string, columns, rows uint16) error {
	e := &wire.Encoder{}
	e.String(id)
	e.Uint16(columns)
	e.Uint16(rows)
	return wrap("resizing the terminal of", id, c.order(ctx, wire.Resize, id, e))
}

// SetLog implements Keeper. A nil log stops logging.
func (c *Client) SetLog(ctx context.Context, id string, log *os.File) error {
	e := &wire.Encoder{}
	e.String(id)
	e.File(log)
	return wrap("setting the log of", id, c.order(ctx, wire.SetLog, id, e))
}

// Acknowledge implements Keeper.
func (c *Client) Acknowledge(ctx context.Context, id string) error {
	e := &wire.Encoder{}
	e.String(id)
	return wrap("acknowledging the exit of", id, c.order(ctx, wire.Acknowledge, id, e))
}

// Shutdown ends the keeper, for tests and for uninstalling. ErrFailedPrecondition while processes run, unless force: then they go on without a keeper.
// The client does not start a new one.
func (c *Client) Shutdown(ctx context.Context, force bool) error {
	e := &wire.Encoder{}
	e.Bool(force)
	c.ending.Lock()
	err := c.order(ctx, wire.Shutdown, "", e)
	refused := err != nil && !errors.Is(err, errBroken)
	if !refused {
		c.cancel()
	}
	c.ending.Unlock()
	if refused {
		return fmt.Errorf("ending the keeper: %w", err)
	}
	return c.Close()
}

// List implements Keeper.
func (c *Client) List(ctx context.Context) ([]Process, error) {
	var all []Process
	for after, more := "", true; more; {
		e := &wire.Encoder{}
		e.String(after)
		m, err := c.call(ctx, wire.List, "", e, nil)
		var page []Process
		if err == nil {
			page, more, err = decodePage(m)
		}
		all = append(all, page...)
		if err == nil && more && len(page) == 0 {
			err = fmt.Errorf("keeper announces more and sends nothing: %w", errdefs.ErrInternal)
		}
		if err != nil {
			for _, p := range all {
				if p.PIDFD != nil {
					_ = p.PIDFD.Close()
				}
			}
			return nil, fmt.Errorf("listing the keeper's processes: %w", err)
		}
		if len(page) > 0 {
			after = page[len(page)-1].ID
		}
	}
	return all, nil
}

func decodePage(m wire.Message) (page []Process, more bool, err error) {
	d := m.Decoder()
	more = d.Bool()
	for range d.Uint16() {
		p := Process{ID: d.String(), PID: d.Int32()}
		if d.Bool() {
			x := decodeExit(d)
			p.Exit = &x
		} else {
			p.PIDFD = d.File("pidfd of " + p.ID)
		}
		page = append(page, p)
	}
	return page, more, d.End()
}

func decodeExit(d *wire.Decoder) Exit {
	return Exit{ID: d.String(), Code: int32(d.Int32()), Signal: d.Int32(), Unknown: d.Bool(), ExitedAt: time.Unix(0, d.Int64())}
}

func wrap(doing, id string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %q: %w", doing, id, err)
}
