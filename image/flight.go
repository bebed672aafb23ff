package image

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
)

var errClosed = fmt.Errorf("the image store is being closed: %w", errdefs.ErrUnavailable)

// flights does the same work once for all who want it at the same time. The work ends early only when all of them have given up.
type flights[T any] struct {
	mu     sync.Mutex
	closed bool
	byKey  map[string]*flight[T]

	running sync.WaitGroup
}

type flight[T any] struct {
	cancel  context.CancelCauseFunc
	waiters int
	done    chan struct{}
	value   T
	err     error
	drop    func(T)
}

// do joins the work under key or starts it. take is called with the value while it is sure to be there; drop once nobody wants it any more. joined says that somebody else
// had started it.
func (g *flights[T]) do(ctx context.Context, key string, work func(context.Context) (T, error), take, drop func(T)) (joined bool, err error) {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return false, errClosed
	}
	f, joined := g.byKey[key]
	if !joined {
		// Values (tracing) of the first one who wants it, but not its end.
		workCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
		f = &flight[T]{cancel: cancel, done: make(chan struct{}), drop: drop}
		if g.byKey == nil {
			g.byKey = map[string]*flight[T]{}
		}
		g.byKey[key] = f
		g.running.Go(func() { g.run(workCtx, key, f, work) })
	}
	f.waiters++
	g.mu.Unlock()

	select {
	case <-f.done:
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	f.waiters--
	select {
	case <-f.done:
		if f.err == nil {
			take(f.value)
			if f.waiters == 0 && f.drop != nil {
				f.drop(f.value)
			}
		}
		return joined, f.err
	default:
	}
	if f.waiters == 0 {
		f.cancel(context.Cause(ctx))
		g.forget(key, f)
	}
	return joined, context.Cause(ctx)
}

func (g *flights[T]) run(ctx context.Context, key string, f *flight[T], work func(context.Context) (T, error)) {
	value, err := work(ctx)
	g.mu.Lock()
	defer g.mu.Unlock()
	f.value, f.err = value, err
	g.forget(key, f)
	close(f.done)
	if f.waiters == 0 && err == nil && f.drop != nil {
		f.drop(value)
	}
	f.cancel(nil)
}

// forget lets the next one who wants it start anew. mu is held.
func (g *flights[T]) forget(key string, f *flight[T]) {
	if g.byKey[key] == f {
		delete(g.byKey, key)
	}
}

// cancelAll ends all work, lets none begin, and returns when nothing runs any more.
func (g *flights[T]) cancelAll() {
	g.mu.Lock()
	g.closed = true
	for _, f := range g.byKey {
		f.cancel(errClosed)
	}
	g.mu.Unlock()
	g.running.Wait()
}
