package ocispec

import (
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimd/shimd/runtime/request"
)

func TestMasks(t *testing.T) {
	user := &request.UserNamespace{UIDs: []request.IDMapping{{HostID: 100000, Length: 65536}}, GIDs: []request.IDMapping{{HostID: 100000, Length: 65536}}}
	for name, c := range map[string]struct {
		sec              request.Security
		masked, readonly []string
	}{
		"none asked for":         {sec: request.Security{}, masked: usualMasks(), readonly: usualReadonly()},
		"privileged":             {sec: request.Security{Privileged: true}},
		"unmasked, user's":       {sec: request.Security{Namespaces: request.Namespaces{User: user}}},
		"one of its own":         {sec: request.Security{MaskedPaths: []string{"/bin/ls"}}, masked: []string{"/bin/ls", powercap}},
		"readonly of its own":    {sec: request.Security{ReadonlyPaths: []string{"/tmp"}}, masked: []string{powercap}, readonly: []string{"/tmp"}},
		"masked in a user's own": {sec: request.Security{MaskedPaths: []string{"/x"}, Namespaces: request.Namespaces{User: user}}, masked: []string{"/x", powercap}},
	} {
		g := &generator{sec: c.sec, spec: &specs.Spec{Linux: &specs.Linux{}}}
		if err := g.masks(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !slices.Equal(g.spec.Linux.MaskedPaths, c.masked) || !slices.Equal(g.spec.Linux.ReadonlyPaths, c.readonly) {
			t.Errorf("%s: %v, %v", name, g.spec.Linux.MaskedPaths, g.spec.Linux.ReadonlyPaths)
		}
	}
}
