package launch

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

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

// allowAll is a seccomp filter: BPF_RET SECCOMP_RET_ALLOW.
func allowAll() []byte { return []byte{6, 0, 0, 0, 0, 0, 0xff, 0x7f} }

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
