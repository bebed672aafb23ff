package runtime

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/shimd/shimd/keeper"
)

// settleExternalStart settles a container whose daemon has ended in the middle of its start by an external runtime. The built-in runtime has no such
// middle: there the keeper has the process, or there is none.
//
//	the runtime says │ the keeper has its process │ it has not
//	─────────────────┼────────────────────────────┼─────────────────────
//	created          │ start it                   │ take it down: exited
//	running          │ it runs                    │ adopt it
//	anything else    │ take it down: exited       │ take it down: exited
func (r *Runtime) settleExternalStart(ctx context.Context, c *container, process keeper.Process, found bool) error {
	status, err := r.runtimeState(ctx, c)
	switch {
	case err == nil && status == "created" && found:
		if err = r.runtimeStart(ctx, c); err == nil {
			return r.readopt(ctx, c, process)
		}
	case err == nil && status == "running" && found:
		return r.readopt(ctx, c, process)
	case err == nil && status == "running":
		if err = c.update(func(record *containerRecord) { record.Phase = containerRunning }); err != nil {
			return err
		}
		return r.adoptOrphan(ctx, c)
	}
	if process.PIDFD != nil {
		process.PIDFD.Close()
	}
	cause := errors.New("the daemon ended while the container was being started")
	if err != nil && !errdefs.IsNotFound(err) {
		cause = errors.Join(cause, err)
	}
	return errors.Join(r.deleteExternal(ctx, c), r.recordNotStarted(ctx, c, cause))
}

// removeConsoles removes the sockets that a killed daemon has left.
func (r *Runtime) removeConsoles() error { return removeChildren(filepath.Join(r.State, "tty")) }
