package launch

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// inOwnMounts runs f with a mount namespace of the test's own: in a thread that ends with it.
func inOwnMounts(t *testing.T, propagation uintptr, dir string) {
	t.Helper()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", propagation, ""); err != nil {
		t.Fatal(err)
	}
}

func TestVolumePropagation(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for _, c := range []struct {
		option  string
		arrives bool
	}{{"rprivate", false}, {"", false}, {"rslave", true}, {"rshared", true}} {
		t.Run(c.option, func(t *testing.T) {
			dir := t.TempDir()
			inOwnMounts(t, unix.MS_SHARED, dir)
			if err := os.Mkdir(filepath.Join(dir, "later"), 0o755); err != nil {
				t.Fatal(err)
			}
			spec := testSpec()
			m := specs.Mount{Destination: "/vol", Type: "bind", Source: dir, Options: []string{"rbind"}}
			if c.option != "" {
				m.Options = append(m.Options, c.option)
			}
			spec.Mounts = append(spec.Mounts, m)
			pid, pidfd := running(t, image(t), spec, nil)
			later := filepath.Join(dir, "later")
			if err := unix.Mount("tmpfs", later, "tmpfs", 0, "size=64k"); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = unix.Unmount(later, unix.MNT_DETACH) }()
			process := *spec.Process
			process.Args = []string{"grep", "-c", "/vol/later", "/proc/self/mountinfo"}
			res := runExec(t, ExecInput{Process: &process, PID: pid, PIDFD: pidfd, Spec: spec})
			if got := strings.TrimSpace(res.output) == "1"; got != c.arrives || res.err != nil {
				t.Errorf("arrives: %v, want %v (%v)", got, c.arrives, res.err)
			}
		})
	}
}

func TestVolumePropagationNeedsASharedSource(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	inOwnMounts(t, unix.MS_PRIVATE, dir)
	spec := testSpec("true")
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/vol", Type: "bind", Source: dir, Options: []string{"rbind", "rshared"}})
	prepareError(t, image(t), spec, "not shared")
	spec.Mounts[len(spec.Mounts)-1] = specs.Mount{Destination: "/vol", Type: "bind", Source: dir + "/nothing", Options: []string{"rbind"}}
	prepareError(t, image(t), spec, "does not exist on the host")
}

func TestVolumeRecursiveReadOnly(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for option, want := range map[string]string{"ro": "written\n", "rro": "Read-only"} {
		dir := t.TempDir()
		inOwnMounts(t, unix.MS_PRIVATE, dir)
		below := filepath.Join(dir, "below")
		if err := os.Mkdir(below, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", below, "tmpfs", 0, "size=64k"); err != nil {
			t.Fatal(err)
		}
		spec := testSpec("sh", "-c", "touch /vol/x 2>/dev/null || echo top; touch /vol/below/x && echo written")
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/vol", Type: "bind", Source: dir, Options: []string{"rbind", option}})
		res := runContainer(t, image(t), spec, nil)
		contains(t, res.output, "top\n", want)
		_ = unix.Unmount(below, unix.MNT_DETACH)
	}
}

func TestVolumeIDMapped(t *testing.T) {
	dir := userImage(t)
	data := t.TempDir()
	if err := os.WriteFile(filepath.Join(data, "mine"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(data, "mine"), 12, 34); err != nil {
		t.Fatal(err)
	}
	spec := userSpec("sh", "-c", "stat -c %u:%g /vol/mine /other/mine; touch /vol/new")
	spec.Mounts = append(spec.Mounts,
		specs.Mount{Destination: "/vol", Type: "bind", Source: data, Options: []string{"rbind", "ridmap"}, UIDMappings: spec.Linux.UIDMappings, GIDMappings: spec.Linux.GIDMappings},
		specs.Mount{
			Destination: "/other", Type: "bind", Source: data, Options: []string{"rbind"},
			UIDMappings: []specs.LinuxIDMapping{{ContainerID: 12, HostID: 200099, Size: 1}}, GIDMappings: []specs.LinuxIDMapping{{ContainerID: 34, HostID: 200098, Size: 1}},
		})
	contains(t, mustRun(t, dir, spec, nil), "12:34\n99:98\n")
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(data, "new"), &st); err != nil || st.Uid != 0 {
		t.Errorf("on disk it belongs to %d, %v", st.Uid, err)
	}
}

func TestCgroupV1(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup/pids", &st); err != nil || st.Type != unix.CGROUP_SUPER_MAGIC {
		t.Skip("needs cgroup v1")
	}
	var tasks []*os.File
	name := fmt.Sprintf("shimd-test-launch-%d", os.Getpid())
	for _, h := range []string{"pids", "memory", "cpu"} {
		dir := filepath.Join("/sys/fs/cgroup", h, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(dir) })
		f, err := os.OpenFile(filepath.Join(dir, "tasks"), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		tasks = append(tasks, f)
	}
	for option, want := range map[string]string{"ro": "Read-only file system", "rw": "wrote\n"} {
		// CVE-2023-25809: read-only unless the container is privileged.
		spec := testSpec("sh", "-c", "grep -E 'pids|memory|:cpu:' /proc/self/cgroup; ls /sys/fs/cgroup; cat /sys/fs/cgroup/pids/tasks; echo 100 > /sys/fs/cgroup/pids/pids.max && echo wrote; mkdir /sys/fs/cgroup/x || echo none")
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", option}})
		res := runContainer(t, image(t), spec, func(in *ContainerInput) { in.CgroupTasks = tasks })
		if res.err != nil {
			t.Fatal(res.err)
		}
		contains(t, res.output, ":pids:/\n", ":memory:/\n", "cpu\nmemory\npids\n", want)
	}
}
