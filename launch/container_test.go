package launch

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimd/shimd/launch/mounts"
)

// image is a directory with busybox in it.
func image(t testing.TB) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes mounts and namespaces")
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs /bin/busybox of busybox-static: ", err)
	}
	dir := filepath.Join(t.TempDir(), "image")
	for _, d := range []string{"bin", "etc", "tmp", "root"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "ls", "cat", "id", "mount", "sleep", "true", "touch", "stat", "tty", "pwd", "head", "grep", "hostname", "echo", "umount", "mkdir", "chroot", "ps"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// rootfs mounts an image like package image does: detached. A bind mount stands for the overlay.
func rootfs(t testing.TB, dir string) *os.File {
	t.Helper()
	f, err := mounts.Clone(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := mounts.Apply(f, mounts.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func testSpec(args ...string) *specs.Spec {
	caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETUID", "CAP_SETGID", "CAP_KILL"}
	return &specs.Spec{
		Root:     &specs.Root{Path: "rootfs"},
		Hostname: "inside",
		Process: &specs.Process{
			Args: args, Env: []string{"PATH=/usr/bin:/bin", "HOME=/root"}, Cwd: "/",
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps, Inheritable: caps},
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1000, Hard: 1024}},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
				{Type: specs.NetworkNamespace}, {Type: specs.CgroupNamespace},
			},
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/proc/nothing", "/sys/firmware", "/proc/acpi"},
			ReadonlyPaths: []string{"/proc/sys", "/proc/bus", "/proc/nothing/either"},
		},
	}
}

// input is a container's with its output in a pipe.
func input(t testing.TB, dir string, spec *specs.Spec) (ContainerInput, *os.File) {
	t.Helper()
	lean, err := LeanMountNamespace("/")
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lean.Close(); null.Close(); r.Close(); w.Close() })
	return ContainerInput{Spec: spec, Rootfs: rootfs(t, dir), LeanMountNS: lean, Stdio: [3]*os.File{null, w, w}, TmpDir: t.TempDir()}, r
}

// outcome is how a launched process ended.
type outcome struct {
	output string
	status syscall.WaitStatus
	err    error // of the launch
}

// launchAndWait runs a prepared launch to its end.
func launchAndWait(t testing.TB, l *Launch, output, writer *os.File) outcome {
	t.Helper()
	pid, report := start(t, l)
	moved, failed, err := ReadReport(report)
	if err != nil {
		t.Fatal(err)
	}
	var res outcome
	if failed != nil {
		res.err = l.Describe(failed.Op, failed.Errno)
	}
	l.Close()
	if writer != nil {
		writer.Close()
	}
	text := make(chan string)
	go func() {
		b, _ := io.ReadAll(output)
		text <- string(b)
	}()
	if _, err := syscall.Wait4(pid, &res.status, 0, nil); err != nil {
		t.Fatal(err)
	}
	if moved != 0 {
		if _, err := syscall.Wait4(moved, &res.status, 0, nil); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case res.output = <-text:
	case <-time.After(20 * time.Second):
		t.Fatal("the output does not end")
	}
	return res
}

func runContainer(t testing.TB, dir string, spec *specs.Spec, change func(*ContainerInput)) outcome {
	t.Helper()
	in, out := input(t, dir, spec)
	if change != nil {
		change(&in)
	}
	l, err := PrepareContainer(context.Background(), in)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			t.Log(l.Program.String())
		}
	}()
	return launchAndWait(t, l, out, in.Stdio[1])
}

// mustRun runs a shell script in a container and answers what it wrote.
func mustRun(t testing.TB, dir string, spec *specs.Spec, change func(*ContainerInput)) string {
	t.Helper()
	res := runContainer(t, dir, spec, change)
	if res.err != nil || !res.status.Exited() || res.status.ExitStatus() != 0 {
		t.Errorf("launch: %v, status %#x, output:\n%s", res.err, res.status, res.output)
	}
	return res.output
}

func contains(t testing.TB, output string, wanted ...string) {
	t.Helper()
	for _, w := range wanted {
		if !strings.Contains(output, w) {
			t.Errorf("output has no %q:\n%s", w, output)
		}
	}
}

func TestContainer(t *testing.T) {
	out := mustRun(t, image(t), testSpec("sh", "-c", `
		echo pid $$; hostname; id; ls /proc/self/fd; grep -E 'Cap|NoNewPrivs|SigIgn|SigBlk|Umask' /proc/self/status; cat /proc/self/mountinfo
		head -c 4 /proc/kcore | cat; ls -l /dev/; ls /sys/firmware; echo x > /proc/sys/kernel/domainname; cat /proc/net/dev`), nil)
	contains(t, out, "pid 1\n", "inside\n", "uid=0 gid=0\n", "CapInh:\t0000000000000000", "CapBnd:\t00000000000000e3", "Umask:\t0022", "crw-rw-rw-", "Read-only file system",
		"SigIgn:\t0000000000000000", "SigBlk:\t0000000000000000")
}

func TestContainerErrors(t *testing.T) {
	dir := image(t)
	for name, c := range map[string]struct {
		change func(*specs.Spec)
		want   string
	}{
		"missing":     {func(s *specs.Spec) { s.Process.Args = []string{"/bin/foo"} }, `launching it: executing "/bin/foo": no such file or directory in the image`},
		"not in PATH": {func(s *specs.Spec) { s.Process.Args = []string{"foo"} }, `executing "foo": no such file or directory`},
		"directory":   {func(s *specs.Spec) { s.Process.Args = []string{"/etc"} }, `executing "/etc": permission denied`},
	} {
		t.Run(name, func(t *testing.T) {
			spec := testSpec("true")
			c.change(spec)
			res := runContainer(t, dir, spec, nil)
			if res.err == nil || !strings.Contains(res.err.Error(), c.want) {
				t.Errorf("error %v, want %q", res.err, c.want)
			}
			if res.status.ExitStatus() != FailedExitCode {
				t.Errorf("status %d", res.status.ExitStatus())
			}
		})
	}
}
