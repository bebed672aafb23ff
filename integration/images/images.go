// Package images builds the container images that tests, the demo and the examples pull, from Go sources and Debian's packages.
//
// Building is reproducible: the same sources, Go version and Debian packages give the same digests. What an image is called on which registry is
// decided here; serving them is package registry's.
//
// Images of critest and the demo are made in memory (All, Demo). Those of Kubernetes' suites, of a cluster and of the examples are recipes: what an
// image is made of, as data (kubernetes.go, nginx.go, debian_root.go, examples.go). A recipe is cooked once and kept on the disk, under a key of
// everything that it was made from. To give a program of one's own an image: FromProgram. Debian's packages are unpacked, none of their scripts
// is run.
package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/shimd/shimd/integration/tools"
)

// Set are images by the name that clients pull, registry and tag included.
type Set map[string]v1.Image

// Names of images that tests and tools refer to.
const (
	// Web is the demo: a small HTTP server on port 8080.
	Web = "registry.k8s.io/shimd/web:1"
	// Busybox is Debian's static busybox alone, linked to all its names.
	Busybox = "docker.io/library/busybox:latest"
	// CRIBusybox is the busybox that critest runs nearly everything in.
	CRIBusybox = "registry.k8s.io/e2e-test-images/busybox:1.29-2"
)

// Options say what to build from and for.
type Options struct {
	Root string // of the source tree
	Arch string // GOARCH; "" for this machine's

	Progress io.Writer // gets a line for each image that has to be built; nil for none
}

// Demo builds the image of `make up`. It needs nothing but Go.
func Demo(ctx context.Context, opts Options) (Set, error) {
	b, err := newBuilder(ctx, opts)
	if err != nil {
		return nil, err
	}
	defer b.close()
	web, err := b.web()
	return Set{Web: web}, err
}

// All builds every image: the demo's, busybox, and those that critest pulls.
func All(ctx context.Context, opts Options) (Set, error) {
	b, err := newBuilder(ctx, opts)
	if err != nil {
		return nil, err
	}
	defer b.close()
	set := Set{}
	if set[Web], err = b.web(); err != nil {
		return nil, err
	}
	if set[Busybox], err = b.staticBusybox(); err != nil {
		return nil, err
	}
	if err := b.addCritest(set); err != nil {
		return nil, err
	}
	return set, nil
}

// builder compiles programs and puts images together for one architecture.
type builder struct {
	ctx  context.Context // of the one build that the builder serves
	opts Options
	dir  string // for compiled programs

	store   store
	debian  map[string]debian // Debian's index, once it was read
	modules map[string]string // keys of modules, once they were taken

	programs map[string]bool // paths of those that were built
}

func newBuilder(ctx context.Context, opts Options) (*builder, error) {
	if opts.Arch == "" {
		opts.Arch = runtime.GOARCH
	}
	dir, err := os.MkdirTemp("", "shimd-images-")
	if err != nil {
		return nil, fmt.Errorf("making a directory to build images in: %w", err)
	}
	s, err := openStore()
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &builder{ctx: ctx, opts: opts, dir: dir, store: s, modules: map[string]string{}, programs: map[string]bool{}}, nil
}

func (b *builder) close() { _ = os.RemoveAll(b.dir) } // a temporary directory

// compile builds one of the programs beside this file and answers it as a file of a layer.
func (b *builder) compile(name, path string, mode int64) (file, error) {
	out := filepath.Join(b.dir, name)
	build := tools.Build{Dir: b.opts.Root, Package: "./integration/images/" + name, Out: out, Arch: b.opts.Arch}
	if _, err := os.Stat(out); err != nil {
		if err := build.Run(b.ctx); err != nil {
			return file{}, err
		}
	}
	f, err := program(path, out)
	f.mode = mode
	return f, err
}

// image puts layers and a configuration together; the history is left out, and so is the time.
func (b *builder) image(base v1.Image, config v1.Config, files ...file) (v1.Image, error) {
	image := base
	if len(files) > 0 {
		layer, err := newLayer(files)
		if err != nil {
			return nil, err
		}
		if image, err = mutate.AppendLayers(base, layer); err != nil {
			return nil, fmt.Errorf("adding a layer: %w", err)
		}
	}
	current, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of the base image: %w", err)
	}
	changed := current.DeepCopy()
	changed.Architecture, changed.OS, changed.Config = b.opts.Arch, "linux", config
	image, err = mutate.ConfigFile(image, changed)
	if err != nil {
		return nil, fmt.Errorf("setting the configuration of an image: %w", err)
	}
	return image, nil
}

func (b *builder) web() (v1.Image, error) {
	web, err := b.compile("web", "/web", 0o755)
	if err != nil {
		return nil, err
	}
	return b.image(empty.Image, v1.Config{
		Entrypoint: []string{"/web"}, User: "65532:65532", ExposedPorts: map[string]struct{}{"8080/tcp": {}},
	}, web, file{path: "/etc/passwd", body: []byte("root:x:0:0:root:/:/web\nweb:x:65532:65532:web:/:/web\n")})
}
