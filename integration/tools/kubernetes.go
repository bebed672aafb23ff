package tools

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

const kubernetesModule = "k8s.io/kubernetes"

// clusterProgram is one program of a Kubernetes cluster or of its test suites.
type clusterProgram struct {
	name   string
	module string // below integration/tools
	pkg    string
	test   bool // go test -c
	suite  bool // only the suites need it
}

// clusterPrograms in the order in which they are built: those that a cluster starts with come first.
func clusterPrograms() []clusterProgram {
	return []clusterProgram{
		{name: "etcd", module: "etcd", pkg: "go.etcd.io/etcd/server/v3"},
		{name: "kube-apiserver", module: "kubernetes", pkg: kubernetesModule + "/cmd/kube-apiserver"},
		{name: "kube-controller-manager", module: "kubernetes", pkg: kubernetesModule + "/cmd/kube-controller-manager"},
		{name: "kube-scheduler", module: "kubernetes", pkg: kubernetesModule + "/cmd/kube-scheduler"},
		{name: "kubectl", module: "kubernetes", pkg: kubernetesModule + "/cmd/kubectl"},
		{name: "kubelet", module: "kubernetes", pkg: kubernetesModule + "/cmd/kubelet"},
		{name: "kube-proxy", module: "kubernetes", pkg: kubernetesModule + "/cmd/kube-proxy"},
		{name: "etcdctl", module: "etcd", pkg: "go.etcd.io/etcd/etcdctl/v3", suite: true},
		{name: "agnhost", module: "kubernetes", pkg: kubernetesModule + "/test/images/agnhost", suite: true},
		{name: "ginkgo", module: "kubernetes", pkg: ginkgoPackage, suite: true},
		{name: "e2e.test", module: "kubernetes", pkg: kubernetesModule + "/test/e2e", test: true, suite: true},
		{name: "e2e_node.test", module: "kubernetes", pkg: kubernetesModule + "/test/e2e_node", test: true, suite: true},
	}
}

// ClusterPrograms are the names of what a cluster needs, in building order.
func ClusterPrograms() []string { return clusterProgramNames(false) }

// SuitePrograms are the names of what Kubernetes' test suites need beyond that, in building order.
func SuitePrograms() []string { return clusterProgramNames(true) }

func clusterProgramNames(suite bool) []string {
	var names []string
	for _, p := range clusterPrograms() {
		if p.suite == suite {
			names = append(names, p.name)
		}
	}
	return names
}

// Program is one of ClusterPrograms or SuitePrograms.
type Program struct {
	Name    string
	Path    string // in the cache
	Version string // of its module: v1.36.3
}

// BuildProgram builds one program, or finds it in the cache. Each is cached for itself. Some take ten minutes of two cores.
func BuildProgram(ctx context.Context, root, name string) (Program, error) {
	t, err := newTarget(ctx, root, name)
	if err != nil {
		return Program{}, err
	}
	_, err = keep(t.entry, func(draft string) error {
		return Build{
			Dir: t.dir, Package: t.pkg, Out: filepath.Join(draft, name), Test: t.test, LDFlags: t.stamp(),
		}.Run(ctx)
	})
	return t.built, err
}

// FindProgram is BuildProgram for who can't wait: false when the cache does not have it.
func FindProgram(ctx context.Context, root, name string) (Program, bool, error) {
	t, err := newTarget(ctx, root, name)
	if err != nil {
		return Program{}, false, err
	}
	_, found, err := kept(t.entry)
	return t.built, found, err
}

// BuildPrograms builds what the cache does not have, one after the other, and says what it is at.
func BuildPrograms(ctx context.Context, root string, names []string, progress func(format string, args ...any)) ([]Program, error) {
	var found []Program
	var missing []string
	for _, name := range names {
		p, cached, err := FindProgram(ctx, root, name)
		if err != nil {
			return nil, err
		}
		found = append(found, p)
		if !cached {
			missing = append(missing, name)
		}
	}
	for i, name := range missing {
		begin := time.Now()
		progress("building %s (%d of %d); it is kept for later", name, i+1, len(missing))
		if _, err := BuildProgram(ctx, root, name); err != nil {
			return nil, err
		}
		progress("built %s in %d s", name, int(time.Since(begin).Seconds()))
	}
	return found, nil
}

// MissingPrograms are those that the cache does not have.
func MissingPrograms(ctx context.Context, root string, names []string) ([]string, error) {
	var missing []string
	for _, name := range names {
		_, found, err := FindProgram(ctx, root, name)
		if err != nil {
			return nil, err
		}
		if !found {
			missing = append(missing, name)
		}
	}
	return missing, nil
}

// target is a program of this source tree's versions.
type target struct {
	clusterProgram
	dir   string // of its module
	entry string // in the cache
	built Program
}

func newTarget(ctx context.Context, root, name string) (target, error) {
	programs := clusterPrograms()
	at := slices.IndexFunc(programs, func(p clusterProgram) bool { return p.name == name })
	if at < 0 {
		return target{}, fmt.Errorf("building %s: there is no such program of a cluster", name)
	}
	t := target{clusterProgram: programs[at]}
	t.dir = filepath.Join(root, "integration", "tools", t.module)
	version, err := requiredVersion(t.dir)
	if err != nil {
		return target{}, err
	}
	key, err := cacheKey(ctx, t.dir)
	if err != nil {
		return target{}, err
	}
	cache, err := CacheDir()
	if err != nil {
		return target{}, err
	}
	t.entry = name + "-" + strings.TrimPrefix(version, "v") + "-" + key
	t.built = Program{Name: name, Path: filepath.Join(cache, t.entry, name), Version: version}
	return t, nil
}

// firstRequirement is the line of go.mod with the version of what the module is for.
var firstRequirement = regexp.MustCompile(`(?m)^require \S+ (v\S+)$`)

func requiredVersion(module string) (string, error) {
	text, err := os.ReadFile(filepath.Join(module, "go.mod"))
	if err != nil {
		return "", fmt.Errorf("reading the version of %s: %w", filepath.Base(module), err)
	}
	required := firstRequirement.FindSubmatch(text)
	if required == nil {
		return "", fmt.Errorf("reading the version of %s: no line `require MODULE VERSION` in its go.mod", filepath.Base(module))
	}
	return string(required[1]), nil
}

// stamp makes Kubernetes' programs tell their version, which they compare with each other's; without it all are v0.0.0.
func (t target) stamp() string {
	if t.module != "kubernetes" {
		return ""
	}
	const variable = " -X k8s.io/component-base/version."
	fields := strings.SplitN(strings.TrimPrefix(t.built.Version, "v"), ".", 3)
	return variable + "gitVersion=" + t.built.Version + variable + "gitMajor=" + fields[0] + variable + "gitMinor=" + fields[1]
}
