package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/shimd/shimd/image/registry"
)

// maxIndexDepth is how many indexes may lie between a name and a manifest. Real images have one; two have been seen.
const maxIndexDepth = 3

// Pull fetches what is missing of an image and answers it; see cri.Images. Given up half-way by all who asked for it, it leaves nothing behind.
// ErrInvalidArgument, ErrNotFound, ErrUnauthenticated, ErrPermissionDenied, ErrUnavailable, ErrResourceExhausted when the disk is full.
func (s *Store) Pull(ctx context.Context, req PullRequest) (Image, error) {
	ref, err := parseReference(req.Ref)
	if err != nil {
		return Image{}, fmt.Errorf("pulling: %w", err)
	}
	creds, err := credentials(req.Auth)
	if err != nil {
		return Image{}, fmt.Errorf("pulling %s: %w", ref, err)
	}
	// Only callers with the same credentials share a pull: one must not get what the other may.
	who, err := json.Marshal(creds)
	if err != nil {
		return Image{}, fmt.Errorf("pulling %s: %w", ref, err)
	}
	sum := sha256.Sum256(who)
	var img Image
	_, err = s.pulls.do(ctx, ref.String()+" "+hex.EncodeToString(sum[:]), func(ctx context.Context) (Image, error) {
		return s.pull(ctx, ref, creds)
	}, func(got Image) { img = got }, nil)
	if err != nil {
		return Image{}, fmt.Errorf("pulling %s: %w", ref, err)
	}
	return img, nil
}

func credentials(auth *Auth) (registry.Credentials, error) {
	if auth == nil {
		return registry.Credentials{}, nil
	}
	return registry.ParseCredentials(auth.Username, auth.Password, auth.Auth, auth.ServerAddress, auth.IdentityToken, auth.RegistryToken)
}

// pull is the flow: 1. find the manifest; 2. its configuration; 3. bring the layers; 4. sync and record.
func (s *Store) pull(ctx context.Context, ref reference, creds registry.Credentials) (Image, error) {
	started := time.Now()
	repo, err := registry.Open(ref.registry, ref.repository, creds, registry.Options{CertsDir: s.opts.CertsDir, StallTimeout: s.opts.StallTimeout})
	if err != nil {
		return Image{}, err
	}
	defer repo.Close()

	found, err := resolve(ctx, repo, ref.identifier())
	if err != nil {
		return Image{}, err
	}
	id := found.manifest.Config.Digest.String()
	config, err := s.config(ctx, repo, id, found.manifest.Config.Size)
	if err != nil {
		return Image{}, fmt.Errorf("fetching the image configuration: %w", err)
	}
	rec := &record{Version: recordVersion, ID: ID(id)}
	if rec.config, rec.diffIDs, err = parseConfig(config); err != nil {
		return Image{}, err
	}
	if len(rec.diffIDs) != len(found.manifest.Layers) {
		return Image{}, fmt.Errorf("the manifest has %d layers, the configuration %d; is it a container image? %w",
			len(found.manifest.Layers), len(rec.diffIDs), errdefs.ErrInvalidArgument)
	}

	if rec.Layers, err = s.fetchLayers(ctx, repo, found.manifest.Layers, rec.diffIDs); err != nil {
		return Image{}, err
	}
	img, err := s.commitImage(rec, ref, found, config)
	if err != nil {
		s.release(unique(rec.Layers))
		return Image{}, err
	}
	s.log.Info("image pulled", "image", ref.String(), "id", id, "bytes", img.Size, "layers", len(rec.Layers), "took", time.Since(started))
	return img, nil
}

// config takes the configuration of an image that is here already from the disk: a client that pulls always, to check the tag, moves nothing but a manifest.
func (s *Store) config(ctx context.Context, repo *registry.Repository, id string, size int64) ([]byte, error) {
	content, err := readBounded(s.path("images", hexOf(id), "config"))
	if err == nil {
		if sum := sha256.Sum256(content); digestPrefix+hex.EncodeToString(sum[:]) == id {
			return content, nil
		}
	}
	return repo.Config(ctx, id, size)
}

// resolved is a manifest, and under which digest it was found: that of the index, if there is one.
type resolved struct {
	manifest *v1.Manifest
	body     []byte
	digest   string
}

