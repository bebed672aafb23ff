package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/integration/controlgroup"
	"github.com/shimd/shimd/integration/criclient"
	"github.com/shimd/shimd/integration/daemon"
)

// externalSteps are those of a start by an external runtime.
var externalSteps = []string{"external.attach", "external.create", "external.adopt", "external.start"}

// external is a daemon with one runtime handler that names an OCI runtime of the machine's, as Debian ships it.
type external struct {
	name   string
	config string
	d      *daemon.Daemon
	client *criclient.Client
	image  string
}

func eachExternal(t *testing.T, check func(t *testing.T, e external)) {
	for _, name := range []string{"runc", "crun"} {
		t.Run(name, func(t *testing.T) {
			needRoot(t)
			path, err := exec.LookPath(name)
			if err != nil {
				t.Skipf("%s is not installed", name)
			}
			if name == "crun" {
				hideUnified(t)
			}
			e := external{name: name, config: fmt.Sprintf("[runtimes.%s]\npath = %q\n", name, path)}
			e.d, e.client = start(t, daemon.Config{More: e.config})
			e.image = pull(t, e.client)
			check(t, e)
			if err := e.client.RemoveAll(t.Context()); err != nil {
				t.Error(err)
			}
			e.wantNothingLeft(t)
		})
	}
}

// hideUnified takes the v2 tree beside v1 out of the test's mount namespace: crun refuses machines that have controllers in both.
func hideUnified(t *testing.T) {
	t.Helper()
	restore, err := controlgroup.HideUnified()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := restore(); err != nil {
			t.Error(err)
		}
	})
}

func (e external) sandbox(t *testing.T, change func(*criv1.PodSandboxConfig)) (pod, error) {
	t.Helper()
	config := e.client.Sandbox("external")
	config.LogDirectory = t.TempDir()
	if change != nil {
		change(config)
	}
	answer, err := e.client.RunPodSandbox(t.Context(), &criv1.RunPodSandboxRequest{Config: config, RuntimeHandler: e.name})
	return pod{id: answer.GetPodSandboxId(), config: config, logs: config.LogDirectory}, err
}

