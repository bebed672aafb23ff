package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/integration/criclient"
	"github.com/shimd/shimd/integration/daemon"
	"github.com/shimd/shimd/integration/images"
)

// pod is one running pod with its log directory.
type pod struct {
	id     string
	config *criv1.PodSandboxConfig
	logs   string
}

func runPod(t *testing.T, client *criclient.Client, name string) pod {
	t.Helper()
	p := pod{config: client.Sandbox(name), logs: t.TempDir()}
	p.config.LogDirectory = p.logs
	var err error
	if p.id, err = client.RunSandbox(t.Context(), p.config); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p pod) start(t *testing.T, client *criclient.Client, config *criv1.ContainerConfig) string {
	t.Helper()
	id, err := client.Start(t.Context(), p.id, p.config, config)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func pull(t *testing.T, client *criclient.Client) string {
	t.Helper()
	image, err := client.Pull(t.Context(), images.Busybox)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// content is the log without times and stream names.
func content(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(fields) != 4 || fields[2] != "F" {
			t.Fatalf("%s: not a whole log line: %q", file, line)
		}
		lines = append(lines, fields[3])
	}
	return lines
}

// eventually tries until the condition holds. Nothing depends on how long that takes, but that it ends.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never came true: %s", what)
		}
	}
}

// counter prints numbers until it is told to stop, and exits 7 then.
const counter = `i=0; while [ ! -e /stop ]; do i=$((i+1)); echo line $i; usleep 2000; done; echo end; exit 7`

func wantCounted(t *testing.T, file string) {
	t.Helper()
	lines := content(t, file)
	if len(lines) < 2 || lines[len(lines)-1] != "end" {
		t.Fatalf("%d lines, the last of them: %q", len(lines), lines[max(0, len(lines)-3):])
	}
	for n, line := range lines[:len(lines)-1] {
		if want := fmt.Sprintf("line %d", n+1); line != want {
			t.Fatalf("line %d of the log is %q", n+1, line)
		}
	}
}

func TestDaemonKilledWhilePodsRunAndLog(t *testing.T) {
	d, client := start(t, daemon.Config{})
	image := pull(t, client)
	p := runPod(t, client, "killed")
	writer := p.start(t, client, criclient.Container("writer", image, "sh", "-c", counter))
	short := p.start(t, client, criclient.Container("short", image, "sh", "-c", "while [ ! -e /proc/1/root/go ]; do usleep 10000; done; date +%s; exit 42"))
	before, err := client.Status(t.Context(), short)
	if err != nil {
		t.Fatal(err)
	}
	// What makes the short one end while the daemon is dead runs in the container already.
	if _, _, err := client.Exec(t.Context(), short, "sh", "-c", "(sleep 2; touch /go) >/dev/null 2>&1 </dev/null &"); err != nil {
		t.Fatal(err)
	}
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	shortLog := filepath.Join(p.logs, "short.log")
	eventually(t, "the short container ended and logged while the daemon was dead", func() bool {
		text, err := os.ReadFile(shortLog)
		return err == nil && strings.Contains(string(text), "\n")
	})
	time.Sleep(2 * time.Second) // it exits after what it logged, and the daemon must come late
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended, err := client.WaitExited(t.Context(), short)
	if err != nil {
		t.Fatal(err)
	}
	if ended.ExitCode != 42 || ended.StartedAt != before.StartedAt {
		t.Errorf("exit code %d, started at %d (before the kill: %d)", ended.ExitCode, ended.StartedAt, before.StartedAt)
	}
	var printed int64
	if _, err := fmt.Sscan(content(t, shortLog)[0], &printed); err != nil {
		t.Fatal(err)
	}
	if finished := time.Unix(0, ended.FinishedAt); finished.Unix() < printed || finished.Unix() > printed+1 {
		t.Errorf("finished at %v, but it printed %v right before", finished, time.Unix(printed, 0))
	}
	if out, code, err := client.Exec(t.Context(), writer, "sh", "-c", "echo alive; touch /stop"); err != nil || code != 0 || out != "alive\n" {
		t.Errorf("exec after the restart: %q, status %d, %v", out, code, err)
	}
	if status, err := client.WaitExited(t.Context(), writer); err != nil || status.ExitCode != 7 {
		t.Errorf("%v, %v", status, err)
	}
	wantCounted(t, filepath.Join(p.logs, "writer.log"))
}

