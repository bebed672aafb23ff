package images

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/shimd/shimd/integration/tools"
)

// recipeFormat is part of every key: raise it when this package makes something else of the same recipe.
const recipeFormat = "1"

// recipe says all that an image is made of. Two recipes with the same words, built with the same Go and from the same Debian release, are
// the same image: it is built once.
type recipe struct {
	from     *recipe  // whose layers are below; nil for none
	packages []string // of Debian, with all that they need
	without  []string // packages that are left out although something needs them
	database bool     // keep dpkg's records of the packages, so that more can be installed
	applets  bool     // link busybox, which is among the packages, to all its names
	pool     []string // packages, with what they need beyond the image's own, that a local archive in the image offers
	programs []Program
	sources  []source
	files    []file
	served   []served
	config   v1.Config
}

// Program is a Go main package, and where its static binary is in an image.
type Program struct {
	// Module is the directory of the go.mod to build in, below the root of the source tree: integration/tools/NAME, or "" for the tree itself.
	Module  string
	Package string // an import path, or ./PATH in the module
	Path    string // in the image; "" for / and the last element of Package
	Mode    int64  // 0 for 0755
	LDFlags string

	tool string // one of the programs that package tools keeps for a cluster and the suites; Module and Package are not looked at then
}

// source is a file of a module that the tools' modules require, put into an image as it is.
type source struct {
	tools  string // directory with the go.mod that requires it
	module string
	name   string // of the file in the module
	path   string // in the image
}

// served is an image in a static registry's folder inside another image (agnhost's fake-registry-server).
type served struct {
	name, tag string
	recipe    recipe
}

func (p Program) path() string {
	switch {
	case p.Path != "":
		return p.Path
	case p.tool != "":
		return "/" + p.tool
	}
	return "/" + path.Base(p.Package)
}

// local says whether the program's source is in the tree, and so not named by the versions in go.mod.
func (p Program) local() bool { return strings.HasPrefix(p.Package, ".") }

