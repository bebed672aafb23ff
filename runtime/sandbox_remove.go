package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"

	"github.com/shimd/shimd/security"
)

// RemoveSandbox stops the sandbox, removes its containers and forgets it. It is idempotent.
func (r *Runtime) RemoveSandbox(ctx context.Context, id SandboxID) error {
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
	if err := r.stopSandbox(ctx, s); err != nil {
		return err
	}
	return r.removeSandbox(ctx, s)
}

// removeSandbox is the flow of RemovePodSandbox, and the second half of undoing a run. The record goes last, so that what
// failed can be asked for again.
func (r *Runtime) removeSandbox(ctx context.Context, s *sandbox) error {
	s.mu.Lock()
	removed := s.removed
	s.mu.Unlock()
	if removed {
		return nil
	}
	var errs []error
	for _, c := range s.members() {
		errs = append(errs, r.removeContainer(ctx, c))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing sandbox %s: %w", s.id, err)
	}
	err := r.step(ctx, "sandbox.remove", func() error {
		return errors.Join(os.RemoveAll(s.files), os.RemoveAll(s.dir))
	})
	if err != nil {
		return fmt.Errorf("removing sandbox %s: %w", s.id, err)
	}
	r.mu.Lock()
	delete(r.sandboxes, s.id)
	if key := metadataKey(s.record.Config.Metadata); r.byMetadata[key] == s {
		delete(r.byMetadata, key)
	}
	r.mu.Unlock()
	s.mu.Lock()
	s.removed = true
	s.mu.Unlock()
	security.Release(s.snapshot().Labels.Process)
	r.announce(EventDeleted, s, nil)
	return nil
}
