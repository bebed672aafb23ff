package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/shimd/shimd/image/layer"
	"github.com/shimd/shimd/image/registry"
)

// fetched is a layer that was downloaded, checked and unpacked into a temporary directory.
type fetched struct {
	dir    string // below the root
	blob   string
	result layer.Result

	once sync.Once // who finishes a layer that depends on those below it
}

// claim is true for the first caller.
func (f *fetched) claim() (mine bool) {
	f.once.Do(func() { mine = true })
	return mine
}

// chainIDs are the identities of the stacks of layers, by the OCI image specification.
func chainIDs(diffIDs []string) []string {
	chain := make([]string, len(diffIDs))
	for i, id := range diffIDs {
		if i == 0 {
			chain[0] = id
			continue
		}
		sum := sha256.Sum256([]byte(chain[i-1] + " " + id))
		chain[i] = digestPrefix + hex.EncodeToString(sum[:])
	}
	return chain
}

// layerPull is what a pull knows of its layers.
type layerPull struct {
	store   *Store
	repo    *registry.Repository
	blobs   []v1.Descriptor
	diffIDs []string
	chain   []string
	keys    []string        // filled in as layers are there
	ready   []chan struct{} // closed when keys[i] is set
}

// fetchLayers brings all layers here and answers their keys, each held once for the caller, who releases unique(keys). On error nothing is held.
func (s *Store) fetchLayers(ctx context.Context, repo *registry.Repository, blobs []v1.Descriptor, diffIDs []string) ([]string, error) {
	p := &layerPull{store: s, repo: repo, blobs: blobs, diffIDs: diffIDs, chain: chainIDs(diffIDs), keys: make([]string, len(diffIDs))}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	for range diffIDs {
		p.ready = append(p.ready, make(chan struct{}))
	}
	errs := make([]error, len(diffIDs))
	for i := range diffIDs {
		running.Go(func() {
			key, err := p.ensure(ctx, i)
			if err != nil {
				errs[i] = fmt.Errorf("layer %s: %w", blobs[i].Digest, err)
				cancel(errs[i]) // the others need not go on
				return
			}
			p.keys[i] = key
			close(p.ready[i])
		})
	}
	running.Wait()
	held := make([]string, 0, len(p.keys))
	for _, key := range p.keys {
		if key != "" {
			held = append(held, key)
		}
	}
	if ctx.Err() != nil {
		s.release(held)
		return nil, context.Cause(ctx)
	}
	// A layer that the image has twice is held twice so far.
	s.release(duplicates(held))
	return p.keys, nil
}

func duplicates(keys []string) []string {
	seen := map[string]bool{}
	var more []string
	for _, key := range keys {
		if seen[key] {
			more = append(more, key)
		}
		seen[key] = true
	}
	return more
}

// ensure brings layer i here, unless it is, and holds it.
func (p *layerPull) ensure(ctx context.Context, i int) (string, error) {
	s := p.store
	plain, chained := hexOf(p.diffIDs[i]), chainPrefix+hexOf(p.chain[i])
	s.mu.Lock()
	for _, key := range []string{plain, chained} {
		if s.hold([]string{key}) == nil {
			s.mu.Unlock()
			return key, nil
		}
	}
	s.mu.Unlock()

	var got *fetched
	mine := false
	take := func(f *fetched) {
		got = f
		if f.result.Deferred != nil {
			mine = f.claim()
			return
		}
		s.register(plain, f)
	}
	work := func(ctx context.Context) (*fetched, error) { return p.fetch(ctx, i) }
	joined, err := s.fetches.do(ctx, p.diffIDs[i], work, take, s.dropFetched)
	if err != nil && joined && ctx.Err() == nil {
		// Somebody else's pull failed, perhaps for its own reasons, such as its credentials.
		_, err = s.fetches.do(ctx, p.diffIDs[i], work, take, s.dropFetched)
	}
	if err != nil {
		return "", err
	}
	if got.result.Deferred == nil {
		return plain, nil
	}
	if !mine {
		// Another pull finishes that one, on other layers: this one needs its own.
		if got, err = p.fetch(ctx, i); err != nil {
			return "", err
		}
	}
	if err := p.finish(ctx, i, got); err != nil {
		return "", errors.Join(err, s.discard(s.path(got.dir)))
	}
	s.register(chained, got)
	return chained, nil
}

