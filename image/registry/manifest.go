package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	goruntime "runtime"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// maxLayers is overlayfs' limit on lower directories.
const maxLayers = 500

func acceptedManifests() []string {
	return []string{
		string(types.OCIImageIndex), string(types.DockerManifestList), string(types.OCIManifestSchema1), string(types.DockerManifestSchema2), "*/*",
	}
}

// Parse reads a manifest or an index: one of the two is nil. What could be read as both is refused (GHSA-5j5w, CVE-2021-41190): two programs would see two different
// images under one digest.
func (d Document) Parse() (*v1.Manifest, *v1.IndexManifest, error) {
	var shape struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     types.MediaType `json:"mediaType"`
		Config        json.RawMessage `json:"config"`
		Layers        json.RawMessage `json:"layers"`
		Manifests     json.RawMessage `json:"manifests"`
		FSLayers      json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(d.Body, &shape); err != nil {
		return nil, nil, fmt.Errorf("the manifest is not JSON as it should be: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	header := types.MediaType(d.MediaType)
	if shape.SchemaVersion == 1 || shape.FSLayers != nil || header == types.DockerManifestSchema1 || header == types.DockerManifestSchema1Signed {
		return nil, nil, fmt.Errorf("the image has a Docker schema 1 manifest, which is obsolete; push it again with a current tool: %w", errdefs.ErrNotImplemented)
	}
	image := shape.Config != nil || shape.Layers != nil
	if image == (shape.Manifests != nil) {
		return nil, nil, fmt.Errorf("the document is both or neither of an image manifest and an index: %w", errdefs.ErrInvalidArgument)
	}
	for _, mediaType := range []types.MediaType{header, shape.MediaType} {
		if mediaType.IsImage() && !image || mediaType.IsIndex() && image {
			return nil, nil, fmt.Errorf("the document is said to be %q, and is not: %w", mediaType, errdefs.ErrInvalidArgument)
		}
	}
	if !image {
		index, err := v1.ParseIndexManifest(bytes.NewReader(d.Body))
		if err != nil {
			return nil, nil, fmt.Errorf("reading the index: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return nil, index, nil
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(d.Body))
	if err != nil {
		return nil, nil, fmt.Errorf("reading the manifest: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return manifest, nil, checkManifest(manifest)
}

func checkManifest(m *v1.Manifest) error {
	if len(m.Layers) > maxLayers {
		return fmt.Errorf("the image has %d layers, %d are possible: %w", len(m.Layers), maxLayers, errdefs.ErrInvalidArgument)
	}
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if err := CheckDigest(d.Digest.String()); err != nil {
			return err
		}
		if d.Size < 0 {
			return fmt.Errorf("blob %s has %d bytes: %w", d.Digest, d.Size, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// Choose finds the manifest of an index for this machine: its digest.
func Choose(index *v1.IndexManifest) (string, error) { return chooseFor(index, goruntime.GOARCH) }

func chooseFor(index *v1.IndexManifest, arch string) (string, error) {
	best, bestRank := "", 0
	for _, d := range index.Manifests {
		if rank := rank(d, arch); rank > bestRank {
			best, bestRank = d.Digest.String(), rank
		}
	}
	if best == "" {
		return "", fmt.Errorf("the image has nothing for linux/%s: %w", arch, errdefs.ErrNotFound)
	}
	return best, CheckDigest(best)
}

// rank is 0 for what does not run here. Among what does, the plain variant is best: every machine has it.
func rank(d v1.Descriptor, arch string) int {
	if d.Annotations["vnd.docker.reference.type"] != "" || d.MediaType != "" && !d.MediaType.IsImage() && !d.MediaType.IsIndex() {
		return 0 // an attestation or the like
	}
	if d.Platform == nil {
		return 1 // nothing said; better than nothing
	}
	if d.Platform.OS != "linux" && d.Platform.OS != "" || d.Platform.Architecture != arch {
		return 0
	}
	switch variant := d.Platform.Variant; {
	case variant == "", arch == "arm64" && variant == "v8", arch == "amd64" && variant == "v1":
		return 4
	case arch == "amd64" && variant == "v2":
		return 3
	default:
		return 2
	}
}
