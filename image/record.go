package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"time"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/shimd/shimd/image/registry"
)

// record is what images/<hex>/record.json says. Beside it lie the manifest and the configuration as the registry gave them.
type record struct {
	Version int
	ID      ID
	Tags    []string
	Digests []digestName
	Layers  []string // keys of the layers, the lowest first
	Size    uint64
	Pulled  time.Time

	config  Config
	diffIDs []string
}

const recordVersion = 1

// digestName is a name by digest. Asked says that a client asked for this very name, so that it does not go with the last tag of its repository.
type digestName struct {
	Name  string
	Asked bool
}

func (r *record) clone() *record {
	c := *r
	c.Tags, c.Digests = slices.Clone(r.Tags), slices.Clone(r.Digests)
	return &c
}

// add gives the image a name, and the digest under which the name was found.
func (r *record) add(ref reference, digest string) {
	byDigest := reference{registry: ref.registry, repository: ref.repository, digest: digest}.String()
	if ref.tag != "" && !slices.Contains(r.Tags, ref.String()) {
		r.Tags = append(r.Tags, ref.String())
		sort.Strings(r.Tags)
	}
	for i := range r.Digests {
		if r.Digests[i].Name == byDigest {
			r.Digests[i].Asked = r.Digests[i].Asked || ref.tag == ""
			return
		}
	}
	r.Digests = append(r.Digests, digestName{Name: byDigest, Asked: ref.tag == ""})
	sort.Slice(r.Digests, func(i, j int) bool { return r.Digests[i].Name < r.Digests[j].Name })
}

// dropTag takes a tag that now belongs to another image. The digests stay: an image without tags stays until it is removed.
func (r *record) dropTag(tag string) bool {
	before := len(r.Tags)
	r.Tags = slices.DeleteFunc(r.Tags, func(t string) bool { return t == tag })
	return len(r.Tags) != before
}

// dropName removes a name that a client wants gone, and the digests that only came along with it.
func (r *record) dropName(name string) {
	r.dropTag(name)
	r.Digests = slices.DeleteFunc(r.Digests, func(d digestName) bool { return d.Name == name })
	repo := repoOf(name)
	if slices.ContainsFunc(r.Tags, func(t string) bool { return repoOf(t) == repo }) {
		return
	}
	r.Digests = slices.DeleteFunc(r.Digests, func(d digestName) bool { return !d.Asked && repoOf(d.Name) == repo })
}

func (r *record) image(pinned bool) Image {
	img := Image{ID: r.ID, RepoTags: slices.Clone(r.Tags), Size: r.Size, Config: r.config, DiffIDs: slices.Clone(r.diffIDs), Pinned: pinned}
	for _, d := range r.Digests {
		img.RepoDigests = append(img.RepoDigests, d.Name)
	}
	return img
}

// parseConfig reads an image's configuration, which is untrusted.
func parseConfig(content []byte) (Config, []string, error) {
	file, err := v1.ParseConfigFile(bytes.NewReader(content))
	if err != nil {
		return Config{}, nil, fmt.Errorf("reading the image configuration: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	var diffIDs []string
	for _, h := range file.RootFS.DiffIDs {
		if err := registry.CheckDigest(h.String()); err != nil {
			return Config{}, nil, fmt.Errorf("reading the image configuration's layers: %w", err)
		}
		diffIDs = append(diffIDs, h.String())
	}
	c := Config{
		User: file.Config.User, Env: file.Config.Env, Entrypoint: file.Config.Entrypoint, Cmd: file.Config.Cmd,
		WorkingDir: file.Config.WorkingDir, StopSignal: file.Config.StopSignal, Labels: file.Config.Labels,
		Architecture: file.Architecture, OS: file.OS,
	}
	for volume := range file.Config.Volumes {
		c.Volumes = append(c.Volumes, volume)
	}
	sort.Strings(c.Volumes)
	return c, diffIDs, nil
}

// readRecord reads the record in dir and checks all it says, but not whether the layers are there.
func readRecord(dir string) (*record, error) {
	content, err := readBounded(filepath.Join(dir, "record.json"))
	if err != nil {
		return nil, err
	}
	r, err := parseRecord(content)
	if err != nil {
		return nil, err
	}
	if string(r.ID) != digestPrefix+filepath.Base(dir) {
		return nil, fmt.Errorf("the record is of image %s: %w", r.ID, errdefs.ErrDataLoss)
	}
	config, err := readBounded(filepath.Join(dir, "config"))
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(config); digestPrefix+hex.EncodeToString(sum[:]) != string(r.ID) {
		return nil, fmt.Errorf("the configuration does not have the image's digest: %w", errdefs.ErrDataLoss)
	}
	if r.config, r.diffIDs, err = parseConfig(config); err != nil {
		return nil, err
	}
	return r, nil
}

// parseRecord is pure.
func parseRecord(content []byte) (*record, error) {
	var r record
	if err := json.Unmarshal(content, &r); err != nil {
		return nil, fmt.Errorf("reading the record: %w: %w", err, errdefs.ErrDataLoss)
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("the record has version %d, not %d: %w", r.Version, recordVersion, errdefs.ErrDataLoss)
	}
	if err := registry.CheckDigest(string(r.ID)); err != nil {
		return nil, err
	}
	for _, key := range r.Layers {
		if !validLayerKey(key) {
			return nil, fmt.Errorf("the record names a layer %.200q: %w", key, errdefs.ErrDataLoss)
		}
	}
	for _, tag := range r.Tags {
		if ref, err := parseReference(tag); err != nil || ref.String() != tag || ref.tag == "" {
			return nil, fmt.Errorf("the record has a tag %.200q: %w", tag, errdefs.ErrDataLoss)
		}
	}
	for _, d := range r.Digests {
		if ref, err := parseReference(d.Name); err != nil || ref.String() != d.Name || ref.digest == "" {
			return nil, fmt.Errorf("the record has a digest %.200q: %w", d.Name, errdefs.ErrDataLoss)
		}
	}
	return &r, nil
}

func readBounded(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, registry.MaxMetadata+1))
	if err == nil && len(content) > registry.MaxMetadata {
		err = fmt.Errorf("%s is larger than %d bytes: %w", file, registry.MaxMetadata, errdefs.ErrDataLoss)
	}
	return content, err
}

// writeDurable replaces a file whole, so that a power cut leaves the old one or the new one.
func writeDurable(file string, content []byte) error {
	return errors.Join(writeFile(file, content, true), syncPath(filepath.Dir(file)))
}

// writeFile replaces a file whole. Without sync, it is whole as far as this boot is concerned.
func writeFile(file string, content []byte, sync bool) (err error) {
	tmp := file + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil && sync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, file)
}

func syncPath(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
