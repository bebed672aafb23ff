package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/cgroups"
	"github.com/shimd/shimd/keeper"
	"github.com/shimd/shimd/security"
)

// UseKeeper gives the runtime its keeper. It comes before Recover.
func (r *Runtime) UseKeeper(k keeper.Keeper) { r.keeper = k }

// Recover finds what an earlier daemon has left, and settles it: records are compared with the keeper, the processes and the cgroups, which are right.
//
//  1. after a reboot nothing of the records is true: all is taken away
//  2. read the records; one that can't be read is set aside and reported
//  3. ask the keeper which processes run and which have ended
//  4. what was half-made is taken down, what runs is adopted, what has ended is recorded
//  5. what belongs to nobody is removed
//
// A sandbox that can't be settled is reported and stays, for the client's Stop and Remove: the daemon always starts.
func (r *Runtime) Recover(ctx context.Context) error {
	if err := r.forgetOtherBoots(); err != nil {
		return err
	}
	strays, err := r.readAll()
	if err != nil {
		return fmt.Errorf("reading the records: %w", err)
	}
	processes, err := r.keeper.List(ctx)
	if err != nil {
		return fmt.Errorf("asking the keeper what runs: %w", err)
	}
	known := make(map[string]keeper.Process, len(processes))
	for _, process := range processes {
		known[process.ID] = process
	}
	for _, c := range r.allContainers() {
		if err := r.recoverContainer(ctx, c, known); err != nil {
			r.Logger.Error("recovering a container: stop and remove it to finish", "container", c.id, "error", err)
		}
	}
	r.takeEarlyExits() // before sandboxes, whose stop waits for exits
	for _, s := range r.allSandboxes() {
		if err := r.recoverSandbox(ctx, s, known); err != nil {
			r.Logger.Error("recovering a sandbox: stop and remove it to finish", "sandbox", s.id, "error", err)
		}
	}
	r.settleStrangers(ctx, processes)
	r.removeLeftovers(ctx, strays)
	return nil
}

// takeEarlyExits takes what the keeper told while the records were read.
func (r *Runtime) takeEarlyExits() {
	r.execMu.Lock()
	early := r.early
	r.early, r.recovered = nil, true
	r.execMu.Unlock()
	for _, exit := range early {
		r.OnExit(exit)
	}
}

// forgetOtherBoots removes records of before a reboot, where the state directory is not on tmpfs.
func (r *Runtime) forgetOtherBoots() error {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("reading the boot's ID: %w", err)
	}
	stamp := filepath.Join(r.State, "boot_id")
	last, err := os.ReadFile(stamp)
	if err == nil && string(last) == string(boot) {
		return nil
	}
	if err == nil {
		for _, kind := range []string{"sandboxes", "containers", "oci"} {
			if err := removeChildren(filepath.Join(r.State, kind)); err != nil {
				return fmt.Errorf("removing what was before the reboot: %w", err)
			}
		}
	}
	return os.WriteFile(stamp, boot, 0o600)
}

