package images_test

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/shimd/shimd/integration/images"
	"github.com/shimd/shimd/integration/registry"
	"github.com/shimd/shimd/integration/tools"
)

// Every image is whole after a trip through the registry, and a second build gives the same digests.
func TestImagesAreWholeAndReproducible(t *testing.T) {
	for _, name := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("test images are made of Debian's packages: %v", err)
		}
	}
	root, err := tools.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	first, err := images.All(t.Context(), images.Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	second, err := images.All(t.Context(), images.Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	server, err := registry.Start(t.Context(), "127.0.0.1:0", first)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	}()
	for name, image := range first {
		want, err := second[name].Digest()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := image.Digest(); err != nil || got != want {
			t.Errorf("%s: digest %v, then %v (%v)", name, got, want, err)
		}
		ref, err := server.Reference(name)
		if err != nil {
			t.Fatal(err)
		}
		pulled, err := remote.Image(ref, remote.WithContext(t.Context()))
		if err != nil {
			t.Errorf("pulling %s: %v", name, err)
			continue
		}
		if err := validate.Image(pulled); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	certs := t.TempDir()
	if err := server.WriteHosts(certs); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"registry.k8s.io", "gcr.io", "k8s.gcr.io", "docker.io"} {
		if found, err := filepath.Glob(filepath.Join(certs, host, "hosts.toml")); err != nil || len(found) != 1 {
			t.Errorf("no hosts.toml for %s (%v)", host, err)
		}
	}
}