// A stop that a restart cut short ends when it was to end, with however much patience it is asked for again: else a container that ignores its signal
// is never stopped while the daemon is restarted again and again.
func TestStopIsNotBegunAnewByARestart(t *testing.T) {
	d, client := start(t, daemon.Config{})
	p := runPod(t, client, "stubborn")
	id := p.start(t, client, criclient.Container("stubborn", pull(t, client), "sh", "-c", "trap 'touch /told' TERM; touch /listens; while :; do usleep 10000; done"))
	has := func(file string) func() bool {
		return func() bool {
			_, code, err := client.Exec(t.Context(), id, "test", "-e", file)
			return err == nil && code == 0
		}
	}
	eventually(t, "the container listens to signals", has("/listens"))
	first := make(chan error, 1)
	go func() {
		_, err := client.StopContainer(t.Context(), &criv1.StopContainerRequest{ContainerId: id, Timeout: 20})
		first <- err
	}()
	eventually(t, "the container is told to stop", has("/told"))
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-first; err == nil {
		t.Fatal("a stop was answered by a daemon that was killed")
	}
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	deadline, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := client.StopContainer(deadline, &criv1.StopContainerRequest{ContainerId: id, Timeout: 3600}); err != nil {
		t.Fatal(err)
	}
	if status, err := client.Status(t.Context(), id); err != nil || status.State != criv1.ContainerState_CONTAINER_EXITED || status.ExitCode != 137 {
		t.Errorf("%v, %v", status, err)
	}
}

func TestKeeperKilled(t *testing.T) {
	d, client := start(t, daemon.Config{})
	image := pull(t, client)
	p := runPod(t, client, "orphan")
	writer := p.start(t, client, criclient.Container("writer", image, "sh", "-c", counter))
	status, err := client.ContainerStatus(t.Context(), &criv1.ContainerStatusRequest{ContainerId: writer, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	keepers, err := d.Keepers()
	if err != nil {
		t.Fatal(err)
	}
	if len(keepers) != 1 {
		t.Fatalf("%d keepers run, not 1", len(keepers))
	}
	if err := syscall.Kill(keepers[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a new keeper runs", func() bool {
		now, err := d.Keepers()
		return err == nil && len(now) == 1 && now[0] != keepers[0]
	})
	eventually(t, "exec works under the new keeper", func() bool {
		out, code, err := client.Exec(t.Context(), writer, "echo", "alive")
		return err == nil && code == 0 && out == "alive\n"
	})
	after, err := client.Status(t.Context(), writer)
	if err != nil {
		t.Fatal(err)
	}
	if after.State != criv1.ContainerState_CONTAINER_RUNNING || after.StartedAt != status.Status.StartedAt {
		t.Errorf("the container did not run on: %v", after)
	}
	if _, _, err := client.Exec(t.Context(), writer, "touch", "/stop"); err != nil {
		t.Fatal(err)
	}
	if ended, err := client.WaitExited(t.Context(), writer); err != nil || (ended.ExitCode != 7 && kernelTellsExits(t)) {
		t.Errorf("%v, %v", ended, err)
	}
	wantCounted(t, filepath.Join(p.logs, "writer.log"))
}

// kernelTellsExits: from 6.15 on a pidfd tells the exit status to who is not the parent.
func kernelTellsExits(t *testing.T) bool {
	t.Helper()
	return kernelIsAtLeast(t, 6, 15)
}

func kernelIsAtLeast(t *testing.T, wantMajor, wantMinor int) bool {
	t.Helper()
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(string(release), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	return major > wantMajor || (major == wantMajor && minor >= wantMinor)
}

// A client that gives up half-way and asks again gets the same sandbox and container.
func TestClientGivesUpAndAsksAgain(t *testing.T) {
	_, client := start(t, daemon.Config{})
	image := pull(t, client)
	for n := range 20 {
		config := client.Sandbox("again")
		deadline, cancel := context.WithTimeout(t.Context(), time.Duration(n*200)*time.Microsecond)
		_, firstErr := client.RunSandbox(deadline, config)
		cancel()
		one, err := client.RunSandbox(t.Context(), config)
		if err != nil {
			t.Fatalf("asked again after %v: %v", firstErr, err)
		}
		two, err := client.RunSandbox(t.Context(), config)
		if err != nil || one != two {
			t.Fatalf("the same request got %s and %s (%v)", one, two, err)
		}
		container := criclient.Container("again", image, "sleep", "1000")
		container.LogPath = ""
		request := &criv1.CreateContainerRequest{PodSandboxId: one, Config: container, SandboxConfig: config}
		deadline, cancel = context.WithTimeout(t.Context(), time.Duration(n*100)*time.Microsecond)
		_, firstErr = client.CreateContainer(deadline, request)
		cancel()
		first, err := client.CreateContainer(t.Context(), request)
		if err != nil {
			t.Fatalf("asked again after %v: %v", firstErr, err)
		}
		second, err := client.CreateContainer(t.Context(), request)
		if err != nil || first.ContainerId != second.ContainerId {
			t.Fatalf("the same request got %v and %v (%v)", first, second, err)
		}
		if list, err := client.ListContainers(t.Context(), &criv1.ListContainersRequest{Filter: &criv1.ContainerFilter{PodSandboxId: one}}); err != nil || len(list.Containers) != 1 {
			t.Fatalf("%v, %v", list, err)
		}
		if err := client.Remove(t.Context(), one); err != nil {
			t.Fatal(err)
		}
	}
	if pods, err := client.ListPodSandbox(t.Context(), &criv1.ListPodSandboxRequest{}); err != nil || len(pods.Items) != 0 {
		t.Errorf("half-made pods are left: %v, %v", pods, err)
	}
}
