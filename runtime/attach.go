package runtime

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/shimd/shimd/keeper"
)

// Attach connects the client's streams to a running container's, until they have ended or the client has.
// The keeper copies: it has the container's ends, and a pipe to the daemon for each stream.
func (r *Runtime) Attach(ctx context.Context, id ContainerID, streams Streams) error {
	c, err := r.findContainer(id)
	if err != nil {
		return err
	}
	record := c.snapshot()
	if record.Phase != containerRunning {
		return fmt.Errorf("attaching to container %s: it is not running (%s): %w", c.id, record.Phase, errdefs.ErrFailedPrecondition)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var pipes attachPipes
	defer pipes.close()
	req := keeper.AttachRequest{ID: string(c.id)}
	if streams.Stdin != nil && record.Config.Stdin {
		req.Stdin = pipes.input(streams.Stdin)
	}
	req.Stdout = pipes.output(streams.Stdout)
	if !record.Config.TTY {
		req.Stderr = pipes.output(streams.Stderr)
	}
	if pipes.err != nil {
		closeAll(req.Stdin, req.Stdout, req.Stderr)
		return fmt.Errorf("attaching to container %s: %w", c.id, pipes.err)
	}
	if streams.Resize != nil && record.Config.TTY {
		go r.resizeUntil(ctx, c, streams.Resize)
	}
	err = r.keeper.Attach(ctx, req)
	pipes.copies.Wait()
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("attaching to container %s: %w", c.id, err)
	}
	return nil
}

func (r *Runtime) resizeUntil(ctx context.Context, c *container, sizes <-chan TerminalSize) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			if err := r.keeper.Resize(ctx, string(c.id), size.Columns, size.Rows); err != nil {
				r.Logger.Debug("resizing a terminal", "container", c.id, "error", err)
			}
		}
	}
}

// attachPipes are the daemon's ends between a client and the keeper.
type attachPipes struct {
	err    error
	inputs []*os.File
	copies sync.WaitGroup // of the output
}

// output answers the keeper's end of a pipe to the client; nil when the client does not want the stream.
func (p *attachPipes) output(client io.WriteCloser) *os.File {
	if client == nil || p.err != nil {
		return nil
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		p.err = err
		return nil
	}
	p.copies.Go(func() {
		defer reader.Close() // a client that is gone: the keeper sees it by this
		_, _ = io.Copy(client, reader)
	})
	return writer
}

// input answers the keeper's end of a pipe from the client. The copy ends with the client's stdin, or when the keeper's end has closed.
func (p *attachPipes) input(client io.Reader) *os.File {
	reader, writer, err := os.Pipe()
	if err != nil {
		p.err = err
		return nil
	}
	p.inputs = append(p.inputs, writer)
	go func() {
		_, _ = io.Copy(writer, client)
		writer.Close()
	}()
	return reader
}

func (p *attachPipes) close() { closeAll(p.inputs...) }
