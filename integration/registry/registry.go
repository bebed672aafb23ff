// Package registry serves test images on a loopback address, in place of the registries on the internet that their names point to.
//
// Each registry's repositories stand below a path of its own (/v2/registry.k8s.io/pause), so that equal names of two registries do not mix; a certs.d
// tree of hosts.toml files leads a runtime there. What images there are is package images' business.
package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Registry is a running registry. It reads layers from its images when they are pulled: those on the disk stay there.
type Registry struct {
	listener net.Listener
	server   *http.Server
	done     chan error
	hosts    []string
}

// Start serves the images, by full name with registry and tag, on address ("127.0.0.1:0" for any port).
func Start(ctx context.Context, address string, images map[string]v1.Image) (*Registry, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening for the registry: %w", err)
	}
	content, err := collect(images)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithBlobHandler(content))
	r := &Registry{
		listener: listener,
		server:   &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second},
		done:     make(chan error, 1),
	}
	go func() { r.done <- r.server.Serve(listener) }()
	if err := r.push(ctx, images); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Address is host:port.
func (r *Registry) Address() string { return r.listener.Addr().String() }

// Close stops serving.
func (r *Registry) Close() error {
	err := r.server.Close()
	if served := <-r.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

func collect(images map[string]v1.Image) (blobs, error) {
	content := blobs{}
	for full, image := range images {
		if err := content.add(image); err != nil {
			return nil, fmt.Errorf("serving %s: %w", full, err)
		}
	}
	return content, nil
}

// push puts the manifests in, each under its name; the blobs are there.
func (r *Registry) push(ctx context.Context, images map[string]v1.Image) error {
	seen := map[string]bool{}
	for _, full := range slices.Sorted(maps.Keys(images)) {
		host, _, found := strings.Cut(full, "/")
		if !found {
			return fmt.Errorf("serving %s: the name has no registry", full)
		}
		seen[host] = true
		ref, err := r.Reference(full)
		if err != nil {
			return err
		}
		if err := remote.Put(ref, images[full], remote.WithContext(ctx)); err != nil {
			return fmt.Errorf("putting %s into the registry: %w", full, err)
		}
	}
	r.hosts = slices.Sorted(maps.Keys(seen))
	return nil
}

// Reference is where an image is found here.
func (r *Registry) Reference(full string) (name.Reference, error) {
	ref, err := name.ParseReference(r.Address()+"/"+full, name.Insecure)
	if err != nil {
		return nil, fmt.Errorf("reading the image name %s: %w", full, err)
	}
	return ref, nil
}

// WriteHosts writes dir/HOST/hosts.toml for each registry that this one stands for. With dir as its certs.d directory
// ([image] config_path) a runtime pulls from here what it is asked to pull from there, and never asks the internet.
func (r *Registry) WriteHosts(dir string) error {
	for _, host := range r.hosts {
		mirror := fmt.Sprintf("http://%s/v2/%s", r.Address(), host)
		text := fmt.Sprintf(`# %[2]s is served by a test registry on this machine.
server = %[1]q
override_path = true

[host.%[1]q]
capabilities = ["pull", "resolve"]
override_path = true
`, mirror, host)
		hostDir := filepath.Join(dir, host)
		if err := os.MkdirAll(hostDir, 0o755); err != nil {
			return fmt.Errorf("pointing %s to the test registry: %w", host, err)
		}
		if err := os.WriteFile(filepath.Join(hostDir, "hosts.toml"), []byte(text), 0o644); err != nil {
			return fmt.Errorf("pointing %s to the test registry: %w", host, err)
		}
	}
	return nil
}
