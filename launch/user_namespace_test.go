package launch

import (
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// userSpec is testSpec in a user namespace.
func userSpec(args ...string) *specs.Spec {
	s := testSpec(args...)
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 65536}}
	s.Linux.GIDMappings = s.Linux.UIDMappings
	return s
}

// userImage is an image whose files belong to the mapped root.
func userImage(t testing.TB) string {
	dir := image(t)
	err := filepath.Walk(dir, func(name string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(name, 200000, 200000)
	})
	if err != nil {
		t.Fatal(err)
	}
	for p := dir; p != "/tmp" && p != "/"; p = filepath.Dir(p) {
		_ = os.Chmod(p, 0o755)
	}
	return dir
}

func TestUserNamespace(t *testing.T) {
	out := mustRun(t, userImage(t), userSpec("sh", "-c", `
		echo pid $$; id; cat /proc/self/uid_map /proc/self/mountinfo; ls -ln /dev; touch /tmp/mine; ls -ln /tmp; head -c1 /dev/zero | cat >/dev/null; ls -lnd /dev/pts /dev/mqueue; umount /proc/acpi || echo kept`), nil)
	contains(t, out, "pid 1\n", "200000", "uid=0 gid=0\n")
}