// readAll reads the records. It answers the cgroups of containers whose records are no use.
func (r *Runtime) readAll() (strays []cgroups.Path, err error) {
	unreadable := func(kind string) func(string, error) {
		return func(name string, err error) {
			if kind == "containers" {
				// Nothing says whose it was: it can only be below the cgroup of a pod that is there.
				for _, s := range r.sandboxes {
					strays = append(strays, r.Cgroups.ContainerPath(s.record.Cgroup, name))
				}
			}
			r.setAside(kind, name, err)
		}
	}
	err = readRecords(filepath.Join(r.State, "sandboxes"), func(name string, record sandboxRecord) {
		if string(record.ID) != name {
			unreadable("sandboxes")(name, fmt.Errorf("it is the record of %q", record.ID))
			return
		}
		s := r.newSandbox(record)
		r.sandboxes[s.id] = s
		if err := security.Reserve(record.Labels.Process); err != nil {
			r.Logger.Warn("keeping the SELinux level of a pod for it", "sandbox", s.id, "error", err)
		}
		r.byMetadata[metadataKey(record.Config.Metadata)] = s
	}, unreadable("sandboxes"))
	if err != nil {
		return nil, err
	}
	err = readRecords(filepath.Join(r.State, "containers"), func(name string, record containerRecord) {
		s := r.sandboxes[record.Sandbox]
		if string(record.ID) != name || s == nil {
			if record.Cgroup != "" {
				strays = append(strays, record.Cgroup)
			}
			unreadable("containers")(name, fmt.Errorf("it is of container %q in sandbox %q, which is not there", record.ID, record.Sandbox))
			return
		}
		c := r.newContainer(s, record)
		r.containers[c.id] = c
		s.containers[c.id] = c
		s.byName[record.Config.Metadata] = c
	}, unreadable("containers"))
	return strays, err
}

// setAside moves a record that can't be read out of the way, whole, for somebody to look at. What it stood for is removed as a leftover.
// A directory without a record was made by a daemon that ended before it announced anything, or after it had taken all away: it goes.
func (r *Runtime) setAside(kind, name string, cause error) {
	dir := filepath.Join(r.State, kind, name)
	if err := errors.Join(unpinNamespaces(dir), unmount(filepath.Join(dir, "shm")), unmount(filepath.Join(dir, "proc"))); err != nil {
		r.Logger.Error("unmounting what a record that can't be read has left", "error", err)
	}
	_ = detachBundle(dir)
	if errors.Is(cause, fs.ErrNotExist) {
		if err := os.RemoveAll(dir); err != nil {
			r.Logger.Error("removing a directory without a record", "directory", dir, "error", err)
		}
		return
	}
	aside := filepath.Join(r.State, "set-aside")
	err := os.MkdirAll(aside, 0o700)
	if err == nil {
		err = os.Rename(dir, filepath.Join(aside, fmt.Sprintf("%s-%s-%d", kind, name, time.Now().UnixNano())))
	}
	r.Logger.Error("a record can't be read and is set aside in "+aside, "record", dir, "cause", cause, "error", err)
}

// recoverContainer settles one container.
func (r *Runtime) recoverContainer(ctx context.Context, c *container, known map[string]keeper.Process) error {
	process, found := known[string(c.id)]
	if c.record.Phase == containerMaking {
		return r.removeContainer(ctx, c)
	}
	if cgroup, err := r.Cgroups.Open(c.record.Cgroup); err == nil {
		c.cgroup = cgroup
	} else if !errdefs.IsNotFound(err) {
		r.Logger.Warn("opening a container's cgroup", "container", c.id, "error", err)
	}
	switch {
	case c.record.Phase == containerExited:
		c.pidfd = process.PIDFD
		r.settleExited(ctx, c, process)
		return nil
	case found && process.Exit != nil:
		c.record.Phase = containerRunning // so that it is recorded as ended
		r.recordExit(c, *process.Exit)
		return nil
	case c.record.Phase == containerStarting && r.isExternal(c):
		return r.settleExternalStart(ctx, c, process, found)
	case found:
		return r.readopt(ctx, c, process)
	case c.record.Phase == containerCreated:
		return nil
	case c.record.Phase == containerStarting:
		return r.forgetStart(c)
	}
	return r.adoptOrphan(ctx, c)
}

// settleExited finishes what the daemon had no time for after it had recorded an exit, or a start that failed.
func (r *Runtime) settleExited(ctx context.Context, c *container, process keeper.Process) {
	if process.PIDFD != nil {
		if err := r.signal(ctx, c, unix.SIGKILL); err != nil {
			r.Logger.Warn("killing a container whose start failed", "container", c.id, "error", err)
		}
	}
	if process.Exit != nil {
		r.acknowledge(string(c.id))
	}
	r.releaseProcesses(c)
	c.release()
	close(c.exited)
}