func (e external) pod(t *testing.T) pod {
	t.Helper()
	p, err := e.sandbox(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// wantNothingLeft looks where the runtime and its bundles had something. The machine as a whole is compared at the end of all tests.
func (e external) wantNothingLeft(t *testing.T) {
	t.Helper()
	for _, dir := range []string{filepath.Join(e.d.State(), "oci", e.name), filepath.Join(e.d.State(), "containers"), filepath.Join(e.d.State(), "tty")} {
		entries, err := os.ReadDir(dir)
		if err != nil && !os.IsNotExist(err) || len(entries) > 0 {
			t.Errorf("left in %s: %v (%v)", dir, entries, err)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), e.d.State()+"/containers/") {
		t.Errorf("mounts of containers are left (%v):\n%s", err, mounts)
	}
}

// stop makes the file that the container waits for. The command's status says nothing: the container may end, and the command with it, as soon as the file is there.
func stop(t *testing.T, client *criclient.Client, id string) {
	t.Helper()
	if _, _, err := client.Exec(t.Context(), id, "touch", "/stop"); err != nil {
		t.Error(err)
	}
}

func TestExternalRuntimes(t *testing.T) {
	eachExternal(t, func(t *testing.T, e external) {
		p := e.pod(t)
		id := p.start(t, e.client, criclient.Container("main", e.image, "sh", "-c", counter))
		if out, code, err := e.client.Exec(t.Context(), id, "echo", "inside"); err != nil || code != 0 || out != "inside\n" {
			t.Errorf("exec: %q, status %d, %v", out, code, err)
		}
		stop(t, e.client, id)
		if status, err := e.client.WaitExited(t.Context(), id); err != nil || status.ExitCode != 7 {
			t.Errorf("%v, %v", status, err)
		}
		wantCounted(t, filepath.Join(p.logs, "main.log"))
	})
}

func TestExternalExitCodesAndSignals(t *testing.T) {
	eachExternal(t, func(t *testing.T, e external) {
		p := e.pod(t)
		for command, want := range map[string]int32{"exit 0": 0, "exit 3": 3, "kill -TERM $$; exit 4": 4, "exit 255": 255} {
			config := criclient.Container(fmt.Sprintf("exits-%d", want), e.image, "sh", "-c", command)
			if status, err := e.client.WaitExited(t.Context(), p.start(t, e.client, config)); err != nil || status.ExitCode != want {
				t.Errorf("%q: %v, %v", command, status, err)
			}
		}
		trap := p.start(t, e.client, criclient.Container("trap", e.image, "sh", "-c", `trap "exit 9" TERM; echo ready; while true; do usleep 10000; done`))
		eventually(t, "the trap is set", func() bool {
			text, err := os.ReadFile(filepath.Join(p.logs, "trap.log"))
			return err == nil && strings.Contains(string(text), "ready")
		})
		if _, err := e.client.StopContainer(t.Context(), &criv1.StopContainerRequest{ContainerId: trap, Timeout: 60}); err != nil {
			t.Error(err)
		}
		if status, err := e.client.Status(t.Context(), trap); err != nil || status.ExitCode != 9 {
			t.Errorf("%v, %v", status, err)
		}
		deaf := p.start(t, e.client, criclient.Container("deaf", e.image, "sleep", "1000"))
		if _, err := e.client.StopContainer(t.Context(), &criv1.StopContainerRequest{ContainerId: deaf}); err != nil {
			t.Error(err)
		}
		if status, err := e.client.Status(t.Context(), deaf); err != nil || status.ExitCode != 137 {
			t.Errorf("%v, %v", status, err)
		}
		running := p.start(t, e.client, criclient.Container("running", e.image, "sleep", "1000"))
		if _, err := e.client.RemoveContainer(t.Context(), &criv1.RemoveContainerRequest{ContainerId: running}); err != nil {
			t.Error(err)
		}
	})
}

func TestExternalExec(t *testing.T) {
	eachExternal(t, func(t *testing.T, e external) {
		p := e.pod(t)
		id := p.start(t, e.client, criclient.Container("main", e.image, "sleep", "1000"))
		for want := range int32(3) {
			if _, code, err := e.client.Exec(t.Context(), id, "sh", "-c", fmt.Sprint("exit ", want)); err != nil || code != want {
				t.Errorf("status %d, %v", code, err)
			}
		}
		if _, code, err := e.client.Exec(t.Context(), id, "sh", "-c", "kill -KILL $$"); err != nil || code != 137 {
			t.Errorf("status %d, %v", code, err)
		}
		if _, _, err := e.client.Exec(t.Context(), id, "/not/there"); err == nil || !strings.Contains(err.Error(), "/not/there") {
			t.Errorf("a command that is not there: %v", err)
		}
		answer, err := e.client.ExecSync(t.Context(), &criv1.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "echo out; echo err >&2"}})
		if err != nil || string(answer.Stdout) != "out\n" || string(answer.Stderr) != "err\n" {
			t.Errorf("%v, %v", answer, err)
		}
		if _, err := e.client.ExecSync(t.Context(), &criv1.ExecSyncRequest{ContainerId: id, Cmd: []string{"sleep", "999"}, Timeout: 1}); err == nil {
			t.Error("a command ran longer than it may")
		}
		if out, _, err := e.client.Exec(t.Context(), id, "ps"); err != nil || strings.Contains(out, "999") {
			t.Errorf("what timed out still runs: %v\n%s", err, out)
		}
		c := crictl{t: t, d: e.d}
		shell := c.background(true, "exec", "--interactive", "--tty", id, "sh", "-c", "tty; read word; echo got $word")
		eventually(t, "the shell has a terminal", func() bool { return shell.output.has("/dev/pts/") })
		if _, err := shell.stdin.Write([]byte("sesame\n")); err != nil {
			t.Fatal(err)
		}
		if err := shell.cmd.Wait(); err != nil {
			t.Error(err)
		}
		eventually(t, "the shell answers", func() bool { return shell.output.has("got sesame") })
	})
}

func TestExternalTerminal(t *testing.T) {
	eachExternal(t, func(t *testing.T, e external) {
		p := e.pod(t)
		config := criclient.Container("main", e.image, "sh", "-c", "tty; exit 5")
		config.Tty = true
		if status, err := e.client.WaitExited(t.Context(), p.start(t, e.client, config)); err != nil || status.ExitCode != 5 {
			t.Errorf("%v, %v", status, err)
		}
		text, err := os.ReadFile(filepath.Join(p.logs, "main.log"))
		if err != nil || !strings.Contains(string(text), "/dev/") || strings.Contains(string(text), "not a tty") {
			t.Errorf("%q, %v", text, err)
		}
	})
}

