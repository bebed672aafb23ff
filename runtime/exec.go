package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/keeper"
)

// execOutputLimit is how much of each stream ExecSync keeps (CVE-2022-1708, CVE-2022-31030). It is read to its end all the same.
const execOutputLimit = 16 << 20

// ExecSync runs a command in the container to its end.
func (r *Runtime) ExecSync(ctx context.Context, id ContainerID, cmd []string, timeout time.Duration) (stdout, stderr []byte, exitCode int32, err error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	out, errOut := &boundedBuffer{limit: execOutputLimit}, &boundedBuffer{limit: execOutputLimit}
	exitCode, err = r.Exec(ctx, id, cmd, false, Streams{Stdout: out, Stderr: errOut})
	if err != nil && timeout > 0 && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("command %q timed out after %s and was killed: %w", cmd, timeout, context.DeadlineExceeded)
	}
	return out.Bytes(), errOut.Bytes(), exitCode, err
}

// Exec runs a command in the container on the client's streams, until it ends or ctx does, which kills it.
func (r *Runtime) Exec(ctx context.Context, id ContainerID, cmd []string, tty bool, streams Streams) (exitCode int32, err error) {
	c, err := r.findContainer(id)
	if err != nil {
		return 0, err
	}
	if len(cmd) == 0 {
		return 0, fmt.Errorf("exec in container %s: no command given: %w", c.id, errdefs.ErrInvalidArgument)
	}
	if phase := c.snapshot().Phase; phase != containerRunning {
		return 0, fmt.Errorf("exec in container %s: it is not running (%s): %w", c.id, phase, errdefs.ErrFailedPrecondition)
	}
	session := &execSession{id: "exec-" + newID(), streams: streams, tty: tty}
	defer session.close()
	exits := r.expectExit(session.id)
	err = r.step(ctx, "exec.launch", func() error { return r.launchExec(ctx, c, session, cmd) })
	if err != nil {
		r.forgetExit(session.id)
		return 0, fmt.Errorf("exec in container %s: %w", c.id, err)
	}
	session.pump()
	select {
	case exit := <-exits:
		session.drain()
		return exit.Code, nil
	case <-ctx.Done():
	}
	if err := r.keeper.Signal(context.WithoutCancel(ctx), session.id, int(unix.SIGKILL)); err != nil && !errdefs.IsNotFound(err) {
		return 0, fmt.Errorf("killing command %q in container %s: %w", cmd, c.id, err)
	}
	<-exits
	session.drain()
	return 0, ctx.Err()
}

// expectExit registers for the exit of a process that is not a container.
func (r *Runtime) expectExit(id string) <-chan keeper.Exit {
	exits := make(chan keeper.Exit, 1)
	r.execMu.Lock()
	defer r.execMu.Unlock()
	r.execs[id] = exits
	return exits
}

func (r *Runtime) forgetExit(id string) {
	r.execMu.Lock()
	defer r.execMu.Unlock()
	delete(r.execs, id)
}

// boundedBuffer keeps the first bytes written to it and swallows the rest.
type boundedBuffer struct {
	bytes.Buffer
	limit int
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if room := b.limit - b.Len(); room < len(p) {
		b.Buffer.Write(p[:max(room, 0)])
		return len(p), nil
	}
	return b.Buffer.Write(p)
}

func (b *boundedBuffer) Close() error { return nil }
