package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/integration/criclient"
	"github.com/shimd/shimd/integration/daemon"
	"github.com/shimd/shimd/integration/leaks"
)

// Containers that do harm: each must end when it is told to, take nothing from its neighbours, and leave nothing.
func TestHostileContainers(t *testing.T) {
	const limits = "[limits]\npids = 400\n" // the fork bomb's end costs the machine a CPU for as long as its processes need to die
	d, client := start(t, daemon.Config{CgroupParent: groupsOf(t), More: limits})
	image := warm(t, client)
	m := look(t, d)
	hostPIDs := &criv1.NamespaceOption{Pid: criv1.NamespaceMode_NODE}
	for name, c := range map[string]struct {
		script string
		change func(*criv1.ContainerConfig)
		check  func(t *testing.T, id string)
	}{
		"ignores SIGTERM": {script: `trap "" TERM; echo ready; while :; do sleep 1; done`},
		"fork bomb": {
			script: `echo ready; b() { b | b & }; b; sleep 1000`,
			change: func(c *criv1.ContainerConfig) {
				c.Linux.Resources.CpuQuota, c.Linux.Resources.CpuPeriod = 50000, 100000
			},
		},
		"leaves processes in the host's PID namespace": {
			script: `(trap "" TERM HUP; setsid sh -c 'trap "" TERM HUP; sleep 4242 & sleep 4242' &) ; echo ready; sleep 1000`,
			change: func(c *criv1.ContainerConfig) { c.Linux.SecurityContext.NamespaceOptions = hostPIDs },
			check: func(t *testing.T, _ string) {
				eventually(t, "what it left behind is killed with it", func() bool { return len(processesOf("4242")) == 0 })
			},
		},
		"closes and reads its own output": {
			script: `echo ready; sleep 0.5; (exec cat /proc/1/fd/1 >/dev/null) & (exec cat /proc/1/fd/2 >/dev/null) & exec 1>&- 2>&-; while :; do sleep 1; done`,
		},
		"fills /etc/hosts": {
			script: `dd if=/dev/zero of=/etc/hosts bs=1M count=24 2>/dev/null; echo ready; sleep 1000`,
			check: func(t *testing.T, _ string) {
				var state int64
				_ = filepath.WalkDir(d.State(), func(path string, entry os.DirEntry, err error) error {
					if info, infoErr := os.Lstat(path); err == nil && infoErr == nil && info.Mode().IsRegular() {
						state += info.Size()
					}
					return nil
				})
				if state > 8<<20 {
					t.Errorf("the state directory, which is in memory, has %d bytes", state)
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := runPod(t, client, "hostile")
			config := criclient.Container("main", image, "sh", "-c", c.script)
			if c.change != nil {
				c.change(config)
			}
			id := p.start(t, client, config)
			eventually(t, "it is ready", func() bool {
				text, err := os.ReadFile(filepath.Join(p.logs, "main.log"))
				return err == nil && strings.Contains(string(text), "ready")
			})
			if _, err := client.StopContainer(t.Context(), &criv1.StopContainerRequest{ContainerId: id, Timeout: 1}); err != nil {
				t.Error(err)
			}
			if ended, err := client.Status(t.Context(), id); err != nil || ended.State != criv1.ContainerState_CONTAINER_EXITED {
				t.Errorf("%v, %v", ended, err)
			}
			if c.check != nil {
				c.check(t, id)
			}
			if err := client.Remove(t.Context(), p.id); err != nil {
				t.Fatal(err)
			}
			m.wantNothingNew(t)
		})
	}
}

// processesOf lists processes whose command line holds the word.
func processesOf(word string) (found []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		if line, err := os.ReadFile(file); err == nil && strings.Contains(string(line), word) && !strings.Contains(string(line), "sh\x00-c") {
			found = append(found, file)
		}
	}
	return found
}

// descriptorsOf is what a daemon grows by when it loses track of something.
func descriptorsOf(t *testing.T, d *daemon.Daemon) []string {
	t.Helper()
	found, err := leaks.DescriptorsOf(d.PID())
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(found)
	return found
}

// Clients of commands vanish: the commands are ended, and the daemon keeps nothing of them.
func TestExecClientsVanish(t *testing.T) {
	d, client := start(t, daemon.Config{})
	image := pull(t, client)
	p := runPod(t, client, "vanish")
	id := p.start(t, client, criclient.Container("main", image, "sleep", "1000"))
	if _, _, err := client.Exec(t.Context(), id, "true"); err != nil {
		t.Fatal(err)
	}
	before := descriptorsOf(t, d)
	for range 3 {
		var group sync.WaitGroup
		for n := range 10 {
			group.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n)*10*time.Millisecond)
				defer cancel()
				_, _ = client.ExecSync(ctx, &criv1.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "echo begun; sleep 7777"}})
			})
		}
		group.Wait()
	}
	if kernelIsAtLeast(t, 6, 9) { // before, what a command has started runs on
		eventually(t, "no command runs on", func() bool { return len(processesOf("7777")) == 0 })
	}
	eventually(t, "the daemon keeps no descriptor of them", func() bool { return len(descriptorsOf(t, d)) <= len(before) })
}

