package runtime

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// StopContainer sends the container its stop signal, and SIGKILL when the grace period has passed. It is idempotent:
// stopping what does not run, or was never there, is success. Several may stop one container at once, each with its own patience.
func (r *Runtime) StopContainer(ctx context.Context, id ContainerID, grace time.Duration) error {
	c, err := r.findContainer(id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := r.stopContainer(ctx, c, grace); err != nil {
		return fmt.Errorf("stopping container %s: %w", c.id, err)
	}
	return nil
}

func (r *Runtime) stopContainer(ctx context.Context, c *container, grace time.Duration) error {
	if err := c.settled(ctx); err != nil {
		return err
	}
	return r.endContainer(ctx, c, grace)
}

// endContainer is stopContainer for who holds c.op: no creation or start is under way, and one that waits for c.op must not be waited for.
func (r *Runtime) endContainer(ctx context.Context, c *container, grace time.Duration) error {
	record := c.snapshot()
	if record.Phase != containerRunning {
		return nil
	}
	if grace > 0 {
		patience := c.patience(grace)
		stopSignal := unix.SignalNum(record.StopSignal)
		if stopSignal == 0 {
			stopSignal = unix.SIGTERM
		}
		if err := r.signal(ctx, c, stopSignal); err != nil {
			return err
		}
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case <-c.exited:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
	}
	if err := r.signal(ctx, c, unix.SIGKILL); err != nil {
		return err
	}
	select {
	case <-c.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("process %d has not ended after SIGKILL (is it in uninterruptible sleep, or frozen?): %w", record.Process.PID, ctx.Err())
	}
}

// patience is how long a stop waits between its signal and SIGKILL. The end is recorded first, and one that an earlier daemon recorded holds: clients ask again
// when a restart cut their stop short, and with a whole grace period each time, a container that ignores its signal would outlive every daemon that is
// restarted sooner than that. One that is past for longer than the grace period is of a stop that was given up.
func (c *container) patience(grace time.Duration) time.Duration {
	killAt := time.Now().Add(grace)
	if !c.promised.IsZero() && c.promised.Before(killAt) && time.Since(c.promised) < grace {
		return max(time.Until(c.promised), 0)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.record.Phase == containerRunning && !c.removed && (c.record.KillAt.IsZero() || killAt.Before(c.record.KillAt)) {
		c.record.KillAt = killAt
		_ = writeRecord(c.dir, c.record) // on a full disk a stop goes on, and a restart in its midst costs another grace period
	}
	return grace
}

// settled waits for a creation and a start under way: what is not yet running can't be stopped, and what is still being made would
// go on to make things in a sandbox that is taken down.
func (c *container) settled(ctx context.Context) error {
	c.mu.Lock()
	flights := []*flight{c.create, c.start}
	c.mu.Unlock()
	for _, f := range flights {
		if f == nil {
			continue
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// signal sends a signal to the container's first process. One that has just ended is success.
func (r *Runtime) signal(ctx context.Context, c *container, signal unix.Signal) error {
	c.mu.Lock()
	pidfd := c.pidfd
	var err error
	if pidfd != nil {
		// By the descriptor that the daemon holds: a stop does not wait for a keeper that is being replaced.
		err = unix.PidfdSendSignal(int(pidfd.Fd()), signal, nil, 0)
	}
	c.mu.Unlock()
	if pidfd == nil {
		err = r.keeper.Signal(ctx, string(c.id), int(signal))
	}
	if err == nil || errors.Is(err, unix.ESRCH) || errdefs.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("sending %s: %w", unix.SignalName(signal), err)
}
