package registry

import (
	"context"
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
)

// blobs answers layers and configurations straight from the images that are served, so that those on the disk are never copied. They are told apart
// by digest alone: what one repository has, all have.
type blobs map[v1.Hash]blob

type blob struct {
	size int64
	open func() (io.ReadCloser, error)
}

var (
	_ registry.BlobHandler     = blobs(nil)
	_ registry.BlobStatHandler = blobs(nil)
)

func (b blobs) Get(_ context.Context, repo string, h v1.Hash) (io.ReadCloser, error) {
	found, ok := b[h]
	if !ok {
		return nil, registry.ErrNotFound
	}
	body, err := found.open()
	if err != nil {
		return nil, fmt.Errorf("reading blob %s of %s: %w", h, repo, err)
	}
	return body, nil
}

func (b blobs) Stat(_ context.Context, _ string, h v1.Hash) (int64, error) {
	found, ok := b[h]
	if !ok {
		return 0, registry.ErrNotFound
	}
	return found.size, nil
}

// add takes in what an image is made of.
func (b blobs) add(image v1.Image) error {
	layers, err := image.Layers()
	if err != nil {
		return fmt.Errorf("reading the layers: %w", err)
	}
	config, err := partial.ConfigLayer(image)
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	for _, layer := range append(layers, config) {
		digest, err := layer.Digest()
		if err != nil {
			return fmt.Errorf("taking the digest of a layer: %w", err)
		}
		size, err := layer.Size()
		if err != nil {
			return fmt.Errorf("taking the size of layer %s: %w", digest, err)
		}
		b[digest] = blob{size: size, open: layer.Compressed}
	}
	return nil
}
