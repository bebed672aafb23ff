package launch

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name string, p *Program) {
	t.Helper()
	if _, err := p.segment(); err != nil {
		t.Error(err)
	}
	file := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(file, []byte(p.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.String(); got != string(want) {
		t.Errorf("%s is not up to date (go test -update writes it):\n%s", file, got)
	}
}

// planned is a plan with the mounts of testSpec, as if they had been prepared.
func planned(spec *specs.Spec) (*containerPlan, *descriptors) {
	d := newDescriptors([3]*os.File{})
	c := &containerPlan{spec: spec, root: d.add("rootfs", nil), lean: d.add("lean", nil), hostProc: d.add("proc", nil), unshare: unix.CLONE_NEWNS | unix.CLONE_NEWIPC}
	c.process = processPlan{process: spec.Process, lastCap: 40}
	for _, m := range spec.Mounts {
		planned := plannedMount{destination: m.Destination, at: place{fd: d.add("target of "+m.Destination, nil)}}
		switch m.Type {
		case "proc", "sysfs", "mqueue", "cgroup2":
			planned.filesystem = &filesystem{kind: m.Type, attributes: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}
		default:
			planned.fd = d.add(m.Type, nil)
			if m.Type == "devpts" {
				c.devpts = planned.fd
			}
		}
		c.mounts = append(c.mounts, planned)
	}
	return c, d
}

func TestGoldenContainer(t *testing.T) {
	spec := testSpec("sleep", "1000")
	spec.Root.Readonly = true
	spec.Process.NoNewPrivileges = true
	spec.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{5, 44}}
	spec.Process.Cwd = "/srv"
	spec.Process.ApparmorProfile = "shimd-default"
	score := 999
	spec.Process.OOMScoreAdj = &score
	spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"}
	c, d := planned(spec)
	c.cgroupTasks = []int{d.add("tasks", nil), d.add("tasks", nil)}
	c.join = []membership{{specs.NetworkNamespace, d.add("network", nil)}, {specs.UTSNamespace, d.add("uts", nil)}}
	c.apparmor, c.terminal, c.process.terminal = true, true, true
	c.console = place{fd: d.add("target of /dev/console", nil)}
	c.process.seccomp = make([]byte, 160)
	c.names = d.names
	golden(t, "container", compileContainer(c))
}

func TestGoldenUserNamespace(t *testing.T) {
	spec := userSpec("/bin/true")
	spec.Hostname = ""
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup2"}, specs.Mount{Destination: "/data", Type: "bind"})
	c, d := planned(spec)
	c.mounts[5].at = place{made: 5, path: "fs/cgroup"}
	c.user, c.newPID = d.add("user", nil), true
	c.unshare |= unix.CLONE_NEWPID | unix.CLONE_NEWCGROUP
	c.process.lateLimits = true
	c.process.seccomp = make([]byte, 8)
	c.names = d.names
	golden(t, "user_namespace", compileContainer(c))
}

func TestGoldenSharedPIDNamespace(t *testing.T) {
	spec := testSpec("/bin/true")
	spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths, spec.Mounts = nil, nil, spec.Mounts[1:2]
	c, d := planned(spec)
	c.joinPID = d.add("pid", nil)
	c.process.reparents = true
	c.process.seccomp = make([]byte, 8)
	c.names = d.names
	golden(t, "shared_pid_namespace", compileContainer(c))
}

func TestGoldenExec(t *testing.T) {
	spec := testSpec("/bin/true")
	c := &execPlan{
		names: []string{"stdin", "stdout", "stderr", "report", "cgroup", "proc", "pidfd"}, hostProc: 5, pidfd: 6, cgroup: 4,
		namespaces: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET,
		process:    processPlan{process: spec.Process, lastCap: 40, reparents: true, terminal: true},
	}
	golden(t, "exec", compileExec(c))
}