// forgetStart settles a start that the daemon had no time to finish and of which the keeper knows nothing: the container can be started.
// If there is something in its cgroup, the keeper was killed too and could not tell: then it has run, and how it ended is not known.
func (r *Runtime) forgetStart(c *container) error {
	if c.cgroup != nil {
		left, err := c.cgroup.Procs()
		if err != nil {
			return fmt.Errorf("looking for what was started: %w", err)
		}
		if len(left) > 0 {
			c.mu.Lock()
			r.killLeftBehind(c)
			c.mu.Unlock()
			r.recordExit(c, keeper.Exit{ID: string(c.id), Unknown: true, ExitedAt: time.Now()})
			return nil
		}
	}
	return c.update(func(record *containerRecord) { record.Phase = containerCreated })
}

// readopt takes up a container that its keeper still has.
func (r *Runtime) readopt(ctx context.Context, c *container, process keeper.Process) error {
	identity, err := identify(process.PID)
	if err != nil {
		identity = processIdentity{PID: process.PID}
	}
	c.pidfd = process.PIDFD
	return c.update(func(record *containerRecord) {
		record.Phase = containerRunning
		record.Process = identity
		if record.StartedAt.IsZero() {
			record.StartedAt = identity.startedAt()
		}
	})
}

// adoptOrphan gives a container whose keeper was killed to the new one. The exit status of one that has ended meanwhile is lost, but where the daemon held its pidfd.
func (r *Runtime) adoptOrphan(ctx context.Context, c *container) error {
	pidfd := c.pidfd
	if pidfd == nil {
		var err error
		if pidfd, err = openProcess(c.record.Process); err != nil {
			r.recordExit(c, keeper.Exit{ID: string(c.id), Unknown: true, ExitedAt: time.Now()})
			return nil
		}
		c.mu.Lock()
		c.pidfd = pidfd
		c.mu.Unlock()
	}
	streams, err := r.keeperEnds(c)
	if err != nil {
		return err
	}
	defer closeStreams(streams)
	if err := r.keeper.Adopt(ctx, keeper.AdoptRequest{ID: string(c.id), PIDFD: pidfd, IO: streams}); err != nil {
		return fmt.Errorf("giving it to the new keeper: %w", err)
	}
	return nil
}

// OnRestart is told that the keeper was killed and another one runs: it gets what the daemon still holds.
func (r *Runtime) OnRestart(ctx context.Context) {
	r.execMu.Lock()
	recovered := r.recovered
	r.execMu.Unlock()
	if !recovered {
		return // Recover gives it all
	}
	r.Logger.Warn("the keeper has ended and was started again: giving it the containers that run")
	r.adoptExecs(ctx)
	for _, c := range r.allContainers() {
		if c.snapshot().Phase != containerRunning {
			continue
		}
		if err := r.adoptOrphan(ctx, c); err != nil {
			r.Logger.Error("a container has no keeper: its output is not logged", "container", c.id, "error", err)
		}
	}
	for _, s := range r.allSandboxes() {
		if err := r.adoptPause(ctx, s); err != nil {
			r.Logger.Error("a pause process has no keeper", "sandbox", s.id, "error", err)
		}
	}
}

func (r *Runtime) adoptPause(ctx context.Context, s *sandbox) error {
	pause := s.snapshot().Pause
	if pause.PID == 0 {
		return nil
	}
	pidfd, err := openProcess(pause)
	if err != nil {
		r.background.Go(func() { r.pauseEnded(s) })
		return nil
	}
	defer pidfd.Close()
	return r.keeper.Adopt(ctx, keeper.AdoptRequest{ID: s.pauseID(), PIDFD: pidfd})
}