// A container ends while commands are started in it: each command ends with an answer, none waits for ever.
func TestExecWhileContainerEnds(t *testing.T) {
	d, client := start(t, daemon.Config{CgroupParent: groupsOf(t)})
	image := warm(t, client)
	m := look(t, d)
	before := descriptorsOf(t, d)
	p := runPod(t, client, "ending")
	for _, memory := range []int64{0, 16 << 20} {
		for n := range 4 {
			config := criclient.Container("main", image, "sleep", "1000")
			config.Metadata.Attempt = uint32(n)
			config.Metadata.Name = fmt.Sprintf("main-%d", memory)
			config.Linux.Resources.MemoryLimitInBytes = memory
			id := p.start(t, client, config)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			var group sync.WaitGroup
			for range 6 {
				group.Go(func() {
					for ctx.Err() == nil {
						answer, err := client.ExecSync(ctx, &criv1.ExecSyncRequest{ContainerId: id, Cmd: []string{"sleep", "0.01"}})
						if err != nil || answer.ExitCode != 0 {
							status, statusErr := client.Status(ctx, id)
							if statusErr == nil && status.State == criv1.ContainerState_CONTAINER_EXITED {
								return
							}
						}
					}
				})
			}
			time.Sleep(50 * time.Millisecond)
			if memory == 0 {
				if _, err := client.StopContainer(t.Context(), &criv1.StopContainerRequest{ContainerId: id, Timeout: 0}); err != nil {
					t.Error(err)
				}
			} else {
				// Shared memory that nobody frees is charged to the container: its processes are killed one after the other, the first one too.
				_, _ = client.ExecSync(ctx, &criv1.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "dd if=/dev/zero of=/dev/shm/fill bs=1M count=32; rm -f /dev/shm/fill"}})
				if _, err := client.StopContainer(t.Context(), &criv1.StopContainerRequest{ContainerId: id, Timeout: 0}); err != nil {
					t.Error(err)
				}
			}
			group.Wait()
			if ctx.Err() != nil {
				t.Fatal("a command never ended")
			}
			cancel()
			if _, err := client.RemoveContainer(t.Context(), &criv1.RemoveContainerRequest{ContainerId: id}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := client.Remove(t.Context(), p.id); err != nil {
		t.Fatal(err)
	}
	m.wantNothingNew(t)
	eventually(t, "the daemon keeps no descriptor of them", func() bool { return len(descriptorsOf(t, d)) <= len(before) })
}

// The disk is full while containers are created and images pulled: errors say so, and nothing is left of what failed.
func TestRootDirectoryFull(t *testing.T) {
	needRoot(t)
	root := filepath.Join(shared.work, "small-root")
	if err := os.Mkdir(root, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("small", root, "tmpfs", 0, "size=64m,nr_inodes=20000"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, 0); err != nil {
			t.Errorf("the root directory is still in use: %v", err)
		}
	})
	d, client := start(t, daemon.Config{Root: filepath.Join(root, "root"), CgroupParent: groupsOf(t)})
	ballast := filepath.Join(root, "ballast")
	fill := func() {
		t.Helper()
		file, err := os.Create(ballast)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		for block := make([]byte, 64<<10); ; {
			if _, err := file.Write(block); err != nil { // it is full
				break
			}
		}
		for block := make([]byte, 512); ; {
			if _, err := file.Write(block); err != nil {
				return
			}
		}
	}
	fill()
	if _, err := client.Pull(t.Context(), "docker.io/library/busybox:latest"); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("a pull to a full disk: %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	image := warm(t, client)
	m := look(t, d)
	p := runPod(t, client, "full")
	running := p.start(t, client, criclient.Container("main", image, "sleep", "1000"))
	fill()
	if _, err := client.RunSandbox(t.Context(), client.Sandbox("late")); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("a pod on a full disk: %v", err)
	}
	wantPods(t, client, 1, 1)
	if out, _, err := client.Exec(t.Context(), running, "echo", "alive"); err != nil || out != "alive\n" {
		t.Errorf("exec: %q, %v", out, err)
	}
	if err := client.Remove(t.Context(), p.id); err != nil {
		t.Errorf("a pod must be removable with a full disk: %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	m.wantNothingNew(t)
}
