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
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

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
	// The shell says that it is up before it becomes sleep.
	for name := ""; name != "sleep\n"; time.Sleep(time.Millisecond) {
		comm, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
		if err != nil {
			t.Fatal(err)
		}
		name = string(comm)
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
			if res.err == nil || !strings.Contains(res.err.Error(), `launching it: executing "nothing": no such file or directory in the container`) {
				t.Errorf("error %v", res.err)
			}
		})
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