func TestExternalLimits(t *testing.T) {
	eachExternal(t, func(t *testing.T, e external) {
		p := e.pod(t)
		config := criclient.Container("main", e.image, "sleep", "1000")
		config.Linux.Resources = &criv1.LinuxContainerResources{MemoryLimitInBytes: 32 << 20, CpuShares: 200, OomScoreAdj: 500}
		id := p.start(t, e.client, config)
		limit := "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"
		if out, _, err := e.client.Exec(t.Context(), id, "sh", "-c", limit); err != nil || strings.TrimSpace(out) != fmt.Sprint(32<<20) {
			t.Errorf("memory limit %q, %v", out, err)
		}
		if out, _, err := e.client.Exec(t.Context(), id, "cat", "/proc/1/oom_score_adj"); err != nil || out != "500\n" {
			t.Errorf("oom_score_adj %q, %v", out, err)
		}
		stats, err := e.client.ContainerStats(t.Context(), &criv1.ContainerStatsRequest{ContainerId: id})
		if err != nil || stats.GetStats().GetMemory().GetUsageBytes().GetValue() == 0 {
			t.Errorf("%v, %v", stats, err)
		}
		change := &criv1.LinuxContainerResources{MemoryLimitInBytes: 48 << 20}
		if _, err := e.client.UpdateContainerResources(t.Context(), &criv1.UpdateContainerResourcesRequest{ContainerId: id, Linux: change}); err != nil {
			t.Error(err)
		}
		if out, _, err := e.client.Exec(t.Context(), id, "sh", "-c", limit); err != nil || strings.TrimSpace(out) != fmt.Sprint(48<<20) {
			t.Errorf("memory limit %q after the update, %v", out, err)
		}
		greedy := criclient.Container("greedy", e.image, "sh", "-c", "tail -c 256m /dev/zero")
		greedy.Linux.Resources = &criv1.LinuxContainerResources{MemoryLimitInBytes: 16 << 20, MemorySwapLimitInBytes: 16 << 20}
		status, err := e.client.WaitExited(t.Context(), p.start(t, e.client, greedy))
		if err != nil || status.ExitCode != 137 || status.Reason != "OOMKilled" {
			t.Errorf("%v, %v", status, err)
		}
	})
}

func TestExternalStartThatFails(t *testing.T) {
	eachExternal(t, func(t *testing.T, e external) {
		p := e.pod(t)
		id, err := e.client.Start(t.Context(), p.id, p.config, criclient.Container("main", e.image, "no-such-command"))
		if err == nil || !strings.Contains(err.Error(), "no-such-command") || !strings.Contains(err.Error(), e.name) {
			t.Errorf("the error tells not what the runtime says: %v", err)
		}
		status, err := e.client.Status(t.Context(), id)
		if err != nil || status.State != criv1.ContainerState_CONTAINER_EXITED || !strings.Contains(status.Message, "no-such-command") {
			t.Errorf("%v, %v", status, err)
		}
		_, err = e.sandbox(t, func(config *criv1.PodSandboxConfig) {
			mapping := []*criv1.IDMapping{{HostId: 200000, ContainerId: 0, Length: 65536}}
			config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &criv1.UserNamespace{Mode: criv1.NamespaceMode_POD, Uids: mapping, Gids: mapping}
		})
		if err == nil || !strings.Contains(err.Error(), "user namespace") {
			t.Errorf("a user namespace: %v", err)
		}
	})
}