// recoverSandbox settles one sandbox.
func (r *Runtime) recoverSandbox(ctx context.Context, s *sandbox, known map[string]keeper.Process) error {
	switch s.record.Phase {
	case sandboxMaking:
		return errors.Join(r.stopSandbox(ctx, s), r.removeSandbox(ctx, s))
	case sandboxStopping:
		return r.stopSandbox(ctx, s)
	case sandboxReady:
		if err := checkPinned(s.dir, namespaceFlags(s.record.Config)); err != nil {
			r.Logger.Error("a pod that was ready can't go on: stopping it", "sandbox", s.id, "error", err)
			return r.stopSandbox(ctx, s)
		}
		if _, found := known[s.pauseID()]; !found {
			return r.adoptPause(ctx, s)
		}
	}
	return nil
}

// settleStrangers ends what the keeper runs for nobody: a container of a record that is gone.
func (r *Runtime) settleStrangers(ctx context.Context, processes []keeper.Process) {
	for _, process := range processes {
		if _, ok := r.containers[ContainerID(process.ID)]; ok {
			continue
		}
		if process.PIDFD != nil {
			process.PIDFD.Close()
		}
		if r.sandboxOfPause(process.ID) != nil {
			continue // its exit, if it has ended, is told anyway
		}
		if process.Exit != nil {
			r.acknowledge(process.ID)
			continue
		}
		if err := r.keeper.Signal(ctx, process.ID, int(unix.SIGKILL)); err != nil && !errdefs.IsNotFound(err) {
			r.Logger.Warn("ending a process that belongs to no record", "id", process.ID, "error", err)
		}
	}
}

// removeLeftovers removes what belongs to no record: root file systems, cgroups, addresses and files. What can't be removed is reported: the
// daemon starts all the same, and tries again at its next start.
func (r *Runtime) removeLeftovers(ctx context.Context, strays []cgroups.Path) {
	live := make([]string, 0, len(r.sandboxes))
	for id := range r.sandboxes {
		live = append(live, string(id))
	}
	errs := []error{r.Network.Reconcile(ctx, live)}
	for _, path := range strays { // before the root file systems, which their processes may hold
		errs = append(errs, r.Cgroups.Remove(ctx, path))
	}
	rootfses, err := r.Images.Containers(ctx)
	errs = append(errs, err)
	for _, key := range rootfses {
		if r.containers[ContainerID(key)] == nil {
			errs = append(errs, r.Images.RemoveRootfs(ctx, key))
		}
	}
	pods, err := r.Cgroups.Leftovers()
	errs = append(errs, err)
	for _, id := range pods {
		if r.sandboxes[SandboxID(id)] == nil {
			if path, owned, err := r.Cgroups.PodParent("", id); err == nil && owned {
				errs = append(errs, r.Cgroups.Remove(ctx, path))
			}
		}
	}
	errs = append(errs, r.removeConsoles(),
		removeStrangers(filepath.Join(r.Root, "sandboxes"), func(id string) bool { return r.sandboxes[SandboxID(id)] != nil }),
		removeStrangers(filepath.Join(r.Root, "volumes"), func(id string) bool { return r.containers[ContainerID(id)] != nil }))
	if err := errors.Join(errs...); err != nil {
		r.Logger.Error("removing what an earlier daemon has left", "error", err)
	}
}

func removeChildren(dir string) error {
	return removeStrangers(dir, func(string) bool { return false })
}

// removeStrangers removes the entries of dir that nobody knows.
func removeStrangers(dir string, known func(name string) bool) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, entry := range entries {
		if !known(entry.Name()) {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, entry.Name())))
		}
	}
	return errors.Join(errs...)
}

func (r *Runtime) allContainers() []*container {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make([]*container, 0, len(r.containers))
	for _, c := range r.containers {
		all = append(all, c)
	}
	return all
}

func (r *Runtime) allSandboxes() []*sandbox {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make([]*sandbox, 0, len(r.sandboxes))
	for _, s := range r.sandboxes {
		all = append(all, s)
	}
	return all
}
