package image

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
)

// Remove removes a name, or the image when ref is its ID or its last name; see cri.Images.
func (s *Store) Remove(_ context.Context, ref string) error {
	s.commit.Lock()
	defer s.commit.Unlock()
	v := s.view.Load()
	i, name, err := v.find(ref)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing image: %w", err)
	}
	id := v.images[i].ID
	s.mu.Lock()
	rec := s.images[id].clone()
	s.mu.Unlock()
	if name != "" {
		rec.dropName(name)
		if len(rec.Tags)+len(rec.Digests) > 0 {
			return s.removeName(rec, name)
		}
	}
	return s.removeImage(rec)
}

func (s *Store) removeName(rec *record, name string) error {
	if err := s.rewriteRecord(rec); err != nil {
		return fmt.Errorf("removing name %s of image %s: %w", name, rec.ID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images[rec.ID] = rec
	s.publish()
	s.log.Info("image name removed", "name", name, "id", rec.ID)
	return nil
}

// removeImage removes the record first: a crash after that leaves layers that nobody uses, which the next start removes.
func (s *Store) removeImage(rec *record) error {
	if err := s.discard(s.path("images", hexOf(string(rec.ID)))); err != nil {
		return fmt.Errorf("removing image %s: %w", rec.ID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.images, rec.ID)
	s.publish()
	s.unhold(unique(rec.Layers))
	s.log.Info("image removed", "id", rec.ID)
	return nil
}
