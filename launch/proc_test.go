package launch

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/launch/mounts"
)

// A container that shares the PID namespace of another sees its processes, and its own proc.
func TestJoinedPIDNamespace(t *testing.T) {
	dir := image(t)
	pid, _ := running(t, dir, testSpec(), nil)
	ns, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	join := func(in *ContainerInput) { in.Join = map[specs.LinuxNamespaceType]*os.File{specs.PIDNamespace: ns} }
	out := mustRun(t, dir, testSpec("sh", "-c", "cat /proc/1/comm; ps"), join)
	contains(t, out, "sleep")
	cloned, err := clonedProc(ns, unix.MOUNT_ATTR_NOSUID)
	if err != nil {
		t.Fatal(err)
	}
	defer cloned.Close()
	fd, err := unix.Openat(int(cloned.Fd()), "1/comm", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 16)
	if n, err := unix.Read(fd, buf); string(buf[:n]) != "sleep\n" {
		t.Errorf("cloned proc says %q, %v", buf[:n], err)
	}
}

// The proc of a namespace whose first process has none, as a pause process: made by the kernel (6.17), or by a child that goes in.
func TestPinProc(t *testing.T) {
	dir := image(t)
	spec := testSpec()
	spec.Mounts = nil // no proc
	pid, _ := running(t, dir, spec, nil)
	ns, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	pins := map[string]func(string) error{
		"kernel": func(target string) error { return PinProc(ns, target, t.TempDir()) },
		"child": func(target string) error {
			d, err := os.Open(target)
			if err != nil {
				return err
			}
			defer d.Close()
			return pinProcByChild(ns, d, t.TempDir())
		},
	}
	for name, pin := range pins {
		t.Run(name, func(t *testing.T) {
			target := t.TempDir()
			if err := pin(target); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = unix.Unmount(target, unix.MNT_DETACH) }()
			proc, err := mounts.Clone(target, false)
			if err != nil {
				t.Fatal(err)
			}
			defer proc.Close()
			out := mustRun(t, dir, testSpec("sh", "-c", "cat /proc/1/comm; grep ' /proc ' /proc/self/mountinfo"), func(in *ContainerInput) {
				in.Join = map[specs.LinuxNamespaceType]*os.File{specs.PIDNamespace: ns}
				in.Proc = proc
			})
			contains(t, out, "sleep\n", "/proc rw,nosuid,nodev,noexec,relatime - proc proc rw")
		})
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := pinProcByChild(ns, d, t.TempDir()); err == nil || !strings.Contains(err.Error(), "pinning proc: mounting it at its place: invalid argument (move_mount)") {
		t.Errorf("error %v", err)
	}
}
