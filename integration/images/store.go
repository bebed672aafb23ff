package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/integration/tools"
)

// store keeps finished images on disk: their blobs in one OCI layout, so that images share layers, and beside it a file for each key, which says
// the digest of the manifest that was built from it. Nothing is ever removed: `rm -r` of the cache does that.
type store struct{ dir string }

func openStore() (store, error) {
	cache, err := tools.CacheDir()
	if err != nil {
		return store{}, err
	}
	s := store{dir: filepath.Join(cache, "images")}
	if err := os.MkdirAll(filepath.Join(s.dir, "keys"), 0o755); err != nil {
		return store{}, fmt.Errorf("making the cache for images: %w", err)
	}
	return s, nil
}

// get answers the image of a key, false when there is none or not all of it.
func (s store) get(key string) (v1.Image, bool, error) {
	text, err := os.ReadFile(filepath.Join(s.dir, "keys", key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("looking for a built image: %w", err)
	}
	digest, err := v1.NewHash(string(text))
	if err != nil {
		return nil, false, nil //nolint:nilerr // a file that was cut short, by a full disk: built again
	}
	image, err := s.open(digest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	return image, err == nil, err
}

// put writes an image and answers it as get does, read from the disk.
func (s store) put(key string, image v1.Image) (v1.Image, error) {
	digest, err := image.Digest()
	if err != nil {
		return nil, fmt.Errorf("taking the digest of an image: %w", err)
	}
	// Blobs are written to drafts that are renamed; the key comes last.
	if err := layout.Path(s.dir).WriteImage(image); err != nil {
		return nil, fmt.Errorf("keeping an image: %w", err)
	}
	draft := filepath.Join(s.dir, "keys", fmt.Sprintf(".%s-%d", key, os.Getpid()))
	if err := os.WriteFile(draft, []byte(digest.String()), 0o644); err != nil {
		return nil, fmt.Errorf("keeping an image: %w", err)
	}
	if err := os.Rename(draft, filepath.Join(s.dir, "keys", key)); err != nil {
		return nil, fmt.Errorf("keeping an image: %w", err)
	}
	return s.open(digest)
}

// lock makes building the business of one process at a time: a second one finds what the first has built.
func (s store) lock(ctx context.Context) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking the cache for images: %w", err)
	}
	locked := make(chan error, 1)
	go func() { locked <- unix.Flock(int(f.Fd()), unix.LOCK_EX) }() // held as long as the file is open
	select {
	case err = <-locked:
	case <-ctx.Done():
		// The goroutine keeps the file until it has the lock.
		go func() {
			if <-locked == nil {
				f.Close()
			}
		}()
		return nil, fmt.Errorf("waiting for another process to build images: %w", context.Cause(ctx))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking the cache for images: %w", err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

func (s store) blob(h v1.Hash) string { return filepath.Join(s.dir, "blobs", h.Algorithm, h.Hex) }

func (s store) open(digest v1.Hash) (v1.Image, error) {
	manifest, err := os.ReadFile(s.blob(digest))
	if err != nil {
		return nil, fmt.Errorf("reading a built image: %w", err)
	}
	parsed, err := v1.ParseManifest(bytes.NewReader(manifest))
	if err != nil {
		return nil, fmt.Errorf("reading the built image %s: %w", digest, err)
	}
	config, err := os.ReadFile(s.blob(parsed.Config.Digest))
	if err != nil {
		return nil, fmt.Errorf("reading the built image %s: %w", digest, err)
	}
	stored := storedImage{store: s, manifest: manifest, parsed: parsed, config: config}
	for _, layer := range parsed.Layers {
		if _, err := os.Stat(s.blob(layer.Digest)); err != nil {
			return nil, fmt.Errorf("reading the built image %s: %w", digest, err)
		}
	}
	image, err := partial.CompressedToImage(stored)
	if err != nil {
		return nil, fmt.Errorf("reading the built image %s: %w", digest, err)
	}
	return image, nil
}

// storedImage is what partial.CompressedToImage needs of an image: layers are files, opened when they are read.
type storedImage struct {
	store            store
	manifest, config []byte
	parsed           *v1.Manifest
}

func (i storedImage) MediaType() (types.MediaType, error) { return i.parsed.MediaType, nil }
func (i storedImage) RawManifest() ([]byte, error)        { return i.manifest, nil }
func (i storedImage) RawConfigFile() ([]byte, error)      { return i.config, nil }

func (i storedImage) LayerByDigest(digest v1.Hash) (partial.CompressedLayer, error) {
	for _, layer := range i.parsed.Layers {
		if layer.Digest == digest {
			return storedLayer{descriptor: layer, path: i.store.blob(digest)}, nil
		}
	}
	return nil, fmt.Errorf("looking for layer %s: %w", digest, fs.ErrNotExist)
}

type storedLayer struct {
	descriptor v1.Descriptor
	path       string
}

func (l storedLayer) Digest() (v1.Hash, error)            { return l.descriptor.Digest, nil }
func (l storedLayer) Size() (int64, error)                { return l.descriptor.Size, nil }
func (l storedLayer) MediaType() (types.MediaType, error) { return l.descriptor.MediaType, nil }
func (l storedLayer) Compressed() (io.ReadCloser, error)  { return os.Open(l.path) }
