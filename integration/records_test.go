package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/integration/criclient"
	"github.com/shimd/shimd/integration/daemon"
	"github.com/shimd/shimd/integration/tools"
)

// killKeeper ends the daemon's keeper by SIGKILL and answers its process ID.
func killKeeper(t *testing.T, d *daemon.Daemon) int {
	t.Helper()
	keepers, err := d.Keepers()
	if err != nil || len(keepers) != 1 {
		t.Fatalf("one keeper wanted: %v, %v", keepers, err)
	}
	if err := syscall.Kill(keepers[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	return keepers[0]
}

// A record that can't be read is set aside, what it stood for is taken away, and everybody else's pods go on.
func TestRecordsThatCannotBeRead(t *testing.T) {
	d, client := start(t, daemon.Config{CgroupParent: groupsOf(t)})
	image := warm(t, client)
	sound := runPod(t, client, "sound")
	untouched := sound.start(t, client, criclient.Container("main", image, "sleep", "1000"))
	torn := map[string]func(text string) string{
		"truncated":         func(text string) string { return text[:len(text)/2] },
		"empty":             func(string) string { return "" },
		"garbage":           func(string) string { return "\x00\xff garbage {{{" },
		"of wrong types":    func(string) string { return `{"ID": 7, "Phase": [], "Config": "no"}` },
		"of somebody else":  func(text string) string { return strings.Replace(text, `"ID":"`, `"ID":"f`, 1) },
		"an array":          func(string) string { return "[1, 2, 3]" },
		"without a content": func(string) string { return "{}" },
	}
	for name, tear := range torn {
		for _, kind := range []string{"sandboxes", "containers"} {
			t.Run(kind+" "+name, func(t *testing.T) {
				m, client := look(t, d), dial(t, d)
				l := newLife(t, client, image)
				l.call = func(name string, request func(*criclient.Client) error) {
					t.Helper()
					if err := request(client); err != nil {
						t.Fatalf("%s: %v", name, err)
					}
				}
				l.run(t.Context())
				if err := d.Kill(); err != nil {
					t.Fatal(err)
				}
				id := l.sandbox
				if kind == "containers" {
					id = l.container
				}
				record := filepath.Join(d.State(), kind, id, "record.json")
				text, err := os.ReadFile(record)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(record, []byte(tear(string(text))), 0o600); err != nil {
					t.Fatal(err)
				}
				client = restart(t, d, "")
				l2 := *l // its name is free
				if kind == "sandboxes" {
					wantPods(t, client, 1, 1)
					m.wantNothingNew(t)
					l2.run(t.Context())
				} else {
					wantPods(t, client, 2, 1)
					l2.create(t.Context())
				}
				l2.end(t.Context())
				m.wantNothingNew(t)
				if aside, err := os.ReadDir(filepath.Join(d.State(), "set-aside")); err != nil || len(aside) == 0 {
					t.Errorf("nothing is set aside: %v", err)
				}
				if out, _, err := client.Exec(t.Context(), untouched, "echo", "alive"); err != nil || out != "alive\n" {
					t.Errorf("the sound pod: %q, %v", out, err)
				}
			})
		}
	}
}

// Daemon and keeper are both killed: containers run on, are found, and what ended meanwhile is recorded as ended.
func TestDaemonAndKeeperKilled(t *testing.T) {
	d, client := start(t, daemon.Config{CgroupParent: groupsOf(t)})
	image := warm(t, client)
	m := look(t, d)
	p := runPod(t, client, "both")
	writer := p.start(t, client, criclient.Container("writer", image, "sh", "-c", counter))
	short := p.start(t, client, criclient.Container("short", image, "sh", "-c", "while [ ! -e /go ]; do usleep 10000; done; exit 3"))
	if _, _, err := client.Exec(t.Context(), short, "sh", "-c", "(sleep 1; touch /go) >/dev/null 2>&1 </dev/null &"); err != nil {
		t.Fatal(err)
	}
	status, err := client.ContainerStatus(t.Context(), &criv1.ContainerStatusRequest{ContainerId: short, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, rest, found := strings.Cut(status.Info["info"], `"Process":{"PID":`); found {
		_, _ = fmt.Sscan(rest, &pid)
	}
	if pid == 0 {
		t.Fatalf("no process in %v", status.Info)
	}
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	killKeeper(t, d)
	eventually(t, "the short container has ended", func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH })
	client = restart(t, d, "")
	ended, err := client.WaitExited(t.Context(), short)
	if err != nil || ended.ExitCode == 0 || ended.Reason != "Unknown" || ended.FinishedAt < ended.StartedAt {
		t.Errorf("nobody could see it end: %v, %v", ended, err)
	}
	if out, code, err := client.Exec(t.Context(), writer, "sh", "-c", "echo alive; touch /stop"); err != nil || code != 0 || out != "alive\n" {
		t.Errorf("exec: %q, %d, %v", out, code, err)
	}
	if ended, err := client.WaitExited(t.Context(), writer); err != nil || (ended.ExitCode != 7 && kernelTellsExits(t)) {
		t.Errorf("%v, %v", ended, err)
	}
	wantCounted(t, filepath.Join(p.logs, "writer.log"))
	if err := client.Remove(t.Context(), p.id); err != nil {
		t.Fatal(err)
	}
	m.wantNothingNew(t)
}

// The daemon is killed when a container has been started and before that is written down, and the container ends meanwhile.
func TestContainerEndsBeforeItsStartIsRecorded(t *testing.T) {
	d, client := start(t, daemon.Config{CgroupParent: groupsOf(t)})
	image := warm(t, client)
	m := look(t, d)
	client = restart(t, d, failpoint("container.running=exit"))
	p := runPod(t, client, "short")
	began := time.Now()
	id, err := client.Start(t.Context(), p.id, p.config, criclient.Container("short", image, "sh", "-c", "echo ended; exit 6"))
	if err == nil {
		t.Fatal("the daemon was not killed")
	}
	if err := d.WaitKilled(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has ended and its log is whole", func() bool {
		text, err := os.ReadFile(filepath.Join(p.logs, "short.log"))
		return err == nil && strings.HasSuffix(string(text), " F ended\n")
	})
	client = restart(t, d, "")
	ended, err := client.WaitExited(t.Context(), id)
	if err != nil || ended.ExitCode != 6 || ended.StartedAt < began.Add(-time.Second).UnixNano() || ended.FinishedAt < ended.StartedAt {
		t.Errorf("%v, %v", ended, err)
	}
	if err := client.Remove(t.Context(), p.id); err != nil {
		t.Fatal(err)
	}
	m.wantNothingNew(t)
}

// Daemon and keeper are replaced by another version while a container writes: it runs on in the same keeper process, and its log has every line.
func TestUpgradeWhileContainersLog(t *testing.T) {
	d, client := start(t, daemon.Config{})
	image := pull(t, client)
	p := runPod(t, client, "upgrade")
	const lines = 60000
	writer := p.start(t, client, criclient.Container("writer", image, "sh", "-c",
		fmt.Sprintf(`i=0; while [ $i -lt %d ]; do i=$((i+1)); echo line $i; done; while [ ! -e /stop ]; do usleep 10000; done; echo end; exit 7`, lines)))
	before, err := d.Keepers()
	if err != nil || len(before) != 1 {
		t.Fatalf("%v, %v", before, err)
	}
	root, err := tools.ModuleRoot()
	if err != nil {
		t.Skipf("another version can't be built: %v", err)
	}
	for _, version := range []string{"1.2.3-next", "1.2.4-after-next"} {
		programs := filepath.Join(filepath.Dir(d.LogFile()), version) // there as long as the daemon
		if err := os.Mkdir(programs, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"shimd", "shimd-keeper"} {
			build := tools.Build{Dir: root, Package: "./cmd/" + name, Out: filepath.Join(programs, name), LDFlags: "-X main.version=" + version}
			if err := build.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		d.Replace(programs)
		client = restart(t, d, "")
		answer, err := client.Version(t.Context(), &criv1.VersionRequest{})
		if err != nil || answer.RuntimeVersion != version {
			t.Fatalf("%v, %v", answer, err)
		}
	}
	if after, err := d.Keepers(); err != nil || len(after) != 1 || after[0] != before[0] {
		t.Errorf("the keeper was process %v and is %v, %v", before, after, err)
	}
	if _, _, err := client.Exec(t.Context(), writer, "touch", "/stop"); err != nil {
		t.Fatal(err)
	}
	if ended, err := client.WaitExited(t.Context(), writer); err != nil || ended.ExitCode != 7 {
		t.Errorf("%v, %v", ended, err)
	}
	wantCounted(t, filepath.Join(p.logs, "writer.log"))
	if found := len(content(t, filepath.Join(p.logs, "writer.log"))); found != lines+1 {
		t.Errorf("%d lines", found)
	}
}

// A command goes on when its container's keeper is killed, and its exit status comes all the same where the kernel tells it.
func TestCommandOutlivesKeeper(t *testing.T) {
	d, client := start(t, daemon.Config{})
	image := pull(t, client)
	p := runPod(t, client, "command")
	id := p.start(t, client, criclient.Container("main", image, "sleep", "1000"))
	type result struct {
		out  string
		code int32
		err  error
	}
	results := make(chan result, 1)
	go func() {
		out, code, err := client.Exec(t.Context(), id, "sh", "-c", "touch /began; while [ ! -e /go ]; do usleep 10000; done; echo done; exit 5")
		results <- result{out, code, err}
	}()
	eventually(t, "the command runs", func() bool {
		_, code, err := client.Exec(t.Context(), id, "test", "-e", "/began")
		return err == nil && code == 0
	})
	killed := killKeeper(t, d)
	eventually(t, "a new keeper runs", func() bool {
		now, err := d.Keepers()
		return err == nil && len(now) == 1 && now[0] != killed
	})
	eventually(t, "commands can be started again", func() bool {
		_, code, err := client.Exec(t.Context(), id, "touch", "/go")
		return err == nil && code == 0
	})
	got := <-results
	if got.err != nil || got.out != "done\n" || (got.code != 5 && kernelTellsExits(t)) {
		t.Errorf("%+v", got)
	}
}

// The state directory is full: requests say so, nothing is lost, and pods can be stopped and removed, which makes room.
func TestStateDirectoryFull(t *testing.T) {
	needRoot(t)
	state := filepath.Join(shared.work, "small")
	if err := os.Mkdir(state, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("small", state, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after the daemon's, as it came before
		if err := unix.Unmount(state, 0); err != nil {
			t.Errorf("the state directory is still in use: %v", err)
		}
	})
	d, client := start(t, daemon.Config{State: filepath.Join(state, "state"), CgroupParent: groupsOf(t)})
	image := warm(t, client)
	m := look(t, d)
	one, two := runPod(t, client, "one"), runPod(t, client, "two")
	running := one.start(t, client, criclient.Container("main", image, "sleep", "1000"))
	ends := two.start(t, client, criclient.Container("ends", image, "sh", "-c", "while [ ! -e /go ]; do usleep 10000; done; exit 9"))
	ballast := filepath.Join(state, "ballast")
	fill := func() {
		t.Helper()
		file, err := os.Create(ballast)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		for block := make([]byte, 4096); ; {
			if _, err := file.Write(block); err != nil {
				return
			}
		}
	}
	fill()
	pod := client.Sandbox("late")
	_, err := client.RunSandbox(t.Context(), pod)
	if err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("a pod in a full state directory: %v", err)
	}
	late := criclient.Container("late", image, "sleep", "1000")
	if _, err := client.Start(t.Context(), one.id, one.config, late); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("a container in a full state directory: %v", err)
	}
	wantPods(t, client, 2, 2)
	if out, _, err := client.Exec(t.Context(), running, "echo", "alive"); err != nil || out != "alive\n" {
		t.Errorf("exec: %q, %v", out, err)
	}
	if _, _, err := client.Exec(t.Context(), ends, "touch", "/go"); err != nil {
		t.Error(err)
	}
	if ended, err := client.WaitExited(t.Context(), ends); err != nil || ended.ExitCode != 9 {
		t.Errorf("%v, %v", ended, err)
	}
	// The exit could not be written down: the keeper has it for the next daemon.
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(t.Context()); err != nil {
		t.Fatalf("a daemon must start with a full state directory: %v", err)
	}
	client = dial(t, d)
	if ended, err := client.WaitExited(t.Context(), ends); err != nil || ended.ExitCode != 9 {
		t.Errorf("after a restart: %v, %v", ended, err)
	}
	fill()
	if err := client.Remove(t.Context(), one.id); err != nil {
		t.Errorf("a pod must be removable with a full state directory: %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	id, err := client.RunSandbox(t.Context(), pod)
	if err != nil {
		t.Errorf("asked again when there was room: %v", err)
	}
	for _, id := range []string{id, two.id} {
		if err := client.Remove(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	m.wantNothingNew(t)
}
