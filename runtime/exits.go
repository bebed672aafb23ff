package runtime

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/keeper"
)

// exitUnknown is the exit code of a process whose status the kernel did not tell.
const exitUnknown = 255

// OnExit takes an exit from the keeper. The keeper keeps telling it, also to a restarted daemon, until it is acknowledged, which
// is after it stands in the container's record: no exit code is ever lost with the daemon.
func (r *Runtime) OnExit(exit keeper.Exit) {
	r.execMu.Lock()
	if !r.recovered { // the records are not read yet
		r.early = append(r.early, exit)
		r.execMu.Unlock()
		return
	}
	waiter, isExec := r.execs[exit.ID]
	delete(r.execs, exit.ID)
	r.execMu.Unlock()
	if isExec {
		waiter.exits <- exit
		r.acknowledge(exit.ID)
		return
	}
	r.mu.RLock()
	c := r.containers[ContainerID(exit.ID)]
	r.mu.RUnlock()
	if c == nil {
		// A pause process, an exec session of an earlier daemon, or a container whose record is gone.
		r.acknowledge(exit.ID)
		if s := r.sandboxOfPause(exit.ID); s != nil {
			r.background.Go(func() { r.pauseEnded(s) })
		}
		return
	}
	r.background.Go(func() { r.recordExit(c, exit) })
}

func (r *Runtime) acknowledge(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := r.keeper.Acknowledge(ctx, id); err != nil {
		r.Logger.Debug("the keeper will tell an exit again", "id", id, "error", err)
	}
}

// recordExit writes down how the container ended and lets go of what it held.
func (r *Runtime) recordExit(c *container, exit keeper.Exit) {
	c.mu.Lock()
	start := c.start
	c.mu.Unlock()
	if start != nil {
		<-start.done // it may end before its start is recorded
	}
	c.mu.Lock()
	told := c.record.Phase == containerExited
	if !told {
		var oomKills uint64
		if c.cgroup != nil {
			oomKills, _ = c.cgroup.OOMKills()
		}
		describeExit(&c.record, exit, oomKills)
	}
	var err error
	if !c.removed {
		err = writeRecord(c.dir, c.record)
	}
	c.owed = err != nil
	c.mu.Unlock()
	if err != nil {
		r.Logger.Error("recording a container's exit: it stands in memory alone, and the keeper keeps it", "container", c.id, "error", err)
	} else {
		r.acknowledge(exit.ID)
	}
	if told {
		return
	}
	r.releaseProcesses(c)
	c.release()
	close(c.exited)
	r.announce(EventStopped, c.sandbox, c)
}

// describeExit puts an exit into a record, in the words that clients know.
func describeExit(record *containerRecord, exit keeper.Exit, oomKills uint64) {
	record.Phase = containerExited
	record.FinishedAt = exit.ExitedAt
	if record.StartedAt.IsZero() {
		record.StartedAt = exit.ExitedAt // it began and ended while no daemon looked
	}
	record.ExitCode = exit.Code
	switch {
	case exit.Unknown:
		record.ExitCode = exitUnknown
		record.Reason = "Unknown"
		record.Message = "the keeper was killed and this kernel does not tell the exit status of another's child (before Linux 6.15)"
	case oomKills > 0 && exit.Code == 128+int32(unix.SIGKILL):
		record.Reason = "OOMKilled"
	case exit.Code == 0:
		record.Reason = "Completed"
	default:
		record.Reason = "Error"
	}
}

// releaseProcesses ends what the container's first process has left behind. With a PID namespace of its own the kernel has done so.
func (r *Runtime) releaseProcesses(c *container) {
	if privatePIDNamespace(c.record.Config) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r.killLeftBehind(c)
}

// killLeftBehind kills what is in the container's cgroup, if it has one yet. c.mu is held.
func (r *Runtime) killLeftBehind(c *container) {
	if c.cgroup == nil {
		return
	}
	if err := c.cgroup.Kill(); err != nil {
		r.Logger.Warn("ending what a container left behind", "container", c.id, "error", err)
	}
}
