// Package bundle puts everything that the black-box tests run into one directory: shimd's programs, crictl, critest, ginkgo, `make up`'s
// program, the runner of critest, and the test images as an OCI layout. All of it is static, so the directory can be carried into a virtual machine or an enclosure without network.
//
// It builds and reads bundles; package daemon and package critest run what is in them.
package bundle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/shimd/shimd/integration/enclosure"
	"github.com/shimd/shimd/integration/images"
	"github.com/shimd/shimd/integration/tools"
)

// Variable names a bundle that stands already; without it one is built.
const Variable = "SHIMD_TEST_BUNDLE"

// nameAnnotation carries an image's name in the layout's index, with registry and tag.
const nameAnnotation = "org.opencontainers.image.ref.name"

// Bundle is such a directory.
type Bundle struct{ dir string }

// Programs is the directory of shimd and shimd-keeper, crictl, critest and ginkgo.
func (b Bundle) Programs() string { return filepath.Join(b.dir, "bin") }

// Program is the path of one of them.
func (b Bundle) Program(name string) string { return filepath.Join(b.Programs(), name) }

// Open uses a bundle that stands.
func Open(dir string) Bundle { return Bundle{dir: dir} }

// Images reads the images of the bundle.
func (b Bundle) Images() (images.Set, error) {
	index, err := layout.ImageIndexFromPath(filepath.Join(b.dir, "images"))
	if err != nil {
		return nil, fmt.Errorf("reading the bundle's images: %w", err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("reading the bundle's images: %w", err)
	}
	set := images.Set{}
	for _, entry := range manifest.Manifests {
		name := entry.Annotations[nameAnnotation]
		if set[name], err = index.Image(entry.Digest); err != nil {
			return nil, fmt.Errorf("reading %s from the bundle: %w", name, err)
		}
	}
	return set, nil
}

// Write builds a bundle into dir, which is made.
func Write(ctx context.Context, root, dir string) (Bundle, error) {
	b := Bundle{dir: dir}
	if err := os.MkdirAll(b.Programs(), 0o755); err != nil {
		return b, fmt.Errorf("making the bundle's directory: %w", err)
	}
	if err := tools.BuildShimd(ctx, root, b.Programs()); err != nil {
		return b, err
	}
	for name, out := range map[string]string{"critest": filepath.Join(dir, "critest"), "up": b.Program("up")} {
		if err := (tools.Build{Dir: root, Package: "./integration/cmd/" + name, Out: out}).Run(ctx); err != nil {
			return b, err
		}
	}
	set, err := images.All(ctx, images.Options{Root: root})
	if err != nil {
		return b, err
	}
	if err := writeImages(filepath.Join(dir, "images"), set); err != nil {
		return b, err
	}
	pinned, err := set[tools.PinnedImage+":latest"].Digest()
	if err != nil {
		return b, fmt.Errorf("taking the digest of %s: %w", tools.PinnedImage, err)
	}
	built, err := tools.BuildCRITools(ctx, root, pinned.String())
	if err != nil {
		return b, err
	}
	for _, program := range []string{built.Crictl, built.Critest, built.Ginkgo} {
		if err := copyProgram(b.Program(filepath.Base(program)), program); err != nil {
			return b, err
		}
	}
	return b, nil
}

func writeImages(dir string, set images.Set) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing the bundle's earlier images: %w", err)
	}
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return fmt.Errorf("writing the bundle's images: %w", err)
	}
	for name, image := range set {
		if err := path.AppendImage(image, layout.WithAnnotations(map[string]string{nameAnnotation: name})); err != nil {
			return fmt.Errorf("writing %s to the bundle: %w", name, err)
		}
	}
	return nil
}

// copyProgram makes a hard link where it can: the tools are large.
func copyProgram(to, from string) error {
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("replacing a program of the bundle: %w", err)
	}
	if err := os.Link(from, to); err == nil {
		return nil
	}
	body, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("copying a program to the bundle: %w", err)
	}
	if err := os.WriteFile(to, body, 0o755); err != nil {
		return fmt.Errorf("copying a program to the bundle: %w", err)
	}
	return nil
}

// Enter answers the bundle to use, from inside an enclosure. A bundle that is built for this run is built outside, where there is a network, and
// removed at its end. Without root it answers false: the caller skips what needs one.
func Enter(ctx context.Context, opts enclosure.Options) (Bundle, bool, error) {
	if os.Geteuid() != 0 {
		return Bundle{}, false, nil
	}
	if dir := os.Getenv(Variable); dir != "" {
		return Open(dir), enclosure.Enter(opts), nil
	}
	root, err := tools.ModuleRoot()
	if err != nil {
		return Bundle{}, false, err
	}
	dir, err := os.MkdirTemp("", "shimd-bundle-")
	if err != nil {
		return Bundle{}, false, fmt.Errorf("making a directory for the bundle: %w", err)
	}
	callers := opts.AtExit
	opts.AtExit = func() error {
		err := os.RemoveAll(dir)
		if callers != nil {
			err = errors.Join(err, callers())
		}
		return err
	}
	if _, err := Write(ctx, root, dir); err != nil {
		return Bundle{}, false, errors.Join(err, opts.AtExit())
	}
	if err := os.Setenv(Variable, dir); err != nil {
		return Bundle{}, false, err
	}
	return Open(dir), enclosure.Enter(opts), nil
}