// make answers the image of a recipe, from the disk when it was built before.
func (b *builder) make(r recipe, name string) (v1.Image, error) {
	key, err := b.key(r)
	if err != nil {
		return nil, err
	}
	image, found, err := b.store.get(key)
	if err != nil || found {
		return image, err
	}
	unlock, err := b.store.lock(b.ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if b.opts.Progress != nil {
		fmt.Fprintf(b.opts.Progress, "building the image %s\n", name)
	}
	return b.makeLocked(r)
}

// makeLocked is make for who holds the store's lock. It looks again: another process may have built the image meanwhile.
func (b *builder) makeLocked(r recipe) (v1.Image, error) {
	key, err := b.key(r)
	if err != nil {
		return nil, err
	}
	image, found, err := b.store.get(key)
	if err != nil || found {
		return image, err
	}
	base := empty.Image
	if below := r.below(); below != nil {
		if base, err = b.makeLocked(*below); err != nil {
			return nil, err
		}
	}
	if image, err = b.cook(base, r); err != nil {
		return nil, err
	}
	return b.store.put(key, image)
}

// below is the recipe of the layers under the last one; nil when that is all. The packages of a recipe with more in it are an image of their own: they
// change seldom, and are kept when a program changes.
func (r recipe) below() *recipe {
	if len(r.packages) == 0 || r.onlyPackages() {
		return r.from
	}
	return &recipe{from: r.from, packages: r.packages, without: r.without, database: r.database, applets: r.applets, pool: r.pool}
}

func (r recipe) onlyPackages() bool {
	return len(r.packages) > 0 && len(r.programs)+len(r.sources)+len(r.files)+len(r.served) == 0
}

// cook builds the last layer of a recipe on what is below.
func (b *builder) cook(base v1.Image, r recipe) (v1.Image, error) {
	if r.onlyPackages() {
		files, err := b.debianLayer(r)
		if err != nil {
			return nil, err
		}
		layer, err := newLayer(files, tarball.WithCompressionLevel(1))
		if err != nil {
			return nil, err
		}
		if base, err = mutate.AppendLayers(base, layer); err != nil {
			return nil, fmt.Errorf("adding a layer of Debian's packages: %w", err)
		}
		return b.image(base, r.config)
	}
	files := slices.Clone(r.files)
	for _, p := range r.programs {
		f, err := b.program(p)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	for _, s := range r.sources {
		f, err := b.source(s)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	for _, s := range r.served {
		folder, err := b.served(s)
		if err != nil {
			return nil, err
		}
		files = append(files, folder...)
	}
	return b.image(base, r.config, overlay(files)...)
}

// debianLayer is the packages of a recipe, unpacked, and what goes with them. When they can't be had, the index may be old or missing: it is fetched,
// and they are tried again.
func (b *builder) debianLayer(r recipe) ([]file, error) {
	files, err := b.unpackedPackages(r)
	if err == nil {
		return files, nil
	}
	if updateErr := updateIndex(b.ctx); updateErr != nil {
		return nil, errors.Join(err, updateErr)
	}
	b.debian = nil
	return b.unpackedPackages(r)
}

func (b *builder) unpackedPackages(r recipe) ([]file, error) {
	if b.debian == nil {
		index, err := debianIndex(b.ctx, b.opts.Arch)
		if err != nil {
			return nil, err
		}
		b.debian = index
	}
	packages, err := closure(b.debian, r.packages, r.without)
	if err != nil {
		return nil, err
	}
	debs, err := fetch(b.ctx, packages, b.opts.Arch)
	if err != nil {
		return nil, err
	}
	unpacked, err := unpack(b.ctx, debs)
	if err != nil {
		return nil, err
	}
	files := mergedUsr()
	if r.applets {
		for _, name := range staticApplets() {
			files = append(files, file{path: "/usr/bin/" + name, hardlink: "/usr/bin/busybox"})
		}
	}
	files = append(files, unpacked...)
	if r.database {
		records, err := packageDatabase(b.ctx, packages, debs)
		if err != nil {
			return nil, err
		}
		files = append(files, records...)
	}
	if len(r.pool) > 0 {
		archive, err := b.localArchive(b.debian, packages, r.pool)
		if err != nil {
			return nil, err
		}
		files = append(files, archive...)
	}
	return overlay(files), nil
}

// program builds a program into the cache, where the go command finds that nothing is to do the next time.
func (b *builder) program(p Program) (file, error) {
	out, err := b.built(p)
	if err != nil {
		return file{}, err
	}
	f, err := program(p.path(), out)
	if p.Mode != 0 {
		f.mode = p.Mode
	}
	return f, err
}

// built answers the path of a program's binary.
func (b *builder) built(p Program) (string, error) {
	if p.tool != "" {
		t, err := tools.BuildProgram(b.ctx, b.opts.Root, p.tool)
		return t.Path, err
	}
	dir := filepath.Join(b.opts.Root, p.Module)
	where := sha256.Sum256([]byte(dir + "\n" + p.Package + "\n" + p.LDFlags))
	out := filepath.Join(b.store.dir, "programs", b.opts.Arch, fmt.Sprintf("%s-%x", path.Base(p.path()), where[:6]))
	if b.programs[out] {
		return out, nil
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return "", fmt.Errorf("making the cache for programs: %w", err)
	}
	err := tools.Build{Dir: dir, Package: p.Package, Out: out, Arch: b.opts.Arch, LDFlags: p.LDFlags}.Run(b.ctx)
	b.programs[out] = err == nil
	return out, err
}

// source reads a file of a module from the module cache.
func (b *builder) source(s source) (file, error) {
	dir, _, err := tools.ModuleSource(b.ctx, filepath.Join(b.opts.Root, s.tools), s.module)
	if err != nil {
		return file{}, err
	}
	body, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(s.name)))
	if err != nil {
		return file{}, fmt.Errorf("reading %s of %s: %w", s.name, s.module, err)
	}
	return file{path: s.path, body: body}, nil
}

// served lays an image out as the static registry of agnhost expects it: /var/registry/NAME/{manifests,blobs}/sha256/ab/abc.../data, and a file
// for the tag that holds the digest.
func (b *builder) served(s served) ([]file, error) {
	image, err := b.makeLocked(s.recipe)
	if err != nil {
		return nil, err
	}
	digest, err := image.Digest()
	if err != nil {
		return nil, fmt.Errorf("taking the digest of %s: %w", s.name, err)
	}
	manifest, err := image.RawManifest()
	if err != nil {
		return nil, fmt.Errorf("reading the manifest of %s: %w", s.name, err)
	}
	config, err := image.ConfigName()
	if err != nil {
		return nil, fmt.Errorf("taking the digest of %s's configuration: %w", s.name, err)
	}
	configBody, err := image.RawConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of %s: %w", s.name, err)
	}
	root := "/var/registry/" + s.name
	at := func(kind string, h v1.Hash) string {
		return path.Join(root, kind, h.Algorithm, h.Hex[:2], h.Hex, "data")
	}
	files := []file{
		{path: path.Join(root, "manifests", s.tag), body: []byte(digest.String() + "\n")},
		{path: at("manifests", digest), body: manifest},
		{path: at("blobs", config), body: configBody},
	}
	layers, err := image.Layers()
	if err != nil {
		return nil, fmt.Errorf("reading the layers of %s: %w", s.name, err)
	}
	for _, layer := range layers {
		digest, err := layer.Digest()
		if err != nil {
			return nil, fmt.Errorf("taking the digest of a layer of %s: %w", s.name, err)
		}
		body, err := os.ReadFile(b.store.blob(digest))
		if err != nil {
			return nil, fmt.Errorf("reading a layer of %s: %w", s.name, err)
		}
		files = append(files, file{path: at("blobs", digest), body: body})
	}
	return files, nil
}