// register makes an unpacked layer known and holds it, or the one that is known already under the key.
func (s *Store) register(key string, f *fetched) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, ok := s.layers[key]
	if !ok {
		st = &layerState{key: key, dir: f.dir, bytes: f.result.Bytes, inodes: f.result.Entries, root: f.result.Root}
		s.layers[key] = st
	} else if st.dir != f.dir && !st.committed {
		if err := s.discard(s.path(f.dir)); err != nil {
			s.log.Error("removing a layer that was made twice", "layer", key, "error", err)
		}
	}
	st.refs++
}

// dropFetched removes a layer that nobody took.
func (s *Store) dropFetched(f *fetched) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.layers {
		if st.dir == f.dir {
			return
		}
	}
	if f.result.Deferred != nil && !f.claim() {
		return
	}
	if err := s.discard(s.path(f.dir)); err != nil {
		s.log.Error("removing a layer that nobody wants any more", "error", err)
	}
}

// fetch downloads and unpacks layer i.
func (p *layerPull) fetch(ctx context.Context, i int) (*fetched, error) {
	s := p.store
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	var f *fetched
	blob := p.blobs[i]
	err := p.repo.Blob(ctx, blob.Digest.String(), func(r io.Reader) error {
		var err error
		f, err = s.unpack(ctx, r, layer.Source{Digest: blob.Digest.String(), Size: blob.Size, DiffID: p.diffIDs[i]})
		return err
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// unpack makes a temporary directory of a blob, or leaves nothing.
func (s *Store) unpack(ctx context.Context, r io.Reader, src layer.Source) (*fetched, error) {
	tmp, err := s.temp("layer")
	if err != nil {
		return nil, registry.Local(err)
	}
	f := &fetched{dir: tmp, blob: src.Digest}
	err = func() error {
		fs := s.path(tmp, "fs")
		if err := os.Mkdir(fs, 0o755); err != nil {
			return registry.Local(err)
		}
		if err := os.Chmod(fs, 0o755); err != nil { // whatever the umask is: it becomes the container's root
			return registry.Local(err)
		}
		dir, err := os.Open(fs)
		if err != nil {
			return registry.Local(err)
		}
		defer dir.Close()
		if f.result, err = layer.Unpack(ctx, dir, r, src); err != nil {
			if errdefs.IsResourceExhausted(err) {
				return registry.Local(err)
			}
			return err
		}
		return f.writeInfo(s)
	}()
	if err != nil {
		if discardErr := s.discard(s.path(tmp)); discardErr != nil {
			s.log.Error("removing a layer that could not be unpacked", "error", discardErr)
		}
		return nil, err
	}
	return f, nil
}

func (f *fetched) writeInfo(s *Store) error {
	content, err := json.Marshal(layerInfo{Bytes: f.result.Bytes, Inodes: f.result.Entries, Root: f.result.Root, Blob: f.blob})
	if err != nil {
		return registry.Local(err)
	}
	if err := os.WriteFile(s.path(f.dir, "layer.json"), content, 0o600); err != nil {
		return registry.Local(err)
	}
	return nil
}

// finish waits for the layers below and resolves what layer i left to them.
func (p *layerPull) finish(ctx context.Context, i int, f *fetched) error {
	s := p.store
	var parents []*os.File
	defer func() {
		for _, dir := range parents {
			_ = dir.Close()
		}
	}()
	for below := i - 1; below >= 0; below-- {
		select {
		case <-p.ready[below]:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		s.mu.Lock() // its directory may be renamed at any moment
		dir, err := os.Open(s.path(s.layers[p.keys[below]].dir, "fs"))
		s.mu.Unlock()
		if err != nil {
			return fmt.Errorf("opening a layer below: %w", err)
		}
		parents = append(parents, dir)
	}
	own, err := os.Open(filepath.Join(s.path(f.dir), "fs"))
	if err != nil {
		return err
	}
	defer own.Close()
	more, err := f.result.Deferred.Resolve(own, parents)
	if err != nil {
		return err
	}
	f.result.Bytes += more.Bytes
	f.result.Entries += more.Entries
	return f.writeInfo(s)
}
