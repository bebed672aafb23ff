package tools

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

const kubernetesModule = "k8s.io/kubernetes"

// Kubernetes are the paths of what is built from k8s.io/kubernetes.
type Kubernetes struct {
	Kubelet string
	Version string // v1.36.3
}

// BuildKubernetes builds the kubelet, or finds it in the cache. Building takes some six minutes of two cores.
func BuildKubernetes(ctx context.Context, root string) (Kubernetes, error) {
	k, err := newKubernetes(ctx, root)
	if err != nil {
		return Kubernetes{}, err
	}
	_, err = keep(k.name, func(draft string) error {
		return Build{
			Dir: k.module, Package: kubernetesModule + "/cmd/kubelet", Out: filepath.Join(draft, "kubelet"), LDFlags: k.stamp(),
		}.Run(ctx)
	})
	return k.Kubernetes, err
}

// FindKubernetes is BuildKubernetes for who can't wait: false when the cache does not have it.
func FindKubernetes(ctx context.Context, root string) (Kubernetes, bool, error) {
	k, err := newKubernetes(ctx, root)
	if err != nil {
		return Kubernetes{}, false, err
	}
	_, found, err := kept(k.name)
	return k.Kubernetes, found, err
}

type kubernetes struct {
	Kubernetes
	module string // its directory
	name   string // in the cache
}

// requiredKubernetes is the line of go.mod with the version.
var requiredKubernetes = regexp.MustCompile(`(?m)^\s*(?:require )?` + regexp.QuoteMeta(kubernetesModule) + ` (v\S+)$`)

func newKubernetes(ctx context.Context, root string) (kubernetes, error) {
	module := filepath.Join(root, "integration", "tools", "kubernetes")
	text, err := os.ReadFile(filepath.Join(module, "go.mod"))
	if err != nil {
		return kubernetes{}, fmt.Errorf("reading Kubernetes' version: %w", err)
	}
	required := requiredKubernetes.FindSubmatch(text)
	if required == nil {
		return kubernetes{}, fmt.Errorf("reading Kubernetes' version: no requirement of %s in %s", kubernetesModule, filepath.Join(module, "go.mod"))
	}
	key, err := cacheKey(ctx, module)
	if err != nil {
		return kubernetes{}, err
	}
	cache, err := CacheDir()
	if err != nil {
		return kubernetes{}, err
	}
	version := string(required[1])
	name := "kubernetes-" + strings.TrimPrefix(version, "v") + "-" + key
	return kubernetes{
		Kubernetes: Kubernetes{Kubelet: filepath.Join(cache, name, "kubelet"), Version: version},
		module:     module, name: name,
	}, nil
}

// stamp makes the programs tell their version, which they compare with each other's; without it all are v0.0.0.
func (k kubernetes) stamp() string {
	const variable = " -X k8s.io/component-base/version."
	fields := strings.SplitN(strings.TrimPrefix(k.Version, "v"), ".", 3)
	return variable + "gitVersion=" + k.Version + variable + "gitMajor=" + fields[0] + variable + "gitMinor=" + fields[1]
}