func resolve(ctx context.Context, repo *registry.Repository, identifier string) (resolved, error) {
	top := ""
	for range maxIndexDepth {
		doc, err := repo.Manifest(ctx, identifier)
		if err != nil {
			return resolved{}, fmt.Errorf("fetching the manifest: %w", err)
		}
		if top == "" {
			top = doc.Digest
		}
		manifest, index, err := doc.Parse()
		if err != nil {
			return resolved{}, err
		}
		if manifest != nil {
			return resolved{manifest: manifest, body: doc.Body, digest: top}, nil
		}
		if identifier, err = registry.Choose(index); err != nil {
			return resolved{}, err
		}
	}
	return resolved{}, fmt.Errorf("indexes of indexes, more than %d deep: %w", maxIndexDepth, errdefs.ErrInvalidArgument)
}

// commitImage makes the image last. The layers that are held for the pull are the record's from here on, unless it fails.
func (s *Store) commitImage(rec *record, ref reference, found resolved, config []byte) (Image, error) {
	layers := unique(rec.Layers)
	if !s.committed(layers) {
		if err := s.sync(); err != nil {
			return Image{}, err
		}
	}
	s.commit.Lock()
	defer s.commit.Unlock()
	if img, ok := s.unchanged(rec, ref, found.digest); ok {
		s.release(layers)
		return img, nil
	}
	if err := s.commitLayers(layers); err != nil {
		return Image{}, err
	}
	if err := syncPath(s.path("layers")); err != nil {
		return Image{}, fmt.Errorf("syncing the layers' directory: %w", err)
	}
	s.mu.Lock()
	old := s.images[rec.ID]
	var loser *record
	if id, taken := s.view.Load().names[ref.String()]; taken && ref.tag != "" && id != rec.ID {
		loser = s.images[id].clone()
	}
	for _, key := range layers {
		rec.Size += uint64(s.layers[key].bytes)
	}
	s.mu.Unlock()
	rec.Size += uint64(len(found.body) + len(config)) // an image without layers takes space too
	if old != nil {
		rec.Tags, rec.Digests = old.clone().Tags, old.clone().Digests
	}
	rec.add(ref, found.digest)
	rec.Pulled = time.Now()
	if err := s.writeRecord(rec, found.body, config, old != nil); err != nil {
		return Image{}, fmt.Errorf("recording the image: %w", err)
	}
	if loser != nil {
		loser.dropTag(ref.String())
		if err := s.rewriteRecord(loser); err != nil {
			s.log.Error("taking a tag from the image that had it; the newer record counts", "tag", ref.String(), "id", loser.ID, "error", err)
		}
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if old != nil {
		s.unhold(unique(old.Layers))
	}
	if loser != nil {
		s.images[loser.ID] = loser
	}
	s.images[rec.ID] = rec
	s.publish()
	v := s.view.Load()
	return v.images[v.byID[rec.ID]], nil
}

func (s *Store) committed(keys []string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		if !s.layers[key].committed {
			return false
		}
	}
	return true
}

// unchanged answers the image when it is there with this very name, so that nothing need be written. commit is held.
func (s *Store) unchanged(rec *record, ref reference, digest string) (Image, bool) {
	v := s.view.Load()
	i, there := v.byID[rec.ID]
	if !there || v.names[ref.String()] != rec.ID {
		return Image{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.images[rec.ID]
	with := old.clone()
	with.add(ref, digest)
	if !slices.Equal(with.Digests, old.Digests) || !slices.Equal(with.Layers, rec.Layers) {
		return Image{}, false
	}
	return v.images[i], true
}

func (s *Store) writeRecord(rec *record, manifest, config []byte, exists bool) error {
	if exists {
		return s.rewriteRecord(rec)
	}
	content, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	tmp, err := s.temp("image")
	if err != nil {
		return err
	}
	err = errors.Join(
		writeFile(s.path(tmp, "manifest"), manifest, true),
		writeFile(s.path(tmp, "config"), config, true),
		writeFile(s.path(tmp, "record.json"), content, true),
		syncPath(s.path(tmp)))
	if err == nil {
		err = os.Rename(s.path(tmp), s.path("images", hexOf(string(rec.ID))))
	}
	if err != nil {
		return errors.Join(err, s.discard(s.path(tmp)))
	}
	return syncPath(s.path("images"))
}

func (s *Store) rewriteRecord(rec *record) error {
	content, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	return writeDurable(s.path("images", hexOf(string(rec.ID)), "record.json"), content)
}
