package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
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
	defer r.forgetExit(session.id)
	err = r.step(ctx, "exec.launch", func() error { return r.launchExec(ctx, c, session, cmd) })
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", c.id, err)
	}
	session.pump()
	select {
	case exit := <-exits:
		if exit.Unknown {
			_ = r.killExec(session) // what nobody waits for must not run on
		}
		session.drain()
		return exit.Code, nil
	case <-ctx.Done():
	}
	if err := r.killExec(session); err != nil {
		return 0, fmt.Errorf("killing command %q in container %s: %w", cmd, c.id, err)
	}
	<-exits
	session.drain()
	return 0, ctx.Err()
}

// awaited is a process that is not a container and whose exit somebody waits for.
type awaited struct {
	exits chan keeper.Exit // gets one
	pidfd *os.File         // nil while it is not known
}

// expectExit registers for the exit of a process that is not a container.
func (r *Runtime) expectExit(id string) <-chan keeper.Exit {
	exits := make(chan keeper.Exit, 1)
	r.execMu.Lock()
	defer r.execMu.Unlock()
	r.execs[id] = &awaited{exits: exits}
	return exits
}

// holdExec keeps the session's process: what ends the command does not need the keeper then, and what replaces a killed keeper can be given it.
func (r *Runtime) holdExec(e *execSession, pidfd *os.File) {
	e.pidfd = pidfd
	r.execMu.Lock()
	defer r.execMu.Unlock()
	if waiter := r.execs[e.id]; waiter != nil {
		waiter.pidfd = pidfd
	}
}

func (r *Runtime) forgetExit(id string) {
	r.execMu.Lock()
	defer r.execMu.Unlock()
	delete(r.execs, id)
}

// signalProcessGroup is PIDFD_SIGNAL_PROCESS_GROUP, of Linux 6.9.
const signalProcessGroup = 1 << 2

// killExec ends the session's command, and what it has started in its process group, of which every command is the leader. (Kernels before 6.9
// can't name the group beyond the reuse of its number: there it is the command alone.) One that has ended is success.
func (r *Runtime) killExec(e *execSession) error {
	if e.pidfd == nil {
		ctx, cancel := teardown(context.Background())
		defer cancel()
		if err := r.keeper.Signal(ctx, e.id, int(unix.SIGKILL)); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		return nil
	}
	err := unix.PidfdSendSignal(int(e.pidfd.Fd()), unix.SIGKILL, nil, signalProcessGroup)
	if err != nil {
		err = unix.PidfdSendSignal(int(e.pidfd.Fd()), unix.SIGKILL, nil, 0)
	}
	if err != nil && err != unix.ESRCH {
		return err
	}
	return nil
}

// adoptExecs gives the commands that a killed keeper has started to the new one: their streams never went through either. Those
// whose process the daemon does not hold have ended, as far as it knows.
func (r *Runtime) adoptExecs(ctx context.Context) {
	r.execMu.Lock()
	pidfds := make(map[string]*os.File, len(r.execs))
	for id, waiter := range r.execs {
		pidfds[id] = waiter.pidfd
	}
	r.execMu.Unlock()
	for id, pidfd := range pidfds {
		err := errors.New("its process is not known")
		if pidfd != nil {
			err = r.keeper.Adopt(ctx, keeper.AdoptRequest{ID: id, PIDFD: pidfd})
		}
		if err != nil {
			r.Logger.Warn("a command has lost its keeper", "id", id, "error", err)
			r.OnExit(keeper.Exit{ID: id, Code: exitUnknown, Unknown: true, ExitedAt: time.Now()})
		}
	}
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
