package runtime

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
)

const (
	// flowTimeout bounds a flow that goes on after its client has given up.
	flowTimeout = 4 * time.Minute
	// teardownTimeout bounds a rollback or a removal, which must not end with the client's context.
	teardownTimeout = 2 * time.Minute
)

// flight is one run of a flow. It outlives the client that asked for it: a client that gives up and asks again
// waits for the same flight, so that nothing is made twice and no name stays reserved.
type flight struct {
	done chan struct{}
	err  error // set before done is closed
	// undoes tells that the flight takes away what an earlier one has left half-made: the request itself is to be admitted again after it.
	undoes bool
}

// takeOff runs flow in a goroutine of its own. The flow keeps the values of ctx, but neither its deadline nor its cancellation.
func takeOff(ctx context.Context, flow func(context.Context) error) *flight {
	f := &flight{done: make(chan struct{})}
	go func() {
		defer close(f.done)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flowTimeout)
		defer cancel()
		f.err = flow(ctx)
	}()
	return f
}

// wait waits for the flight to end, or for the client to give up.
func (f *flight) wait(ctx context.Context) error {
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return fmt.Errorf("it is still under way, ask again with the same request: %w", ctx.Err())
	}
}

// step runs one step of a flow: it is timed, and tests can make it fail or end the process there.
func (r *Runtime) step(ctx context.Context, name string, do func() error) error {
	if r.Fault != nil {
		if err := r.Fault(name); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	begin := time.Now()
	err := do()
	if r.Observe != nil {
		r.Observe(ctx, name, begin, err)
	}
	return err
}

// teardown gives a rollback time of its own.
func teardown(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), teardownTimeout)
}

func notFound(kind, id string) error {
	return fmt.Errorf("%s %q does not exist: %w", kind, id, errdefs.ErrNotFound)
}
