package runtime

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/shimd/shimd/keeper"
)

// An external OCI runtime (runc, crun, ...) makes the container from the same spec that the built-in one is launched from. Around it all is
// the same: the container's directory is the bundle, its cgroup is made and measured by package cgroups, and the keeper is its parent.
//
//	daemon ──create, exec──> keeper ──> runc (ends) ──> init, an orphan then, which comes to the keeper as the subreaper
//	daemon ──start, state, delete──> runc
//
// There is no shim. The daemon opens the container's process by the pid file and lets the keeper adopt it, which waits for it as for its own: the exit
// status is right even if the process ends before that, because the keeper lets an unknown child stay a zombie for some time.
//
// That no container overwrites the runtime's binary through /proc/self/exe is the runtime's own doing (CVE-2019-5736): runc since 1.0-rc7 and crun since 0.9 run from a
// sealed copy. What the keeper starts before is a launch program, which holds nothing of the host's.

// isExternal tells whether an external OCI runtime runs the container.
func (r *Runtime) isExternal(c *container) bool {
	return c.sandbox.snapshot().Config.RuntimeHandler != ""
}

// rootfsPath is relative to the bundle.
func (r *Runtime) rootfsPath(*container) string { return rootfsName }

// ociCgroupPath is linux.cgroupsPath: always in the form of the cgroupfs driver. With the systemd driver too, the cgroup is there before the runtime
// comes: a slice, not a scope (package cgroups says why), which the runtime would only make another unit in.
func (r *Runtime) ociCgroupPath(c *container, s sandboxRecord) string {
	return string(r.Cgroups.ContainerPath(s.Cgroup, string(c.id)))
}

// imageVolumeSource names the source of an image volume in the spec. The built-in runtime takes the descriptor instead. For an
// external one it is attached there at Start, until the container is removed.
func (r *Runtime) imageVolumeSource(c *container, number int, _ *os.File) (string, error) {
	return filepath.Join(c.dir, imagePrefix+strconv.Itoa(number)), nil
}

// runtimeRoot is where the container's OCI runtime keeps its state.
func (r *Runtime) runtimeRoot(c *container) string {
	return filepath.Join(r.State, "oci", c.sandbox.snapshot().Config.RuntimeHandler)
}

// startExternal is the start of a container by its external OCI runtime:
//
//  1. attach the root file system and the image volumes to the bundle
//  2. let the runtime create the container, as a child of the keeper
//  3. give its process and its streams to the keeper
//  4. let the runtime start it
//
// What fails is undone by the runtime's delete.
func (r *Runtime) startExternal(ctx context.Context, c *container) (started keeper.Started, err error) {
	defer func() {
		if err == nil {
			return
		}
		closeAll(started.PIDFD)
		ctx, cancel := teardown(ctx)
		defer cancel()
		if undo := r.deleteExternal(ctx, c); undo != nil {
			r.Logger.Warn("undoing a start: removing the container will do it", "container", c.id, "error", undo)
		}
	}()
	if err := r.step(ctx, "external.attach", func() error { return r.attachBundle(ctx, c) }); err != nil {
		return started, err
	}
	if err := r.step(ctx, "external.create", func() (err error) { started, err = r.createExternal(ctx, c); return err }); err != nil {
		return started, err
	}
	// A daemon that finds this after a crash knows which process it is.
	process, err := identify(started.PID)
	if err != nil {
		return started, fmt.Errorf("the OCI runtime's process has ended before it was started: %w", err)
	}
	if err := c.update(func(record *containerRecord) { record.Process = process }); err != nil {
		return started, err
	}
	return started, r.step(ctx, "external.start", func() error { return r.runtimeStart(ctx, c) })
}

// createExternal runs the runtime's create and has the keeper adopt the process that it leaves.
func (r *Runtime) createExternal(ctx context.Context, c *container) (keeper.Started, error) {
	command, err := r.newCommand(c)
	if err != nil {
		return keeper.Started{}, err
	}
	defer command.close()
	stdio, streams, err := r.bothEnds(c)
	if err != nil {
		return keeper.Started{}, err
	}
	defer closeAll(stdio[:]...)
	defer closeStreams(streams)
	args := []string{"create", "--bundle", c.dir, "--pid-file", command.pidFile()}
	if c.record.Config.TTY {
		console, err := r.newConsole()
		if err != nil {
			return keeper.Started{}, err
		}
		defer console.close()
		if err := command.runBelowKeeper(ctx, stdio, append(args, "--console-socket", console.path, string(c.id))...); err != nil {
			return keeper.Started{}, err
		}
		if streams.Terminal, err = console.receive(); err != nil {
			return keeper.Started{}, err
		}
	} else if err := command.runBelowKeeper(ctx, stdio, append(args, string(c.id))...); err != nil {
		return keeper.Started{}, err
	}
	started, err := command.process()
	if err != nil {
		return started, err
	}
	err = r.step(ctx, "external.adopt", func() error {
		return r.keeper.Adopt(ctx, keeper.AdoptRequest{ID: string(c.id), PIDFD: started.PIDFD, IO: streams})
	})
	if err != nil {
		return started, fmt.Errorf("giving the container to the keeper: %w", err)
	}
	return started, nil
}

// bothEnds opens the container's streams: its own ends first, because a FIFO takes no writer before there is a reader.
func (r *Runtime) bothEnds(c *container) (stdio [3]*os.File, streams *keeper.IO, err error) {
	if c.record.Config.TTY {
		stdio, err = nullStdio()
	} else {
		stdio, err = containerEnds(c)
	}
	if err != nil {
		return stdio, nil, err
	}
	if streams, err = r.keeperEnds(c); err != nil {
		closeAll(stdio[:]...)
	}
	return stdio, streams, err
}

// nullStdio is for commands that give their process a terminal.
func nullStdio() (stdio [3]*os.File, err error) {
	for i := range stdio {
		if stdio[i], err = os.OpenFile("/dev/null", os.O_RDWR, 0); err != nil {
			closeAll(stdio[:]...)
			return stdio, err
		}
	}
	return stdio, nil
}

// runtimeStart lets the runtime execute the container's command.
func (r *Runtime) runtimeStart(ctx context.Context, c *container) error {
	command, err := r.newCommand(c)
	if err != nil {
		return err
	}
	defer command.close()
	_, err = command.run(ctx, "start", string(c.id))
	return err
}
