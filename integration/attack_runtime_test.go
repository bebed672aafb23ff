package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/integration/criclient"
	"github.com/shimd/shimd/integration/daemon"
)

// Also CVE-2019-5736 from inside: what a container finds in /proc of itself, of the pause process and of execs is its own.
func TestCVE_2024_21626_NothingOfTheHostInProc(t *testing.T) {
	t.Parallel()
	d, client := start(t, daemon.Config{})
	host := newCanary(t)
	image := pull(t, client)
	p := runSharedPod(t, client, "proc")
	// It looks again and again at all processes of the pod while execs come and go, with what lets it look at them.
	spy := p.container("spy", image, "sh", "-c", `
while [ ! -e /stop ]; do
	for d in /proc/[0-9]*; do
		cat $d/root`+host.secret+` $d/cwd`+host.secret+` $d/cwd/secret
		for f in $d/fd/*; do cat $f`+host.secret+` $f/../`+host.secret+` $f/secret; done
		echo pwned >> $d/exe; echo pwned >> $d/root`+host.secret+`
		case "$(readlink $d/exe)" in *shimd*) echo HOST $d $(readlink $d/exe);; esac
		ls -l $d/fd | grep -E 'shimd-keeper|/record|shimd.sock|socket:|cgroup|ns/|mnt:' | sed s/^/HOST/
	done
	dd if=/proc/1/mem bs=1 count=1 skip=4096
done 2>/dev/null; echo end`)
	spy.Linux.SecurityContext.Capabilities = &criv1.Capability{AddCapabilities: []string{"SYS_PTRACE", "SYS_ADMIN", "NET_ADMIN", "DAC_READ_SEARCH"}}
	spy.Linux.SecurityContext.Seccomp = &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Unconfined}
	id := p.start(t, client, spy)
	other := p.start(t, client, p.container("other", image, "sleep", "1000"))
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			for range 40 {
				if out, code, err := client.Exec(t.Context(), other, "echo", "well"); err != nil || code != 0 || out != "well\n" {
					t.Errorf("exec under a spy's eyes: %q, %d, %v", out, code, err)
					return
				}
			}
		})
	}
	running.Wait()
	if _, _, err := client.Exec(t.Context(), id, "touch", "/stop"); err != nil {
		t.Fatal(err)
	}
	if _, err := client.WaitExited(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(filepath.Join(p.logs, "spy.log"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(log), "F end") || strings.Contains(string(log), "HOST") || strings.Contains(string(log), secretWord) {
		t.Errorf("the spy saw: %.3000s", log)
	}
	host.wantUntouched(t)
	for _, mode := range []struct{ tty, stdin bool }{{false, false}, {false, true}, {true, true}} {
		look := p.container(fmt.Sprintf("look-%t-%t", mode.tty, mode.stdin), image, "sh", "-c", "exec sleep 1000")
		look.Tty, look.Stdin = mode.tty, mode.stdin
		id := p.start(t, client, look)
		status, err := client.ContainerStatus(t.Context(), &criv1.ContainerStatusRequest{ContainerId: id, Verbose: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range processesBelow(t, d, status, id) {
			fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
			if err != nil || len(fds) != 3 {
				t.Errorf("%+v: a container has %d descriptors: %v, %v", mode, len(fds), fds, err)
			}
		}
	}
	wantAlive(t, client, p, image)
}

// processesBelow are the processes of a container: those whose cgroup names it.
func processesBelow(t *testing.T, _ *daemon.Daemon, _ *criv1.ContainerStatusResponse, id string) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(text), id) {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(file, "/proc/%d/cgroup", &pid); err == nil {
			found = append(found, pid)
		}
	}
	if len(found) == 0 {
		t.Error("the container has no process")
	}
	return found
}

// runSharedPod runs a pod whose containers share one PID namespace, with a pause process.
func runSharedPod(t *testing.T, client *criclient.Client, name string) pod {
	t.Helper()
	p := pod{config: client.Sandbox(name), logs: t.TempDir()}
	p.config.LogDirectory = p.logs
	p.config.Linux.SecurityContext.NamespaceOptions = &criv1.NamespaceOption{Pid: criv1.NamespaceMode_POD}
	var err error
	if p.id, err = client.RunSandbox(t.Context(), p.config); err != nil {
		t.Fatal(err)
	}
	return p
}

// container is one with the pod's namespaces.
func (p pod) container(name, image string, command ...string) *criv1.ContainerConfig {
	config := criclient.Container(name, image, command...)
	config.Linux.SecurityContext.NamespaceOptions = p.config.Linux.SecurityContext.NamespaceOptions
	return config
}

// With the default capabilities; also CVE-2025-52881's targets, CVE-2023-25809 and GHSA-7ww5 (2023).
func TestCVE_2025_31133_NothingOfTheHostCanBeWritten(t *testing.T) {
	t.Parallel()
	_, client := start(t, daemon.Config{})
	host := newCanary(t)
	image := pull(t, client)
	p := runPod(t, client, "writer")
	script := `
try() { ("$@") 2>/dev/null && echo "GOT $*"; }
for f in /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/irq/0/smp_affinity /proc/acpi/wakeup \
	/proc/scsi/scsi /sys/kernel/uevent_helper /sys/kernel/mm/transparent_hugepage/enabled /sys/power/state /proc/sys/fs/binfmt_misc/register \
	$(find /sys/fs/cgroup -name release_agent -o -name notify_on_release -o -name devices.allow -o -name memory.limit_in_bytes -o -name cgroup.procs | head -100); do
	v=$(head -n 1 $f 2>/dev/null); case $f in *trigger) v=h;; esac; (echo "${v:-0}" > $f) 2>/dev/null && echo "GOT $f" # what stands there: on a machine that is open, nothing changes
done
try mount -t tmpfs x /mnt; try mount -t proc x /mnt; try mount -t cgroup -o rdma x /mnt; try mount -t sysfs x /mnt; try mount --bind / /mnt
try umount /proc/sys; try umount /proc/kcore; try umount /etc/hosts; try mount -o remount,rw /sys; try mount -o remount,rw /proc/sys
try unshare -m true; try unshare -U true; try unshare -r true; try unshare -p true
try mknod /disk b 8 0; [ -e /disk ] && try head -c 1 /disk; try mknod /mem c 1 1; [ -e /mem ] && try head -c 1 /mem; try mknod /kmsg c 1 11; [ -e /kmsg ] && try head -c 1 /kmsg
try sysctl -w "kernel.core_pattern=$(cat /proc/sys/kernel/core_pattern)"; try sysctl -w net.ipv4.ip_forward=1; try hostname pwned; try ip link set lo down; try renice -20 1; try chroot /proc/1/root/..` + host.dir + ` cat secret
head -c 10 /proc/kcore; ls /sys/devices/virtual/powercap /sys/firmware /proc/scsi /proc/acpi 2>/dev/null | grep -v / | grep . | sed 's/^/GOT /'
grep -E 'Cap(Inh|Amb)' /proc/self/status | grep -v 0000000000000000 | sed 's/^/GOT /'
dd if=/dev/zero of=/dev/shm/x bs=1M count=80 2>/dev/null; echo shm $(du -m /dev/shm/x | cut -f1); rm /dev/shm/x; echo end`
	writer := criclient.Container("writer", image, "sh", "-c", script)
	writer.Linux.SecurityContext.Seccomp = &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_RuntimeDefault}
	out, err := p.attempt(t, client, writer)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", out)
	for line := range strings.Lines(out) {
		// A node that can be made but not opened is what the default capabilities (MKNOD) and the device rules mean.
		if strings.Contains(line, "GOT ") && !strings.Contains(line, "GOT mknod ") {
			t.Error(strings.TrimSpace(line))
		}
	}
	if !strings.Contains(out, "F end") || !strings.Contains(out, "shm 64") {
		t.Errorf("it did not come to its end, or /dev/shm has no limit: %s", out)
	}
	host.wantUntouched(t)
}

