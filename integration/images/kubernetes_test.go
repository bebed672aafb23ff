package images

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/shimd/shimd/integration/tools"
)

// notWanted says why specs with [Conformance] or [NodeConformance] do without an image that e2e.test names, by the start of its name.
func notWanted() map[string]string {
	return map[string]string{
		"gcr.io/k8s-authenticated-test/":      "needs credentials, which those specs that use it skip without",
		"invalid.registry.k8s.io/":            "there must be none: specs want the pull to fail",
		"registry.k8s.io/cloud-provider-gcp/": "a cloud's volumes",
		"registry.k8s.io/sig-storage/":        "CSI drivers and NFS",
		e2e + "volume/":                       "NFS and iSCSI servers need modules of the kernel",
		e2e + "node-perf/":                    "benchmarks",
		e2e + "apparmor-loader:":              "AppArmor's feature specs",
	}
}

// Every image that Kubernetes' own list has is made here, or it is said why not: a new version of Kubernetes cannot add one unnoticed.
func TestAllImagesThatE2ETestNames(t *testing.T) {
	root, err := tools.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	suite, found, err := tools.FindProgram(t.Context(), root, "e2e.test")
	if err != nil {
		t.Fatal(err)
	}
	if !found {
		t.Skip("e2e.test is not in the cache: it takes ten minutes to build")
	}
	out, err := exec.CommandContext(t.Context(), suite.Path, "--list-images").Output()
	if err != nil {
		t.Fatal(err)
	}
	var ours []string
	for _, n := range everything() {
		ours = append(ours, n.names...)
	}
	for _, name := range strings.Fields(string(out)) {
		if !slices.Contains(ours, name) && !isNotWanted(name) {
			t.Errorf("%s is not made here, and nothing says why", name)
		}
	}
}

func isNotWanted(name string) bool {
	for start := range notWanted() {
		if strings.HasPrefix(name, start) {
			return true
		}
	}
	return false
}

// One name is one image: sets can be put together in any order.
func TestSetsAgreeOnNames(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	root, err := tools.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	b, err := newBuilder(t.Context(), Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	keys := map[string]string{}
	for _, n := range everything() {
		key, err := b.key(n.recipe)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range n.names {
			if keys[name] != "" && keys[name] != key {
				t.Errorf("%s stands for two images", name)
			}
			keys[name] = key
		}
	}
}

// The same recipe gives the same image, wherever and whenever it is cooked.
func TestRecipesAreReproducible(t *testing.T) {
	for _, name := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("test images are made of Debian's packages: %v", err)
		}
	}
	root, err := tools.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	r := onShell(recipe{
		packages: []string{"netcat-openbsd"},
		files:    []file{{path: "/usr/bin/nc", symlink: "nc.openbsd"}},
		served:   []served{{name: "pause", tag: "testing", recipe: pause()}},
	})
	var digests []string
	for range 2 {
		b, err := newBuilder(t.Context(), Options{Root: root})
		if err != nil {
			t.Fatal(err)
		}
		defer b.close()
		b.store = store{dir: t.TempDir()}
		if err := os.Mkdir(filepath.Join(b.store.dir, "keys"), 0o755); err != nil {
			t.Fatal(err)
		}
		image, err := b.make(r, "it")
		if err != nil {
			t.Fatal(err)
		}
		digest, err := image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(image); err != nil {
			t.Error(err)
		}
		digests = append(digests, digest.String())
	}
	if digests[0] != digests[1] {
		t.Errorf("built twice, with two digests: %s", digests)
	}
}
