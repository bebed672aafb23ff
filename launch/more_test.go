package launch

import (
	"bufio"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/launch/mounts"
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

func TestTerminal(t *testing.T) {
	spec := testSpec("sh", "-c", "tty; ls -l /dev/console $(tty); id -u; echo 1 2 | cat; stat -c %n /dev/pts/0; cat /proc/self/stat")
	spec.Process.User.UID = 1000
	spec.Process.ConsoleSize = &specs.Box{Height: 30, Width: 90}
	in, _ := input(t, image(t), spec)
	in.Terminal = true
	l, err := PrepareContainer(context.Background(), in)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.FcntlInt(l.Console.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	master := os.NewFile(uintptr(fd), "master")
	defer master.Close()
	res := launchAndWait(t, l, master, nil)
	if res.err != nil || res.status.ExitStatus() != 0 {
		t.Errorf("%v, status %d", res.err, res.status.ExitStatus())
	}
	contains(t, res.output, "/dev/pts/0", "1000", "/dev/console")
}

// running starts a container that waits, and answers its process.
func running(t testing.TB, dir string, spec *specs.Spec, change func(*ContainerInput)) (pid int, pidfd *os.File) {
	t.Helper()
	spec.Process.Args = []string{"sh", "-c", "echo up; exec sleep 1000"}
	in, out := input(t, dir, spec)
	if change != nil {
		change(&in)
	}
	l, err := PrepareContainer(context.Background(), in)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	pid, report := start(t, l)
	moved, failed, err := ReadReport(report)
	if err != nil || failed != nil {
		if failed != nil {
			err = l.Describe(failed.Op, failed.Errno)
		}
		t.Fatal(err)
	}
	if moved != 0 {
		_, _ = syscall.Wait4(pid, nil, 0, nil)
		pid = moved
	}
	t.Cleanup(func() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		_, _ = syscall.Wait4(pid, nil, 0, nil)
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "up\n" {
		t.Fatalf("container says %q, %v", line, err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	t.Cleanup(func() { f.Close() })
	return pid, f
}

func runExec(t testing.TB, in ExecInput) outcome {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	in.Stdio, in.TmpDir = [3]*os.File{null, w, w}, t.TempDir()
	l, err := PrepareExec(context.Background(), in)
	if err != nil {
		t.Fatal(err)
	}
	if !l.Reparents {
		t.Error("an exec reparents")
	}
	return launchAndWait(t, l, r, w)
}

func TestExec(t *testing.T) {
	for name, spec := range map[string]*specs.Spec{"plain": testSpec(), "user namespace": userSpec()} {
		t.Run(name, func(t *testing.T) {
			dir := userImage(t)
			pid, pidfd := running(t, dir, spec, nil)
			process := *spec.Process
			process.Args = []string{"sh", "-c", "id; hostname; pwd; ls /proc/self/fd; grep Cap /proc/self/status; cat /proc/1/comm; ps"}
			process.User.AdditionalGids = []uint32{5, 6}
			process.User.GID = 7
			process.Cwd = "/tmp"
			res := runExec(t, ExecInput{Process: &process, PID: pid, PIDFD: pidfd, Spec: spec})
			if res.err != nil || res.status.ExitStatus() != 0 {
				t.Errorf("%v %d", res.err, res.status.ExitStatus())
			}
			contains(t, res.output, "uid=0 gid=7 groups=5,6", "inside", "/tmp\n0\n1\n2\n3\nCap", "sleep", "CapInh:\t0000000000000000")
			process.Args = []string{"nothing"}
			res = runExec(t, ExecInput{Process: &process, PID: pid, PIDFD: pidfd, Spec: spec})
			if res.err == nil || !strings.Contains(res.err.Error(), `executing in container: executing "nothing": no such file or directory in the container`) {
				t.Errorf("error %v", res.err)
			}
		})
	}
}

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

func TestProcessAttributes(t *testing.T) {
	spec := testSpec("sh", "-c", "id; pwd; grep -E 'Cap|NoNew|Seccomp:|Groups' /proc/self/status; grep 'open files' /proc/self/limits; touch /x; touch /tmp/x; cat /proc/self/oom_score_adj; ls /mnt/data")
	spec.Root.Readonly = true
	score := 500
	spec.Process.OOMScoreAdj = &score
	spec.Process.Cwd = "/root/made"
	spec.Process.NoNewPrivileges = true
	spec.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{44}}
	spec.Process.Capabilities.Ambient = []string{"CAP_KILL"}
	data := t.TempDir()
	if err := os.WriteFile(filepath.Join(data, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	spec.Mounts = append(spec.Mounts,
		specs.Mount{Destination: "/tmp", Type: "tmpfs", Options: []string{"mode=1777"}},
		specs.Mount{Destination: "/mnt/data", Type: "bind", Source: data, Options: []string{"rbind", "ro"}})
	for _, nnp := range []bool{true, false} {
		spec.Process.NoNewPrivileges = nnp
		res := runContainer(t, image(t), spec, func(in *ContainerInput) { in.Seccomp = allowAll() })
		if res.err != nil {
			t.Error(res.err)
		}
		contains(t, res.output, "uid=1000 gid=1001 groups=44", "/root/made", "CapInh:\t0000000000000020", "CapEff:\t0000000000000020", "CapBnd:\t00000000000000e3", "CapAmb:\t0000000000000020",
			"Seccomp:\t2", "touch: /x: Read-only file system", "500\n", "file\n", "1000                 1024")
	}
}

// The first process of an exec is cloned into the cgroup, the one that counts is a sibling's sibling.
func TestExecIntoCgroupV2(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	root := "/sys/fs/cgroup"
	var st unix.Statfs_t
	if _ = unix.Statfs(root, &st); st.Type != unix.CGROUP2_SUPER_MAGIC {
		root += "/unified"
		if err := unix.Statfs(root, &st); err != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
			t.Skip("needs a cgroup v2 hierarchy")
		}
	}
	name := "shimd-test-launch-exec-" + strconv.Itoa(os.Getpid())
	dir := filepath.Join(root, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	cgroup, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer cgroup.Close()
	spec := testSpec()
	pid, pidfd := running(t, image(t), spec, func(in *ContainerInput) { in.CgroupDir = cgroup })
	for _, nnp := range []bool{true, false} {
		process := *spec.Process
		process.NoNewPrivileges = nnp
		process.User.UID = 1000
		process.Args = []string{"cat", "/proc/self/cgroup", "/proc/1/cgroup"}
		res := runExec(t, ExecInput{Process: &process, PID: pid, PIDFD: pidfd, Spec: spec, CgroupDir: cgroup, Seccomp: allowAll()})
		if res.err != nil || strings.Count(res.output, "0::/\n") != 2 {
			t.Errorf("%v: %s", res.err, res.output)
		}
	}
	// The processes in between are the keeper's to reap: the report names them.
	for {
		if other, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err != nil || other <= 0 {
			break
		}
	}
}

// allowAll is a seccomp filter: BPF_RET SECCOMP_RET_ALLOW.
func allowAll() []byte { return []byte{6, 0, 0, 0, 0, 0, 0xff, 0x7f} }

func TestDevices(t *testing.T) {
	dir := userImage(t)
	mode, uid := os.FileMode(0o640), uint32(33)
	for name, spec := range map[string]*specs.Spec{"plain": testSpec(), "user namespace": userSpec()} {
		spec.Process.Args = []string{"sh", "-c", "stat -c %n:%t:%T:%a:%u /dev/net/tun /dev/deep/fifo /dev/loop9; [ -p /dev/deep/fifo ]"}
		spec.Linux.Devices = []specs.LinuxDevice{
			{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200, FileMode: &mode, UID: &uid},
			{Path: "/dev/deep/fifo", Type: "p"}, {Path: "/dev/loop9", Type: "b", Major: 7, Minor: 9},
		}
		t.Run(name, func(t *testing.T) {
			contains(t, mustRun(t, dir, spec, nil), "/dev/net/tun:a:c8:640:33\n", "/dev/loop9:7:9:666:0\n")
		})
	}
	bad := testSpec("true")
	bad.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/../x", Type: "c", Major: 1, Minor: 3}}
	prepareError(t, dir, bad, "linux.devices")
}

// Root goes to a directory that the user may not enter, as other runtimes do; one that nobody may is an error.
func TestWorkingDirectory(t *testing.T) {
	dir := image(t)
	if err := os.Mkdir(filepath.Join(dir, "private"), 0o700); err != nil {
		t.Fatal(err)
	}
	spec := testSpec("/bin/pwd")
	spec.Process.User.UID, spec.Process.Cwd = 1000, "/private"
	spec.Process.Env = append(spec.Process.Env, "PWD=/private")
	res := runContainer(t, dir, spec, nil)
	if res.err != nil {
		t.Error(res.err)
	}
	if err := os.WriteFile(filepath.Join(dir, "plain"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	spec.Process.Cwd = "/plain"
	prepareError(t, dir, spec, "process.cwd")
}

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

func benchmarkInput(b *testing.B) (ContainerInput, string) {
	dir := image(b)
	in, _ := input(b, dir, testSpec("true"))
	return in, dir
}

func BenchmarkPrepareContainer(b *testing.B) {
	in, dir := benchmarkInput(b)
	for b.Loop() {
		b.StopTimer()
		in.Rootfs = rootfs(b, dir)
		b.StartTimer()
		l, err := PrepareContainer(context.Background(), in)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		l.Close()
		in.Rootfs.Close()
		b.StartTimer()
	}
}

// From the clone to the report that the execve is done.
func BenchmarkLaunch(b *testing.B) {
	in, dir := benchmarkInput(b)
	for b.Loop() {
		b.StopTimer()
		in.Rootfs = rootfs(b, dir)
		l, err := PrepareContainer(context.Background(), in)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		pid, report := start(b, l)
		_, failed, err := ReadReport(report)
		b.StopTimer()
		if failed != nil || err != nil {
			b.Fatal(failed, err)
		}
		_, _ = syscall.Wait4(pid, nil, 0, nil)
		_ = report.Close()
		l.Close()
		in.Rootfs.Close()
		b.StartTimer()
	}
}

func BenchmarkExec(b *testing.B) {
	spec := testSpec()
	pid, pidfd := running(b, image(b), spec, nil)
	process := *spec.Process
	process.Args = []string{"true"}
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	in := ExecInput{Process: &process, PID: pid, PIDFD: pidfd, Spec: spec, Stdio: [3]*os.File{null, null, null}}
	for b.Loop() {
		l, err := PrepareExec(context.Background(), in)
		if err != nil {
			b.Fatal(err)
		}
		first, report := start(b, l)
		second, failed, err := ReadReport(report)
		if failed != nil || err != nil {
			b.Fatal(failed, err)
		}
		_, _ = syscall.Wait4(first, nil, 0, nil)
		_, _ = syscall.Wait4(second, nil, 0, nil)
		_ = report.Close()
		l.Close()
	}
}
