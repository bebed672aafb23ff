package launch

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// host is a directory of the host's that no image may get at.
func host(t *testing.T) (dir string, untouched func()) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "host")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, func() {
		t.Helper()
		entries, _ := os.ReadDir(dir)
		content, _ := os.ReadFile(filepath.Join(dir, "secret"))
		if len(entries) != 1 || string(content) != "secret" {
			t.Errorf("the host's directory was changed: %v, %q", entries, content)
		}
	}
}

func symlink(t *testing.T, target, name string) {
	t.Helper()
	_ = os.RemoveAll(name)
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

func volume(t *testing.T, destination string) specs.Mount {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "volume"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return specs.Mount{Destination: destination, Type: "bind", Source: dir, Options: []string{"rbind"}}
}

func TestCVE_2024_45310_CVE_2021_30465_DestinationsStayInside(t *testing.T) {
	for name, link := range map[string]func(host string) string{
		"absolute": func(h string) string { return h },
		"dots":     func(h string) string { return "../../../../../../../../../.." + h },
		"dangling": func(h string) string { return h + "/new/../new2" },
	} {
		t.Run(name, func(t *testing.T) {
			dir := image(t)
			outside, untouched := host(t)
			symlink(t, link(outside), filepath.Join(dir, "data"))
			spec := testSpec("sh", "-c", "ls /data/sub /data/file")
			file := volume(t, "/data/file")
			file.Source = filepath.Join(file.Source, "volume")
			spec.Mounts = append(spec.Mounts, volume(t, "/data/sub"), file)
			contains(t, mustRun(t, dir, spec, nil), "/data/file\n", "/data/sub:\nvolume\n")
			untouched()
		})
	}
}

// A destination below another volume is resolved in that volume, through its links, inside of the container.
func TestCVE_2021_30465_LinkInAVolume(t *testing.T) {
	dir := image(t)
	outside, untouched := host(t)
	first := volume(t, "/vol")
	symlink(t, outside, filepath.Join(first.Source, "link"))
	spec := testSpec("sh", "-c", "ls /vol/link/sub")
	spec.Mounts = append(spec.Mounts, first, volume(t, "/vol/link/sub"))
	contains(t, mustRun(t, dir, spec, nil), "volume\n")
	untouched()
}

func prepareError(t *testing.T, dir string, spec *specs.Spec, want string) {
	t.Helper()
	in, _ := input(t, dir, spec)
	l, err := PrepareContainer(context.Background(), in)
	if err == nil {
		l.Close()
		t.Errorf("no error, want %q", want)
		return
	}
	if !strings.Contains(err.Error(), want) || !errdefs.IsInvalidArgument(err) {
		t.Errorf("error %q, want %q, invalid argument", err, want)
	}
}

func TestCVE_2019_19921_CVE_2023_27561_CVE_2023_28642_ProcIsNoLink(t *testing.T) {
	for _, name := range []string{"proc", "sys"} {
		dir := image(t)
		symlink(t, "/etc", filepath.Join(dir, name))
		prepareError(t, dir, testSpec("true"), "symbolic link")
	}
}

func TestCVE_2019_16884_NothingStandsInForProc(t *testing.T) {
	for _, destination := range []string{"/proc", "/proc/", "/sys", "/proc/self/attr", "/link", "/link/../link", "/etc/../proc/sys", "/proc/1/../../proc"} {
		dir := image(t)
		symlink(t, "proc", filepath.Join(dir, "link"))
		spec := testSpec("true")
		spec.Mounts = append(spec.Mounts, volume(t, destination))
		prepareError(t, dir, spec, "destination: ")
	}
	dir := image(t)
	spec := testSpec("sh", "-c", "ls -l /proc/meminfo")
	file := volume(t, "/proc/meminfo")
	file.Source = filepath.Join(file.Source, "volume")
	spec.Mounts = append(spec.Mounts, file)
	contains(t, mustRun(t, dir, spec, nil), " 0 ")
}

func TestCVE_2025_31133_MasksAreTheRealNull(t *testing.T) {
	dir := image(t)
	outside, untouched := host(t)
	if err := os.Mkdir(filepath.Join(dir, "dev"), 0o755); err != nil {
		t.Fatal(err)
	}
	symlink(t, filepath.Join(outside, "secret"), filepath.Join(dir, "dev/null"))
	symlink(t, "/", filepath.Join(dir, "null"))
	out := mustRun(t, dir, testSpec("sh", "-c", "stat -c %t:%T:%A /proc/keys; cat /proc/keys; echo x > /proc/keys; ls -A /sys/firmware; touch /sys/firmware/x || echo denied"), nil)
	contains(t, out, "1:3:crw-rw-rw-\n", "denied")
	untouched()
}

func TestCVE_2025_52565_CVE_2026_88264_DevicesAreNotPlanted(t *testing.T) {
	dir := image(t)
	outside, untouched := host(t)
	if err := os.Mkdir(filepath.Join(dir, "dev"), 0o755); err != nil {
		t.Fatal(err)
	}
	symlink(t, filepath.Join(outside, "secret"), filepath.Join(dir, "dev/null"))
	spec := testSpec("true")
	spec.Mounts = append(spec.Mounts[:1:1], spec.Mounts[4]) // no file system on /dev: devices are made in the image's
	in, _ := input(t, dir, spec)
	if l, err := PrepareContainer(context.Background(), in); err == nil {
		l.Close()
		t.Error("a link in the place of /dev/null was taken")
	}
	untouched()
}

func TestCVE_2025_52565_Console(t *testing.T) {
	dir := image(t)
	outside, untouched := host(t)
	if err := os.MkdirAll(filepath.Join(dir, "dev"), 0o755); err != nil {
		t.Fatal(err)
	}
	symlink(t, filepath.Join(outside, "secret"), filepath.Join(dir, "dev/console"))
	spec := testSpec("true")
	spec.Mounts = append(spec.Mounts[:1:1], spec.Mounts[2:]...)
	in, _ := input(t, dir, spec)
	in.Terminal = true
	l, err := PrepareContainer(context.Background(), in)
	if err != nil {
		t.Fatal(err)
	}
	if res := launchAndWait(t, l, in.Stdio[0], nil); res.err != nil {
		t.Error(res.err)
	}
	untouched()
	_, err = os.Stat(filepath.Join(dir, outside, "secret"))
	if err != nil {
		t.Error("the console's place is not inside: ", err)
	}
}

func TestCVE_2026_41579_CVE_2026_47766_DevIsALink(t *testing.T) {
	dir := image(t)
	outside, untouched := host(t)
	symlink(t, outside, filepath.Join(dir, "dev"))
	contains(t, mustRun(t, dir, testSpec("sh", "-c", "ls /dev/null /dev/pts/ptmx"), nil), "/dev/null")
	untouched()
}

func TestCVE_2024_21626_NoDescriptorOfTheHost(t *testing.T) {
	dir := image(t)
	for _, cwd := range []string{"/proc/self/fd/4", "/proc/self/fd/7", "/proc/self/cwd", "/proc/self/root/../..", "/proc/thread-self/fd/5/../../.."} {
		spec := testSpec("pwd")
		spec.Process.Cwd = cwd
		res := runContainer(t, dir, spec, nil)
		if res.err == nil || !strings.Contains(res.err.Error(), "working directory") {
			t.Errorf("%s: error %v, output %q", cwd, res.err, res.output)
		}
	}
	for n := range 24 {
		spec := testSpec("/proc/self/fd/" + itoa(n))
		if res := runContainer(t, dir, spec, nil); res.err == nil {
			t.Errorf("descriptor %d could be executed: %q", n, res.output)
		}
	}
	out := mustRun(t, dir, testSpec("sh", "-c", "cd /proc/self/fd; echo *"), nil)
	if out != "0 1 2 3\n" && out != "0 1 2\n" { // the shell's own for the directory
		t.Errorf("descriptors %q", out)
	}
}

func TestCVE_2019_5736_SelfExe(t *testing.T) {
	dir := image(t)
	res := runContainer(t, dir, testSpec("/proc/self/exe"), nil)
	if res.status.ExitStatus() != FailedExitCode {
		t.Errorf("status %#x, %v, %q", res.status, res.err, res.output)
	}
	exe, err := testProgram().Executable(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	if w, err := os.OpenFile("/proc/self/fd/"+itoa(int(exe.Fd())), os.O_RDWR, 0); err == nil {
		if _, err := w.WriteAt([]byte("x"), 0); err == nil {
			t.Error("a launch program can be overwritten")
		}
		w.Close()
	}
	if err := unix.Ftruncate(int(exe.Fd()), 0); err == nil {
		t.Error("a launch program can be cut")
	}
}

func TestCVE_2022_0811_CVE_2022_0532_Sysctls(t *testing.T) {
	own := map[specs.LinuxNamespaceType]bool{specs.NetworkNamespace: true, specs.IPCNamespace: true}
	for name, c := range map[string]struct {
		value string
		ok    bool
	}{
		"net.ipv4.ip_forward": {"1", true}, "net/ipv4/conf/eth0.1/forwarding": {"1", true}, "kernel.shmmax": {"1", true}, "kernel.msgmax": {"1", true},
		"kernel.core_pattern": {"|/x", false}, "net.ipv4.ip_forward ": {"1", false}, "net.ipv4.x": {"1\nkernel.core_pattern=|x", false},
		"net.ipv4.ip_forward=1+kernel.core_pattern": {"1", false}, "net.../../kernel/core_pattern": {"1", false}, "net/../kernel/core_pattern": {"1", false}, "": {"", false},
		"kernel.domainname": {"x", false}, "vm.swappiness": {"1", false},
	} {
		if err := checkSysctl(name, c.value, own); (err == nil) != c.ok {
			t.Errorf("%q = %q: %v", name, c.value, err)
		}
	}
	delete(own, specs.NetworkNamespace)
	if err := checkSysctl("net.ipv4.ip_forward", "1", own); err == nil {
		t.Error("a sysctl of the host's network")
	}
	spec := testSpec("cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/shmmax")
	spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1", "kernel.shmmax": "65536"}
	contains(t, mustRun(t, image(t), spec, nil), "1\n65536\n")
}

// What becomes visible in a container's PID namespace has no more rights than the container, and no descriptor of the host's.
func TestExecGivesUpRightsBeforeItIsSeen(t *testing.T) {
	spec := testSpec("true")
	for _, nnp := range []bool{true, false} {
		spec.Process.NoNewPrivileges = nnp
		c := &execPlan{names: []string{"stdin", "stdout", "stderr", "report", "proc", "pidfd"}, hostProc: 4, pidfd: 5, namespaces: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
		c.process = processPlan{process: spec.Process, lastCap: 40, reparents: true, seccomp: make([]byte, 8)}
		text := compileExec(c).String()
		at := func(what string) int {
			i := strings.Index(text, what)
			if i < 0 {
				t.Fatalf("no %s in\n%s", what, text)
			}
			return i
		}
		clone := at("the child goes on")
		for _, earlier := range []string{"close_range(4, ~0U, 0)", "capset(", "setresuid(0", "PR_CAPBSET_DROP", "setns("} {
			if at(earlier) > clone {
				t.Errorf("%s comes after the clone:\n%s", earlier, text)
			}
		}
		if at("setsid") < clone {
			t.Errorf("the session must be the child's:\n%s", text)
		}
	}
}
