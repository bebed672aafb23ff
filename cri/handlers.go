package cri

import (
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/shimd/shimd/runtime"
)

// knownHandler refuses the name of a runtime handler that is not configured; "" is the default one.
func knownHandler(field, name string, handlers []runtime.Handler) error {
	if name == "" {
		return nil
	}
	var names []string
	for _, h := range handlers {
		if h.Name == name {
			return nil
		}
		if h.Name != "" {
			names = append(names, h.Name)
		}
	}
	return fmt.Errorf("%s: unknown runtime handler %q, configured are %q: %w", field, name, names, errdefs.ErrInvalidArgument)
}
