package runtime

import (
	"context"
	"path/filepath"

	"github.com/shimd/shimd/keeper"
)

// settleExternalStart settles a container whose daemon has ended in the middle of its start by an external runtime. The built-in runtime has no such
// middle: there the keeper has the process, or there is none.
//
//	the runtime says │ the keeper has its process │ it has not
//	─────────────────┼────────────────────────────┼─────────────────────────────────────
//	created          │ start it                   │ delete it: it can be started again
//	running          │ it runs                    │ adopt it
//	anything else    │ delete it: it has ended    │ delete it: it can be started again
func (r *Runtime) settleExternalStart(ctx context.Context, c *container, process keeper.Process, found bool) error {
	status, err := r.runtimeState(ctx, c)
	if err != nil {
		r.Logger.Info("a start that was under way has not come to the OCI runtime", "container", c.id, "error", err)
	}
	switch {
	case status == "running" && found:
		return r.readopt(ctx, c, process)
	case status == "running":
		if err := c.update(func(record *containerRecord) { record.Phase = containerRunning }); err != nil {
			return err
		}
		return r.adoptOrphan(ctx, c)
	case status == "created" && found:
		err = r.runtimeStart(ctx, c)
		if err == nil {
			return r.readopt(ctx, c, process)
		}
		r.Logger.Warn("finishing a start", "container", c.id, "error", err)
	}
	if err := r.deleteExternal(ctx, c); err != nil {
		return err
	}
	if found {
		return r.readopt(ctx, c, process) // killed by now: its exit is on the way
	}
	return r.forgetStart(c)
}

// removeConsoles removes the sockets that a killed daemon has left.
func (r *Runtime) removeConsoles() error { return removeChildren(filepath.Join(r.State, "tty")) }
