package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/keeper"
	"github.com/shimd/shimd/launch"
	"github.com/shimd/shimd/runtime/ocispec"
)

// execSession is one command in a container. Its streams are pipes, or a terminal of the container's, between it and the daemon:
// the keeper is its parent and no more.
type execSession struct {
	id      string
	tty     bool
	streams Streams

	child    [3]*os.File // the command's ends
	stdin    *os.File    // the daemon's ends
	stdout   *os.File
	stderr   *os.File
	terminal *os.File

	output sync.WaitGroup
	pidfd  *os.File // of the command, from its launch on
}

// open makes the pipes. With a terminal, package launch makes it in the container.
func (e *execSession) open() error {
	if e.tty {
		return nil
	}
	pairs := []struct {
		child, daemon **os.File
		wanted        bool
		childReads    bool
	}{
		{&e.child[0], &e.stdin, e.streams.Stdin != nil, true},
		{&e.child[1], &e.stdout, e.streams.Stdout != nil, false},
		{&e.child[2], &e.stderr, e.streams.Stderr != nil, false},
	}
	for _, pair := range pairs {
		if !pair.wanted {
			null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
			if err != nil {
				return err
			}
			*pair.child = null
			continue
		}
		reader, writer, err := os.Pipe()
		if err != nil {
			return fmt.Errorf("making a pipe for the command: %w", err)
		}
		if pair.childReads {
			*pair.child, *pair.daemon = reader, writer
		} else {
			*pair.child, *pair.daemon = writer, reader
		}
	}
	return nil
}

// launched closes the command's ends in the daemon, once the command has its own.
func (e *execSession) launched() {
	closeAll(e.child[:]...)
	e.child = [3]*os.File{}
}

// pump starts to copy between the command and the client.
func (e *execSession) pump() {
	in, out := e.stdin, e.stdout
	if e.terminal != nil {
		in, out = e.terminal, e.terminal
		if e.streams.Resize != nil {
			go e.resize()
		}
	}
	if e.streams.Stdin != nil && in != nil {
		go func() {
			// Ends with the client's stdin, or when the session is closed. A terminal stays open: it has its own end of file.
			_, _ = io.Copy(in, e.streams.Stdin)
			if e.terminal == nil {
				in.Close()
			}
		}()
	}
	e.copyOutput(e.streams.Stdout, out)
	e.copyOutput(e.streams.Stderr, e.stderr)
}

func (e *execSession) copyOutput(to io.Writer, from *os.File) {
	if to == nil || from == nil {
		return
	}
	e.output.Go(func() {
		_, err := io.Copy(to, from)
		if errors.Is(err, os.ErrDeadlineExceeded) { // the command has ended
			_ = from.SetReadDeadline(time.Time{})
			copyWhatIsThere(to, from)
			return
		}
		if err != nil {
			// The client is gone, or the terminal has ended: the command must not block on a full pipe.
			_, _ = io.Copy(io.Discard, from)
		}
	})
}

// drain hands on what the command wrote before it ended. It does not wait for what its children, left in the background, may write later.
func (e *execSession) drain() {
	for _, file := range []*os.File{e.stdout, e.stderr, e.terminal} {
		if file != nil {
			_ = file.SetReadDeadline(time.Unix(1, 0)) // wakes the copies
		}
	}
	e.output.Wait()
}

// copyWhatIsThere copies what can be read without waiting.
func copyWhatIsThere(to io.Writer, from *os.File) {
	conn, err := from.SyscallConn()
	if err != nil {
		return
	}
	buffer := make([]byte, 32<<10)
	for {
		n := 0
		readErr := conn.Read(func(fd uintptr) bool {
			n, err = unix.Read(int(fd), buffer)
			return true
		})
		if readErr != nil || err != nil || n <= 0 {
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// duplicateTerminal makes another descriptor of a terminal's master, one that the poller can wait for.
func duplicateTerminal(master *os.File) (*os.File, error) {
	if err := unix.SetNonblock(int(master.Fd()), true); err != nil {
		return nil, fmt.Errorf("taking the terminal: %w", err)
	}
	return duplicate(master)
}

func duplicate(file *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicating a descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), file.Name()), nil
}

func (e *execSession) resize() {
	for size := range e.streams.Resize {
		conn, err := e.terminal.SyscallConn() // not by Fd, which would make reads of the terminal block for ever
		if err != nil {
			return
		}
		_ = conn.Control(func(fd uintptr) {
			_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: size.Columns, Row: size.Rows})
		})
	}
}

func (e *execSession) close() {
	closeAll(e.child[:]...)
	closeAll(e.stdin, e.stdout, e.stderr, e.terminal, e.pidfd)
}

// launchExec starts the command.
func (r *Runtime) launchExec(ctx context.Context, c *container, e *execSession, cmd []string) error {
	if err := e.open(); err != nil {
		return err
	}
	defer e.launched()
	if r.isExternal(c) {
		return r.execExternal(ctx, c, e, cmd)
	}
	var open opened
	defer open.close()
	prepared, err := r.prepareExec(ctx, c, e, cmd, &open)
	if err != nil {
		return err
	}
	defer prepared.Close()
	if prepared.Console != nil {
		if e.terminal, err = duplicateTerminal(prepared.Console); err != nil {
			return err
		}
	}
	started, err := r.startProgram(ctx, e.id, prepared, nil, true)
	if err != nil {
		return err
	}
	r.holdExec(e, started.PIDFD)
	return nil
}

func (r *Runtime) prepareExec(ctx context.Context, c *container, e *execSession, cmd []string, open *opened) (*launch.Launch, error) {
	spec, err := c.readSpec()
	if err != nil {
		return nil, err
	}
	process, err := ocispec.ExecProcess(spec, cmd, e.tty)
	if err != nil {
		return nil, err
	}
	in := launch.ExecInput{Process: process, Spec: spec, Stdio: e.child, Terminal: e.tty, TmpDir: c.dir}
	c.mu.Lock()
	in.PID = c.record.Process.PID
	cgroup := c.cgroup
	if c.pidfd != nil {
		in.PIDFD, err = duplicate(c.pidfd)
	}
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if in.PIDFD == nil || cgroup == nil {
		return nil, fmt.Errorf("the container has just ended: %w", errdefs.ErrFailedPrecondition)
	}
	open.closers = append(open.closers, in.PIDFD)
	entry, err := cgroup.Entry()
	if err != nil {
		return nil, fmt.Errorf("opening the cgroup: %w", err)
	}
	open.closers = append(open.closers, entry)
	in.CgroupTasks, in.CgroupDir = entry.Tasks, entry.Dir
	if in.Seccomp, err = r.filter(spec); err != nil {
		return nil, err
	}
	return launch.PrepareExec(ctx, in)
}

// startProgram hands a prepared launch to the keeper.
func (r *Runtime) startProgram(ctx context.Context, id string, prepared *launch.Launch, streams *keeper.IO, killOnDisconnect bool) (keeper.Started, error) {
	started, err := r.keeper.Start(ctx, keeper.StartRequest{
		ID:               id,
		Program:          prepared.Executable,
		Files:            prepared.Files,
		CgroupDir:        prepared.CgroupDir,
		NewPIDNamespace:  prepared.NewPIDNamespace,
		Reparents:        prepared.Reparents,
		IO:               streams,
		KillOnDisconnect: killOnDisconnect,
	})
	var failed *keeper.LaunchError
	if errors.As(err, &failed) {
		return started, prepared.Describe(failed.Op, failed.Errno)
	}
	return started, err
}
