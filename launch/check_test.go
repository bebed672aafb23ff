package launch

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// A spec asks for what is not supported: it is refused by the name of the field, never ignored.
func TestRefusedByName(t *testing.T) {
	for want, change := range map[string]func(*specs.Spec){
		"hooks":                      func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststart: []specs.Hook{{Path: "/x"}}} },
		"linux.intelRdt":             func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{} },
		"linux.personality":          func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{} },
		"process.args":               func(s *specs.Spec) { s.Process.Args = nil },
		"process.cwd":                func(s *specs.Spec) { s.Process.Cwd = "relative" },
		"process.env":                func(s *specs.Spec) { s.Process.Env = []string{"A=\x00"} },
		"process.rlimits":            func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}} },
		"process.capabilities":       func(s *specs.Spec) { s.Process.Capabilities.Ambient = []string{"CAP_X"} },
		"linux.seccomp.listenerPath": func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{ListenerPath: "/x"} },
		"linux.rootfsPropagation":    func(s *specs.Spec) { s.Linux.RootfsPropagation = "x" },
		"linux.namespaces":           func(s *specs.Spec) { s.Linux.Namespaces = nil },
		"hostname":                   func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[3:4] },
		"mounts: /x: options: tmpcopy": func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "tmpfs", Options: []string{"tmpcopyup"}})
		},
	} {
		spec := testSpec("true")
		change(spec)
		prepareError(t, image(t), spec, want)
	}
}