// A pod whose containers share one PID namespace: what a container leaves behind there ends with it.
func TestExternalSharedPIDNamespace(t *testing.T) {
	eachExternal(t, func(t *testing.T, e external) {
		p, err := e.sandbox(t, func(config *criv1.PodSandboxConfig) {
			config.Linux.SecurityContext.NamespaceOptions = &criv1.NamespaceOption{Pid: criv1.NamespaceMode_POD}
		})
		if err != nil {
			t.Fatal(err)
		}
		config := criclient.Container("main", e.image, "sh", "-c", "sleep 1000 & while [ ! -e /stop ]; do usleep 10000; done; exit 6")
		config.Linux.SecurityContext.NamespaceOptions = &criv1.NamespaceOption{Pid: criv1.NamespaceMode_POD}
		id := p.start(t, e.client, config)
		if out, code, err := e.client.Exec(t.Context(), id, "ps"); err != nil || code != 0 || !strings.Contains(out, "pause") {
			t.Errorf("%s, %d, %v", out, code, err)
		}
		stop(t, e.client, id)
		if status, err := e.client.WaitExited(t.Context(), id); err != nil || status.ExitCode != 6 {
			t.Errorf("%v, %v", status, err)
		}
		config.Metadata.Name, config.Command = "other", []string{"sleep", "998"}
		other := p.start(t, e.client, config)
		if out, _, err := e.client.Exec(t.Context(), other, "ps"); err != nil || !strings.Contains(out, "998") || strings.Contains(out, "1000") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

func TestExternalDaemonAndKeeperKilled(t *testing.T) {
	eachExternal(t, func(t *testing.T, e external) {
		p := e.pod(t)
		writer := p.start(t, e.client, criclient.Container("writer", e.image, "sh", "-c", counter))
		short := p.start(t, e.client, criclient.Container("short", e.image, "sh", "-c", "while [ ! -e /go ]; do usleep 10000; done; echo gone; exit 42"))
		waiting, err := e.client.CreateContainer(t.Context(), &criv1.CreateContainerRequest{
			PodSandboxId: p.id, Config: criclient.Container("waiting", e.image, "sh", "-c", "exit 11"), SandboxConfig: p.config,
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := e.client.Exec(t.Context(), short, "sh", "-c", "(sleep 1; touch /go) >/dev/null 2>&1 </dev/null &"); err != nil {
			t.Fatal(err)
		}
		if err := e.d.Kill(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the short container ended while the daemon was dead", func() bool {
			text, err := os.ReadFile(filepath.Join(p.logs, "short.log"))
			return err == nil && strings.Contains(string(text), "gone")
		})
		if err := e.d.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if status, err := e.client.WaitExited(t.Context(), short); err != nil || status.ExitCode != 42 {
			t.Errorf("%v, %v", status, err)
		}
		// Created before the kill, started after it.
		if _, err := e.client.StartContainer(t.Context(), &criv1.StartContainerRequest{ContainerId: waiting.ContainerId}); err != nil {
			t.Error(err)
		} else if status, err := e.client.WaitExited(t.Context(), waiting.ContainerId); err != nil || status.ExitCode != 11 {
			t.Errorf("%v, %v", status, err)
		}
		keepers, err := e.d.Keepers()
		if err != nil || len(keepers) != 1 {
			t.Fatalf("%v, %v", keepers, err)
		}
		if err := unix.Kill(keepers[0], unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "another keeper runs", func() bool {
			now, err := e.d.Keepers()
			return err == nil && len(now) == 1 && now[0] != keepers[0]
		})
		eventually(t, "exec works again", func() bool {
			out, code, err := e.client.Exec(t.Context(), writer, "echo", "alive")
			return err == nil && code == 0 && out == "alive\n"
		})
		stop(t, e.client, writer)
		if status, err := e.client.WaitExited(t.Context(), writer); err != nil || status.ExitCode != 7 {
			t.Errorf("%v, %v", status, err)
		}
	})
}

// Each step of a start fails once, and is where the daemon is killed once.
func TestExternalStartFailsOrIsKilledAtEveryStep(t *testing.T) {
	eachExternal(t, func(t *testing.T, e external) {
		p := e.pod(t)
		for n, step := range append([]string{"container.running"}, externalSteps...) {
			config := criclient.Container(fmt.Sprint("fails-", n), e.image, "sleep", "1000")
			client := restart(t, e.d, e.config+failpoint(step+"=error:1"))
			id, err := client.Start(t.Context(), p.id, p.config, config)
			if err == nil || !strings.Contains(err.Error(), step) {
				t.Errorf("%s fails: %v", step, err)
			}
			if status, err := client.Status(t.Context(), id); err != nil || status.State != criv1.ContainerState_CONTAINER_EXITED || status.Reason != "StartError" {
				t.Errorf("%s fails: %v, %v", step, status, err)
			}
			config = criclient.Container(fmt.Sprint("killed-", n), e.image, "sh", "-c", "while [ ! -e /stop ]; do usleep 10000; done; exit 12")
			client = restart(t, e.d, e.config+failpoint(step+"=exit"))
			if id, err = client.Start(t.Context(), p.id, p.config, config); err == nil {
				t.Fatalf("%s: the daemon lives", step)
			}
			if err := e.d.WaitKilled(t.Context()); err != nil {
				t.Fatal(err)
			}
			client = restart(t, e.d, e.config)
			if _, err := client.StartContainer(t.Context(), &criv1.StartContainerRequest{ContainerId: id}); err != nil {
				t.Errorf("%s, asked again: %v", step, err)
				continue
			}
			stop(t, client, id)
			if status, err := client.WaitExited(t.Context(), id); err != nil || status.ExitCode != 12 {
				t.Errorf("%s: %v, %v", step, status, err)
			}
		}
	})
}

// An image volume is attached at Start, by the daemon that starts the container.
func TestExternalImageVolume(t *testing.T) {
	eachExternal(t, func(t *testing.T, e external) {
		p := e.pod(t)
		config := criclient.Container("main", e.image, "sh", "-c", "cmp /bin/busybox /image/bin/busybox && ! touch /image/x && exit 8")
		config.Mounts = []*criv1.Mount{{ContainerPath: "/image", Image: &criv1.ImageSpec{Image: e.image}, Readonly: true}}
		created, err := e.client.CreateContainer(t.Context(), &criv1.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
		if err != nil {
			t.Fatal(err)
		}
		client := restart(t, e.d, e.config)
		if _, err := client.StartContainer(t.Context(), &criv1.StartContainerRequest{ContainerId: created.ContainerId}); err != nil {
			t.Fatal(err)
		}
		if status, err := client.WaitExited(t.Context(), created.ContainerId); err != nil || status.ExitCode != 8 {
			t.Errorf("%v, %v", status, err)
		}
	})
}