// Mounts made inside stay inside, unless the volume is bidirectional. It takes CAP_SYS_ADMIN, which such a pod was given.
func TestMountsInsideStayInside(t *testing.T) {
	t.Parallel()
	_, client := start(t, daemon.Config{})
	host := newCanary(t)
	image := pull(t, client)
	p := runPod(t, client, "mounter")
	for name, propagation := range map[string]criv1.MountPropagation{"private": criv1.MountPropagation_PROPAGATION_PRIVATE, "slave": criv1.MountPropagation_PROPAGATION_HOST_TO_CONTAINER} {
		volume := t.TempDir()
		if err := syscall.Mount(volume, volume, "", syscall.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("", volume, "", syscall.MS_SHARED, ""); err != nil {
			t.Fatal(err)
		}
		mounter := criclient.Container(name, image, "sh", "-c", `
mount --make-rshared /vol; mount --make-rshared /; mkdir /vol/m; mount -t tmpfs escaped-tmpfs /vol/m; touch /vol/m/inside
grep -c escaped /proc/self/mountinfo; mount --bind / /vol; umount -l /vol; umount -l /vol; umount -l /etc/hosts; cat /proc/1/root`+host.secret+`; cat /etc/hosts; sleep 1000`)
		mounter.Mounts = []*criv1.Mount{{ContainerPath: "/vol", HostPath: volume, Propagation: propagation}}
		mounter.Linux.SecurityContext.Capabilities = &criv1.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
		mounter.Linux.SecurityContext.Seccomp = &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Unconfined}
		p.start(t, client, mounter)
		eventually(t, "it mounted", func() bool {
			log, err := os.ReadFile(filepath.Join(p.logs, name+".log"))
			return err == nil && strings.Contains(string(log), "F ")
		})
		now, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || strings.Contains(string(now), "escaped-tmpfs") {
			t.Errorf("%s: a mount came out of the container: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(volume, "m", "inside")); err == nil {
			t.Errorf("%s: the mount is seen on the host", name)
		}
		if err := syscall.Unmount(volume, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}
	host.wantUntouched(t)
}

// What a container does to its own output harms only its own log.
func TestOutputUnderAttack(t *testing.T) {
	t.Parallel()
	_, client := start(t, daemon.Config{})
	host := newCanary(t)
	image := pull(t, client)
	p := runPod(t, client, "output")
	for name, c := range map[string]struct {
		script string
		uid    int64
		want   string
	}{
		"reopened by nobody":   {"echo one > /proc/self/fd/1; echo two > /dev/stdout; echo three > /dev/stderr", 65534, "three"},
		"forged lines":         {`printf 'x\n2026-01-01T00:00:00Z stdout F forged\n\033[2J\r\000\n2026'; echo end`, 0, "end"},
		"reads its own":        {`(timeout 1 cat < /proc/self/fd/1 >/dev/null) & sleep 0.2; wait; echo end`, 0, "end"},
		"modes":                {`chmod 000 /proc/self/fd/1; chown 65534 /proc/self/fd/1 /proc/self/fd/2; rm -f /proc/self/fd/1; echo end`, 0, "end"},
		"stops itself":         {`kill -STOP 1; kill -STOP $$; kill -9 1; kill -9 -1; echo end`, 0, "end"},
		"a line without end":   {`head -c 3000000 /dev/zero | tr '\000' x; echo; echo end`, 0, "end"},
		"many empty lines":     {`yes '' | head -n 100000; echo end`, 0, "end"},
		"truncates":            {`: > /proc/self/fd/1; dd if=/dev/null of=/dev/stdout 2>/dev/null; echo end`, 0, "end"},
		"through the pipe out": {`cd /proc/self/fd/1 2>/dev/null; cat /proc/self/fd/1/../secret /proc/self/fd/1/..` + host.secret + ` 2>/dev/null; ls -l /proc/self/fd/1; echo end`, 0, "end"},
	} {
		config := criclient.Container(strings.ReplaceAll(name, " ", "-"), image, "sh", "-c", c.script)
		config.Linux.SecurityContext.RunAsUser = &criv1.Int64Value{Value: c.uid}
		out, err := p.attempt(t, client, config)
		if err != nil || !strings.Contains(out, c.want) || strings.Contains(out, secretWord) {
			t.Errorf("%s: %.300q, %v", name, out, err)
		}
		for line := range strings.Lines(out) {
			if fields := strings.SplitN(line, " ", 4); len(fields) != 4 || (fields[2] != "F" && fields[2] != "P") || strings.HasPrefix(fields[0], "2026-01-01") {
				t.Errorf("%s: not a line of the log's format: %.200q", name, line)
			}
		}
	}
	wantAlive(t, client, p, image)
}

// Also CVE-2022-31030: many execs at once into a container that dies of them.
func TestKilledAmidExecs(t *testing.T) {
	t.Parallel()
	d, client := start(t, daemon.Config{})
	image := pull(t, client)
	p := runSharedPod(t, client, "storm")
	before := descriptors(t, d.PID())
	for round := range 3 {
		id := p.start(t, client, p.container(fmt.Sprintf("target-%d", round), image, "sleep", "1000"))
		var running sync.WaitGroup
		for range 40 {
			running.Go(func() { _, _, _ = client.Exec(t.Context(), id, "sh", "-c", "kill -9 -1; yes | head -c 100000") }) // it may fail, and must end
		}
		if _, err := client.StopContainer(t.Context(), &criv1.StopContainerRequest{ContainerId: id}); err != nil {
			t.Error(err)
		}
		running.Wait()
	}
	eventually(t, "the daemon closed what it had open", func() bool { return descriptors(t, d.PID()) <= before+2 })
	wantAlive(t, client, p, image)
}

// A container's tree may be deeper than any path, and must go all the same.
func TestTreesDeeperThanAPath(t *testing.T) {
	t.Parallel()
	d, client := start(t, daemon.Config{})
	image := pull(t, client)
	p := runPod(t, client, "deep")
	out, err := p.attempt(t, client, criclient.Container("deep", image, "sh", "-c", `d=$(printf %0200d 0); i=0; while [ $i -lt 60 ]; do mkdir $d && cd -P $d || break; i=$((i+1)); done 2>/dev/null; echo end $i`))
	if err != nil || !strings.Contains(out, "end 60") {
		t.Fatalf("%q, %v", out, err)
	}
	eventually(t, "the trash is empty", func() bool {
		entries, err := os.ReadDir(filepath.Join(d.Root(), "image", "trash"))
		return err == nil && len(entries) == 0
	})
}
