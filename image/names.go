package image

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/shimd/shimd/image/registry"
)

const (
	digestPrefix = "sha256:"
	// dockerHost is what the library calls docker.io.
	dockerHost = "index.docker.io"
	maxRef     = 4096
)

// reference is a name of an image, normalized.
type reference struct {
	registry   string // "docker.io"
	repository string // "library/busybox"
	tag        string // "" with a digest
	digest     string
}

// parseReference reads a name as clients write it. With tag and digest, the digest counts, as it does for all clients.
func parseReference(s string) (reference, error) {
	if len(s) > maxRef {
		return reference{}, fmt.Errorf("an image name of %d bytes: %w", len(s), errdefs.ErrInvalidArgument)
	}
	parsed, err := name.ParseReference(s, name.WeakValidation)
	if err != nil {
		return reference{}, fmt.Errorf("image name %.200q: %w: %w", s, err, errdefs.ErrInvalidArgument)
	}
	ref := reference{registry: parsed.Context().RegistryStr(), repository: parsed.Context().RepositoryStr()}
	if ref.registry == dockerHost {
		ref.registry = "docker.io"
	}
	if strings.ContainsAny(ref.registry, "/\\") || strings.Contains(ref.registry, "..") {
		return reference{}, fmt.Errorf("image name %.200q: no registry is called %q: %w", s, ref.registry, errdefs.ErrInvalidArgument)
	}
	switch p := parsed.(type) {
	case name.Digest:
		ref.digest = p.DigestStr()
		if err := registry.CheckDigest(ref.digest); err != nil {
			return reference{}, fmt.Errorf("image name %.200q: %w", s, err)
		}
	case name.Tag:
		ref.tag = p.TagStr()
	}
	return ref, nil
}

func (r reference) repo() string { return r.registry + "/" + r.repository }

func (r reference) identifier() string {
	if r.digest != "" {
		return r.digest
	}
	return r.tag
}

func (r reference) String() string {
	if r.digest != "" {
		return r.repo() + "@" + r.digest
	}
	return r.repo() + ":" + r.tag
}

// repoOf is the repository part of a normalized name.
func repoOf(name string) string {
	if repo, _, found := strings.Cut(name, "@"); found {
		return repo
	}
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		return name[:i]
	}
	return name
}

// hexDigits are an ID, or at least as much of one as tools print. Fewer would let a name such as "cafe", whose image is not here, mean another image.
var hexDigits = regexp.MustCompile(`^[a-f0-9]{12,64}$`)

// idPrefix says whether ref may be an ID or the beginning of one, and its digits.
func idPrefix(ref string) (string, bool) {
	digits := strings.TrimPrefix(ref, digestPrefix)
	return digits, hexDigits.MatchString(digits)
}

func hexOf(digest string) string { return strings.TrimPrefix(digest, digestPrefix) }
