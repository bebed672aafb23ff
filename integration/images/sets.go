package images

import (
	"context"
	"fmt"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Cluster builds what a cluster itself pulls: the pause image, CoreDNS, and busybox to look around with.
func Cluster(ctx context.Context, opts Options) (Set, error) {
	return build(ctx, opts, clusterImages())
}

// Conformance builds what Kubernetes' end-to-end specs with [Conformance] in their names pull, and what Cluster builds.
func Conformance(ctx context.Context, opts Options) (Set, error) {
	return build(ctx, opts, conformanceImages())
}

// NodeConformance builds what Kubernetes' node specs with [NodeConformance] pull, and what Cluster builds.
func NodeConformance(ctx context.Context, opts Options) (Set, error) {
	return build(ctx, opts, nodeConformanceImages())
}

// Examples builds what the manifests in examples/ name, and what Cluster builds.
func Examples(ctx context.Context, opts Options) (Set, error) {
	return build(ctx, opts, exampleImages())
}

// Everything builds the images of all these.
func Everything(ctx context.Context, opts Options) (Set, error) {
	return build(ctx, opts, everything())
}

func everything() []named {
	return slices.Concat(conformanceImages(), nodeConformanceImages(), exampleImages())
}

// Sets are the functions above by the names that commands use.
func Sets() map[string]func(context.Context, Options) (Set, error) {
	return map[string]func(context.Context, Options) (Set, error){
		"cluster": Cluster, "conformance": Conformance, "node-conformance": NodeConformance, "examples": Examples, "everything": Everything,
	}
}

// Kept answers what there is on the disk of Everything, and the first names of the images that would have to be built: for who can't wait for that.
func Kept(ctx context.Context, opts Options) (set Set, missing []string, err error) {
	b, err := newBuilder(ctx, opts)
	if err != nil {
		return nil, nil, err
	}
	defer b.close()
	set = Set{}
	for _, n := range everything() {
		key, err := b.key(n.recipe)
		if err != nil {
			return nil, nil, fmt.Errorf("looking for the image %s: %w", n.names[0], err)
		}
		image, found, err := b.store.get(key)
		switch {
		case err != nil:
			return nil, nil, err
		case !found:
			missing = append(missing, n.names[0])
			continue
		}
		for _, name := range n.names {
			set[name] = image
		}
	}
	return set, missing, nil
}

// FromProgram builds the image of one Go main package: its static binary, as the entrypoint, and nothing else but /etc/passwd and /tmp. It is how a
// program of examples/ gets into a cluster:
//
//	set["registry.k8s.io/shimd/my-operator:1"], err = images.FromProgram(ctx, opts, images.Program{Package: "./examples/operator"})
func FromProgram(ctx context.Context, opts Options, p Program) (v1.Image, error) {
	set, err := build(ctx, opts, []named{{programImage(p), []string{p.path()}}})
	return set[p.path()], err
}

func programImage(p Program) recipe {
	return recipe{
		programs: []Program{p},
		files:    []file{{path: "/etc/passwd", body: []byte(passwd)}, {path: "/tmp", dir: true, mode: 0o1777}},
		config:   v1.Config{Entrypoint: []string{p.path()}},
	}
}

// build makes images, or finds them on the disk. It says what it was doing when one fails: by the image's first name.
func build(ctx context.Context, opts Options, list []named) (Set, error) {
	b, err := newBuilder(ctx, opts)
	if err != nil {
		return nil, err
	}
	defer b.close()
	set := Set{}
	for _, n := range list {
		image, err := b.make(n.recipe, n.names[0])
		if err != nil {
			return nil, fmt.Errorf("building the image %s: %w", n.names[0], err)
		}
		for _, name := range n.names {
			set[name] = image
		}
	}
	return set, nil
}
