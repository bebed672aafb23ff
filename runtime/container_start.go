package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/keeper"
	"github.com/shimd/shimd/launch"
)

// exitNotStarted is the exit code of a container that could not be started.
const exitNotStarted = 128

// StartContainer runs a container that was created. Starting what runs already is success, also for a client that asks again after a timeout.
func (r *Runtime) StartContainer(ctx context.Context, id ContainerID) error {
	c, err := r.findContainer(id)
	if err != nil {
		return err
	}
	start, err := r.admitStart(ctx, c)
	if err != nil {
		return err
	}
	if start == nil {
		return nil // an earlier daemon has started it
	}
	if err := start.wait(ctx); err != nil {
		return fmt.Errorf("starting container %s: %w", c.id, err)
	}
	return nil
}

// admitStart starts the container, or finds the start that did; nil when it runs and needs none.
// The sandbox is held meanwhile: one that is being stopped sees each start that was admitted, and waits for it.
func (r *Runtime) admitStart(ctx context.Context, c *container) (*flight, error) {
	c.sandbox.mu.Lock()
	defer c.sandbox.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if phase := c.sandbox.record.Phase; phase != sandboxReady {
		return nil, fmt.Errorf("starting container %s: its sandbox %s is not ready (%s): %w", c.id, c.sandbox.id, phase, errdefs.ErrFailedPrecondition)
	}
	switch {
	case c.removed:
		return nil, notFound("container", string(c.id))
	case c.record.Phase == containerExited:
		return nil, fmt.Errorf("starting container %s: it has exited, create another: %w", c.id, errdefs.ErrFailedPrecondition)
	case c.record.Phase == containerMaking:
		return nil, fmt.Errorf("starting container %s: it is still being created: %w", c.id, errdefs.ErrFailedPrecondition)
	case c.start == nil && c.record.Phase == containerRunning:
		return nil, nil
	case c.start == nil:
		c.start = takeOff(ctx, func(ctx context.Context) error {
			c.op.Lock()
			defer c.op.Unlock()
			if c.isRemoved() {
				return notFound("container", string(c.id))
			}
			return r.startContainer(ctx, c)
		})
	}
	return c.start, nil
}

// startContainer is the flow of StartContainer:
//
//  1. record the intent
//  2. prepare the launch: mounts, descriptors, program
//  3. let the keeper launch it
//  4. record it running
//
// A container that can't be started has ended: its status says why.
func (r *Runtime) startContainer(ctx context.Context, c *container) error {
	err := r.step(ctx, "container.starting", func() error {
		return c.update(func(record *containerRecord) { record.Phase = containerStarting })
	})
	var started keeper.Started
	if err == nil {
		if r.isExternal(c) {
			err = r.step(ctx, "container.launch", func() (err error) { started, err = r.startExternal(ctx, c); return err })
		} else {
			err = r.launchContainer(ctx, c, &started)
		}
	}
	if err == nil {
		err = r.step(ctx, "container.running", func() error { return r.recordRunning(c, started) })
	}
	if err != nil {
		c.mu.Lock()
		if c.pidfd == nil {
			c.pidfd = started.PIDFD // to be released with the rest
		}
		c.mu.Unlock()
		return errors.Join(err, r.recordNotStarted(ctx, c, err))
	}
	r.announce(EventStarted, c.sandbox, c)
	return nil
}

func (r *Runtime) launchContainer(ctx context.Context, c *container, started *keeper.Started) error {
	var prepared *launch.Launch
	var open opened
	defer open.close()
	err := r.step(ctx, "container.prepare", func() (err error) {
		prepared, err = r.prepareContainer(ctx, c, &open)
		return err
	})
	if err != nil {
		return err
	}
	defer prepared.Close()
	return r.step(ctx, "container.launch", func() error {
		streams, err := r.keeperEnds(c)
		if err != nil {
			return err
		}
		defer closeStreams(streams)
		if prepared.Console != nil {
			streams.Terminal = prepared.Console
		}
		*started, err = r.startProgram(ctx, string(c.id), prepared, streams, false)
		return err
	})
}

