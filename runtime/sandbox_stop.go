package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// StopSandbox ends the sandbox's containers and takes its network and namespaces away. It is idempotent: stopping what is
// stopped, or was never there, is success.
func (r *Runtime) StopSandbox(ctx context.Context, id SandboxID) error {
	s, err := r.findSandbox(id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, teardownTimeout)
	defer cancel()
	s.op.Lock()
	defer s.op.Unlock()
	return r.stopSandbox(ctx, s)
}

// stopSandbox is the flow of StopPodSandbox, and the first half of undoing a run:
//
//  1. record the intent
//  2. kill the containers
//  3. detach the network
//  4. end the process that holds a shared PID namespace
//  5. let the namespaces and /dev/shm go
//  6. remove the pod's cgroup, if it is the runtime's own
//  7. record it stopped
//
// All steps run even if one fails; only when none has is it recorded as stopped. A sandbox that was never ready stays "making" until it is removed.
//
// A record that can't be written keeps nobody from stopping a pod, which may be what frees the state directory: every step is idempotent, and
// Recover finds by the namespaces that a sandbox which is recorded as ready is not.
func (r *Runtime) stopSandbox(ctx context.Context, s *sandbox) error {
	record := s.snapshot()
	if record.Phase == sandboxStopped {
		return nil
	}
	undoing := record.Phase == sandboxMaking
	if undoing {
		if _, err := os.Stat(s.dir); errors.Is(err, fs.ErrNotExist) {
			return nil // failed before its first record: nothing was made
		}
	} else {
		r.recordPhase(s, sandboxStopping)
	}
	steps := []struct {
		name string
		do   func() error
	}{
		{"sandbox.kill", func() error { return r.killMembers(ctx, s) }},
		{"sandbox.detach", func() error { return r.detachNetwork(ctx, s) }},
		{"sandbox.unpause", func() error { return r.releasePIDNamespace(ctx, s) }},
		{"sandbox.unpin", func() error { return errors.Join(unmount(s.shmPath()), unmount(s.procPath()), unpinNamespaces(s.dir)) }},
		{"sandbox.rmcgroup", func() error { return r.removePodCgroup(ctx, s) }},
	}
	var errs []error
	for _, step := range steps {
		if err := r.step(ctx, step.name, step.do); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stopping sandbox %s (ask again to finish): %w", s.id, err)
	}
	if undoing {
		return nil
	}
	r.recordPhase(s, sandboxStopped)
	r.announce(EventStopped, s, nil)
	return nil
}

// recordPhase notes how far a stop is.
func (r *Runtime) recordPhase(s *sandbox, phase sandboxPhase) {
	if err := s.update(func(record *sandboxRecord) { record.Phase = phase }); err != nil {
		r.Logger.Warn("a sandbox's state stands in memory alone", "sandbox", s.id, "state", phase, "error", err)
	}
}

// pauseEnded is told that a process which held a shared PID namespace has ended. The pod's containers ended with it and no other can be
// started there, so unless it was a stop that ended it the sandbox is stopped: its client makes another.
func (r *Runtime) pauseEnded(s *sandbox) {
	ctx, cancel := teardown(context.Background())
	defer cancel()
	s.op.Lock()
	defer s.op.Unlock()
	if s.snapshot().Phase != sandboxReady {
		return
	}
	r.Logger.Error("the process that holds a pod's PID namespace has ended: stopping the pod", "sandbox", s.id)
	if err := r.stopSandbox(ctx, s); err != nil {
		r.Logger.Error("stopping a pod whose PID namespace is gone", "sandbox", s.id, "error", err)
	}
}

// killMembers ends all containers at once, without a grace period.
func (r *Runtime) killMembers(ctx context.Context, s *sandbox) error {
	var group errgroup.Group
	for _, c := range s.members() {
		group.Go(func() error { return r.stopContainer(ctx, c, 0) })
	}
	return group.Wait()
}

func (r *Runtime) detachNetwork(ctx context.Context, s *sandbox) error {
	if !ownNetwork(s.snapshot().Config) {
		return nil
	}
	if err := r.Network.Detach(ctx, string(s.id), s.namespacePath("net")); err != nil {
		return fmt.Errorf("detaching the network: %w", err)
	}
	return nil
}

// releasePIDNamespace ends the pause process: with it all that is left in the namespace.
func (r *Runtime) releasePIDNamespace(ctx context.Context, s *sandbox) error {
	if s.snapshot().Pause.PID == 0 {
		return nil
	}
	if err := r.keeper.Signal(ctx, s.pauseID(), int(unix.SIGKILL)); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("ending the pause process: %w", err)
	}
	return nil
}

func (r *Runtime) removePodCgroup(ctx context.Context, s *sandbox) error {
	s.mu.Lock()
	cgroup, record := s.cgroup, s.record
	s.cgroup = nil
	s.mu.Unlock()
	if cgroup != nil {
		cgroup.Close()
	}
	if !record.OwnsCgroup {
		return nil
	}
	if err := r.Cgroups.Remove(ctx, record.Cgroup); err != nil {
		return fmt.Errorf("removing the pod's cgroup %s: %w", record.Cgroup, err)
	}
	return nil
}
