package image

import (
	"context"
	"fmt"
	"sort"
	"strings"

	"github.com/containerd/errdefs"
)

// List answers all images. The slice is the caller's; what it holds is not to be changed.
func (s *Store) List(context.Context) ([]Image, error) {
	return append([]Image(nil), s.view.Load().images...), nil
}

// Get finds an image by name, by ID, or by the beginning of an ID. ErrNotFound; ErrInvalidArgument for what is no name, and for a beginning that several IDs have.
func (s *Store) Get(_ context.Context, ref string) (Image, error) {
	v := s.view.Load()
	i, _, err := v.find(ref)
	if err != nil {
		return Image{}, err
	}
	return v.images[i], nil
}

// find answers the image's place, and the normalized name if it was found by name. Names go first: "cafe" may be both.
func (v *view) find(ref string) (i int, name string, err error) {
	if ref == "" {
		return 0, "", fmt.Errorf("no image is named: %w", errdefs.ErrInvalidArgument)
	}
	digits, mayBeID := idPrefix(ref)
	if i, ok := v.byID[ID(digestPrefix+digits)]; mayBeID && ok {
		return i, "", nil
	}
	parsed, parseErr := parseReference(ref)
	if parseErr == nil {
		if id, ok := v.names[parsed.String()]; ok {
			return v.byID[id], parsed.String(), nil
		}
	}
	if mayBeID {
		return v.findPrefix(ref, digits)
	}
	if parseErr != nil {
		return 0, "", parseErr
	}
	return 0, "", fmt.Errorf("image %q: %w", ref, errdefs.ErrNotFound)
}

func (v *view) findPrefix(ref, digits string) (int, string, error) {
	prefix := digestPrefix + digits
	i := sort.Search(len(v.images), func(i int) bool { return string(v.images[i].ID) >= prefix })
	if i == len(v.images) || !strings.HasPrefix(string(v.images[i].ID), prefix) {
		return 0, "", fmt.Errorf("image %q: %w", ref, errdefs.ErrNotFound)
	}
	if i+1 < len(v.images) && strings.HasPrefix(string(v.images[i+1].ID), prefix) {
		return 0, "", fmt.Errorf("image %q: several IDs begin so: %w", ref, errdefs.ErrInvalidArgument)
	}
	return i, "", nil
}
