// Package cdi adds devices of the Container Device Interface to OCI specifications: what device plugins and resource drivers of Kubernetes
// name in requests. The library reads the files; here are only its cache and the errors.
package cdi

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	lib "tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"
)

// Registry knows the devices that the files of its directories describe, and follows their changes by inotify. Its methods may run at the same time.
type Registry struct {
	cache *lib.Cache
}

// NewRegistry reads the directories, of which later ones come before earlier ones. They need not exist yet.
func NewRegistry(dirs []string) (*Registry, error) {
	cache, err := lib.NewCache(lib.WithSpecDirs(dirs...), lib.WithAutoRefresh(true))
	if err != nil {
		return nil, fmt.Errorf("reading CDI directories %s: %w", strings.Join(dirs, ", "), err)
	}
	return &Registry{cache: cache}, nil
}

// Inject adds the devices of those qualified names ("vendor.com/class=name") to the specification.
//
// Hooks are programs that the runtime would have to run at certain moments. hooks tells whether it can: external OCI runtimes do.
func (r *Registry) Inject(spec *specs.Spec, names []string, hooks bool) error {
	if len(names) == 0 {
		return nil
	}
	for _, n := range names {
		if !parser.IsQualifiedName(n) {
			return fmt.Errorf("cdi_devices: %q is not a qualified name (vendor.com/class=name): %w", n, errdefs.ErrInvalidArgument)
		}
	}
	before := hookPaths(spec.Hooks)
	missing, err := r.cache.InjectDevices(spec, names...)
	if len(missing) > 0 {
		return fmt.Errorf("cdi_devices: no CDI file describes %s%s: %w", strings.Join(missing, ", "), r.problems(), errdefs.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("cdi_devices: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if added := hookPaths(spec.Hooks)[len(before):]; len(added) > 0 && !hooks {
		return fmt.Errorf("cdi_devices: %s needs the hook %s, which the built-in runtime cannot run; use a runtime handler with an external OCI runtime: %w",
			strings.Join(names, ", "), strings.Join(added, ", "), errdefs.ErrNotImplemented)
	}
	return nil
}

// problems tells of files that could not be read, one of which may have had the device.
func (r *Registry) problems() string {
	errs := r.cache.GetErrors()
	if len(errs) == 0 {
		return ""
	}
	var b strings.Builder
	for _, file := range slices.Sorted(maps.Keys(errs)) {
		for _, err := range errs[file] {
			fmt.Fprintf(&b, "; %v", err)
		}
	}
	return b.String()
}

func hookPaths(h *specs.Hooks) []string {
	if h == nil {
		return nil
	}
	var paths []string
	//nolint:staticcheck // prestart is deprecated, but still what most CDI files have.
	for _, list := range [][]specs.Hook{h.Prestart, h.CreateRuntime, h.CreateContainer, h.StartContainer, h.Poststart, h.Poststop} {
		for _, hook := range list {
			paths = append(paths, hook.Path)
		}
	}
	return paths
}