// key names what a recipe makes: its words, the programs' modules or binaries, Go's version, Debian's release.
func (b *builder) key(r recipe) (string, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, recipeFormat, b.opts.Arch)
	if r.from != nil {
		below, err := b.key(*r.from)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(sum, "from", below)
	}
	fmt.Fprintf(sum, "%q %q %t %t %q %#v\n", r.packages, r.without, r.database, r.applets, r.pool, r.config)
	if len(r.packages) > 0 {
		release, err := os.ReadFile("/etc/debian_version")
		if err != nil {
			return "", fmt.Errorf("reading Debian's version: %w\ntest images are made of Debian's packages: run this on Debian", err)
		}
		major, _, _ := strings.Cut(strings.TrimSpace(string(release)), ".")
		fmt.Fprintln(sum, "debian", major)
	}
	for _, f := range r.files {
		fmt.Fprintf(sum, "%#v\n", f)
	}
	for _, s := range r.sources {
		key, err := b.moduleKey(s.tools)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%#v %s\n", s, key)
	}
	for _, p := range r.programs {
		if err := b.programKey(sum, p); err != nil {
			return "", err
		}
	}
	for _, s := range r.served {
		key, err := b.key(s.recipe)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(sum, "serves", s.name, s.tag, key)
	}
	return fmt.Sprintf("%x", sum.Sum(nil)[:16]), nil
}

func (b *builder) programKey(sum io.Writer, p Program) error {
	fmt.Fprintf(sum, "%#v\n", p)
	switch {
	case p.tool != "":
		t, _, err := tools.FindProgram(b.ctx, b.opts.Root, p.tool)
		fmt.Fprintln(sum, filepath.Base(filepath.Dir(t.Path))) // names version and module
		return err
	case p.Module != "":
		key, err := b.moduleKey(p.Module)
		fmt.Fprintln(sum, key)
		if err != nil || !p.local() {
			return err
		}
		return sources(sum, filepath.Join(b.opts.Root, p.Module))
	}
	// Its source is in the tree, which has more than it needs: what it depends on shows in the binary, and the go command says fast that it has one.
	out, err := b.built(p)
	if err != nil {
		return err
	}
	return content(sum, out)
}

// sources writes all Go files of a module of its own, with their names.
func sources(sum io.Writer, dir string) error {
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(name) != ".go" {
			return err
		}
		fmt.Fprintln(sum, strings.TrimPrefix(name, dir))
		return content(sum, name)
	})
	if err != nil {
		return fmt.Errorf("reading the sources in %s: %w", dir, err)
	}
	return nil
}

// content writes the hash of a file.
func content(sum io.Writer, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("taking the hash of %s: %w", name, err)
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return fmt.Errorf("taking the hash of %s: %w", name, err)
	}
	fmt.Fprintf(sum, "%x\n", hash.Sum(nil))
	return nil
}

// moduleKey is read once for each module and builder: it asks the go command.
func (b *builder) moduleKey(module string) (string, error) {
	if key, ok := b.modules[module]; ok {
		return key, nil
	}
	key, err := tools.ModuleKey(b.ctx, filepath.Join(b.opts.Root, module))
	if err == nil {
		b.modules[module] = key
	}
	return key, err
}
