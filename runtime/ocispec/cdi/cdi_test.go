package cdi

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const file = `{"cdiVersion":"0.6.0","kind":"example.com/thing","devices":[
 {"name":"plain","containerEdits":{"env":["THING=1"],"deviceNodes":[{"path":"/dev/thing","hostPath":"/dev/null"}],"mounts":[{"hostPath":"/etc","containerPath":"/thing","options":["ro","rbind"]}]}},
 {"name":"hooked","containerEdits":{"hooks":[{"hookName":"createContainer","path":"/usr/bin/thing-hook"}]}}]}`

func TestInject(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thing.json"), []byte(file), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := NewRegistry([]string{dir})
	if err != nil {
		t.Fatal(err)
	}
	spec := func() *specs.Spec {
		return &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{Resources: &specs.LinuxResources{}}}
	}
	s := spec()
	if err := r.Inject(s, []string{"example.com/thing=plain"}, false); err != nil {
		t.Fatal(err)
	}
	if len(s.Linux.Devices) != 1 || s.Linux.Devices[0].Path != "/dev/thing" || s.Linux.Devices[0].Minor != 3 || len(s.Mounts) != 1 || len(s.Process.Env) != 1 {
		t.Errorf("%+v", s)
	}
	if len(s.Linux.Resources.Devices) != 1 || !s.Linux.Resources.Devices[0].Allow {
		t.Errorf("device rules: %+v", s.Linux.Resources.Devices)
	}
	if err := r.Inject(spec(), []string{"example.com/thing=none"}, false); !errdefs.IsNotFound(err) {
		t.Errorf("unknown: %v", err)
	}
	if err := r.Inject(spec(), []string{"/dev/null"}, false); !errdefs.IsInvalidArgument(err) {
		t.Errorf("unqualified: %v", err)
	}
	if err := r.Inject(spec(), []string{"example.com/thing=hooked"}, false); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "/usr/bin/thing-hook") {
		t.Errorf("hook: %v", err)
	}
	if err := r.Inject(spec(), []string{"example.com/thing=hooked"}, true); err != nil {
		t.Errorf("hook of an external runtime: %v", err)
	}
}
