package server

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/containerd/errdefs"
)

// pumpSize is how much of a client's stdin is read at once.
const pumpSize = 32 << 10

// attachRequest owns its files; nil stands for none.
type attachRequest struct {
	id                    string
	stdin, stdout, stderr *os.File
}

func (r *attachRequest) close() {
	for _, f := range []*os.File{r.stdin, r.stdout, r.stderr} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// session is an attached client. Everything it made is gone when attach returns (CVE-2022-23471 was a goroutine that stayed).
type session struct {
	streams *streams
	taps    []*tap
	outputs []*output // of the taps, one by one
	over    chan bool // a tap has ended: true when it showed everything
	group   sync.WaitGroup
}

// attach connects a client's streams: 1. the outputs, 2. stdin, 3. wait for an end, 4. undo all of it.
func (s *Server) attach(ctx context.Context, r attachRequest) error {
	defer r.close()
	p, err := s.find(r.id)
	if err != nil {
		return err
	}
	if p.streams == nil {
		return fmt.Errorf("streams of process %q are not kept here: %w", r.id, errdefs.ErrFailedPrecondition)
	}
	a := &session{streams: p.streams, over: make(chan bool, 2)}
	open := a.tap(r.stdout, "stdout")
	open = a.tap(r.stderr, "stderr") || open
	input, err := a.input(r.stdin)
	if err != nil {
		a.undo(r, nil)
		return err
	}
	stdinEnded := make(chan struct{})
	if input != nil {
		a.group.Go(func() {
			defer close(stdinEnded)
			pump(input, r.stdin)
			_ = input.Close()
			_ = r.stdin.Close() // the client's next write fails, instead of waiting for a reader
			if p.streams.stdinOnce && p.streams.terminal == nil {
				p.streams.closeStdin()
			}
		})
	}
	a.wait(ctx, open, input != nil, stdinEnded)
	a.undo(r, input)
	if ctx.Err() != nil {
		return fmt.Errorf("attachment to process %q was given up: %w", r.id, ctx.Err())
	}
	return nil
}

// tap shows an output to file; false when there is nothing to show.
func (a *session) tap(file *os.File, stream string) bool {
	if file == nil {
		return false
	}
	for _, o := range a.streams.outputs {
		if o.name != stream {
			continue
		}
		t := newTap(file)
		if !o.attach(t) {
			return false
		}
		a.taps, a.outputs = append(a.taps, t), append(a.outputs, o)
		a.group.Go(func() {
			t.run()
			a.over <- t.complete()
		})
		a.group.Go(t.watchGone)
		return true
	}
	return false
}

func (a *session) input(stdin *os.File) (*os.File, error) {
	if stdin == nil {
		return nil, nil
	}
	select {
	case <-a.streams.settled:
		return nil, nil
	default:
		return a.streams.input()
	}
}

// wait returns when all outputs have ended, or one of the client's ends is closed, or the client gives up. Without outputs, stdin's end counts.
func (a *session) wait(ctx context.Context, outputs, stdin bool, stdinEnded <-chan struct{}) {
	if !outputs {
		if stdin {
			select {
			case <-stdinEnded:
			case <-a.streams.settled:
			case <-ctx.Done():
			}
		}
		return
	}
	for range a.taps {
		select {
		case complete := <-a.over:
			if !complete {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

func (a *session) undo(r attachRequest, input *os.File) {
	for i, t := range a.taps {
		a.outputs[i].detach(t)
	}
	if input != nil {
		_ = input.Close()
	}
	r.close()
	a.group.Wait()
}

// pump copies until one end is closed. It holds a buffer only while there is something to copy.
func pump(to, from *os.File) {
	raw, err := from.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		buf := make([]byte, pumpSize)
		for {
			n, err := readSome(int(fd), buf)
			if wouldBlock(err) {
				return false
			}
			if err != nil || n == 0 {
				return true
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return true
			}
		}
	})
}