// prepareContainer makes all that the container's first process needs. What it opens for that must stay open until the keeper has started it.
func (r *Runtime) prepareContainer(ctx context.Context, c *container, open *opened) (*launch.Launch, error) {
	spec, err := c.readSpec()
	if err != nil {
		return nil, err
	}
	if c.rootfs == nil { // created by an earlier daemon
		if err := r.remount(ctx, c); err != nil {
			return nil, err
		}
	}
	in := launch.ContainerInput{
		Spec: spec, Rootfs: c.rootfs, LeanMountNS: r.lean, VisibleMountNS: r.visible,
		Terminal: c.record.Config.TTY, Mounts: c.bundle.images, TmpDir: c.dir,
		Join: make(map[specs.LinuxNamespaceType]*os.File),
	}
	for _, namespace := range spec.Linux.Namespaces {
		if namespace.Path != "" {
			in.Join[namespace.Type] = open.file(namespace.Path)
		}
	}
	if !in.Terminal {
		ends, err := containerEnds(c)
		if err != nil {
			return nil, err
		}
		in.Stdio = ends
		for _, end := range ends {
			open.closers = append(open.closers, end)
		}
	}
	if c.cgroup == nil {
		return nil, fmt.Errorf("its cgroup %s is gone: %w", c.record.Cgroup, errdefs.ErrFailedPrecondition)
	}
	entry, err := c.cgroup.Entry()
	if err != nil {
		return nil, fmt.Errorf("opening the cgroup: %w", err)
	}
	open.closers = append(open.closers, entry)
	in.CgroupTasks, in.CgroupDir = entry.Tasks, entry.Dir
	if in.Seccomp, err = r.filter(spec); err != nil {
		return nil, err
	}
	if open.err != nil {
		return nil, fmt.Errorf("opening the sandbox's namespaces: %w", open.err)
	}
	if joined := in.Join[specs.PIDNamespace]; joined != nil {
		proc, err := sharedProc(c.sandbox, joined)
		if err != nil {
			return nil, err
		}
		if proc != nil {
			open.closers = append(open.closers, proc)
			in.Proc = proc
		}
	}
	return launch.PrepareContainer(ctx, in)
}

// filter compiles the spec's seccomp profile; nil when it has none.
func (r *Runtime) filter(spec *specs.Spec) ([]byte, error) {
	if spec.Linux.Seccomp == nil {
		return nil, nil
	}
	filter, err := r.filters.Compile(spec.Linux.Seccomp)
	if err != nil {
		return nil, fmt.Errorf("compiling the seccomp profile: %w", err)
	}
	return filter.Program, nil
}

// remount mounts again what a restart of the daemon has lost between Create and Start.
func (r *Runtime) remount(ctx context.Context, c *container) error {
	if err := r.mountRootfs(ctx, c); err != nil {
		return err
	}
	_, err := r.mountImageVolumes(ctx, c, c.record.Config.Mounts)
	return err
}

func (r *Runtime) recordRunning(c *container, started keeper.Started) error {
	process, err := identify(started.PID)
	if err != nil {
		process = processIdentity{PID: started.PID} // it has ended already: its exit is on the way
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.record.Phase = containerRunning
	c.record.Process = process
	c.record.StartedAt = started.StartedAt
	c.pidfd = started.PIDFD
	if c.rootfs != nil {
		c.rootfs.Close() // the container has it
		c.rootfs = nil
	}
	c.bundle.close()
	return writeRecord(c.dir, c.record)
}

// recordNotStarted settles a start that failed. Whatever runs in spite of it is killed, also what a keeper that was killed had no time to tell of.
func (r *Runtime) recordNotStarted(ctx context.Context, c *container, cause error) error {
	ctx, cancel := teardown(ctx)
	defer cancel()
	err := r.keeper.Signal(ctx, string(c.id), int(unix.SIGKILL))
	if err != nil && !errdefs.IsNotFound(err) {
		r.Logger.Warn("killing a container whose start failed", "container", c.id, "error", err)
	}
	c.mu.Lock()
	r.killLeftBehind(c)
	c.record.Phase = containerExited
	c.record.FinishedAt = time.Now()
	c.record.StartedAt = c.record.FinishedAt
	c.record.ExitCode = exitNotStarted
	c.record.Reason = "StartError"
	c.record.Message = cause.Error()
	err = writeRecord(c.dir, c.record)
	c.mu.Unlock()
	c.release()
	close(c.exited)
	r.announce(EventStopped, c.sandbox, c)
	return err
}

// opened collects descriptors that are closed together.
type opened struct {
	closers []io.Closer
	err     error
}

func (o *opened) file(path string) *os.File {
	file, err := os.Open(path)
	if err != nil {
		o.err = errors.Join(o.err, err)
		return nil
	}
	o.closers = append(o.closers, file)
	return file
}

func (o *opened) close() {
	for _, closer := range o.closers {
		closer.Close()
	}
}
