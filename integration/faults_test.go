package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/integration/criclient"
	"github.com/shimd/shimd/integration/daemon"
	"github.com/shimd/shimd/integration/leaks"
	"github.com/shimd/shimd/integration/tools"
)

// steps are the runtime's named steps. TestEveryStepIsAFailpointHere keeps the list whole.
var steps = []string{
	"sandbox.record", "sandbox.cgroup", "sandbox.files", "sandbox.namespaces", "sandbox.pause", "sandbox.shm", "sandbox.network", "sandbox.ready",
	"container.record", "container.rootfs", "container.spec", "container.cgroup", "container.streams", "container.created",
	"container.starting", "container.prepare", "container.launch", "container.running",
	"exec.launch",
	"sandbox.kill", "sandbox.detach", "sandbox.unpause", "sandbox.unpin", "sandbox.rmcgroup",
	"container.kill", "container.external", "container.rmcgroup", "container.rmrootfs", "container.rmfiles", "container.remove",
	"sandbox.remove",
}

func TestEveryStepIsAFailpointHere(t *testing.T) {
	root, err := tools.ModuleRoot()
	if err != nil {
		t.Skipf("the sources are not here: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(root, "runtime", "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no sources of package runtime: %v", err)
	}
	named := regexp.MustCompile(`(?:r\.step\(ctx, |^\s*\{)"([a-z]+\.[a-z]+)", func`)
	found := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if match := named.FindStringSubmatch(line); match != nil {
				found[match[1]] = true
				if !slices.Contains(steps, match[1]) && !slices.Contains(externalSteps, match[1]) {
					t.Errorf("%s: step %s is not tested", file, match[1])
				}
			}
		}
	}
	for _, step := range slices.Concat(steps, externalSteps) {
		if !found[step] {
			t.Errorf("there is no step %s", step)
		}
	}
}

func failpoint(points ...string) string {
	return fmt.Sprintf("[debug]\nfailpoints = [\"%s\"]\n", strings.Join(points, `", "`))
}

// machine is what one daemon may leave on the machine, with the daemon's own processes left out.
type machine struct {
	scope  leaks.Scope
	groups string // pattern of the control groups
	before leaks.Snapshot
}

func look(t *testing.T, d *daemon.Daemon) machine {
	t.Helper()
	m := machine{groups: "/sys/fs/cgroup/*/" + groupsOf(t) + "/*/*/", scope: leaks.Scope{
		Files: []string{
			filepath.Join(d.State(), "sandboxes"), filepath.Join(d.State(), "containers"), filepath.Join(d.State(), "network"),
			filepath.Join(d.Root(), "sandboxes"), filepath.Join(d.Root(), "volumes"),
		},
		Ignore: []string{"shimd --log-level", "shimd-keeper --state", "/sys/fs/cgroup"},
	}}
	m.before = m.take(t)
	return m
}

func (m machine) take(t *testing.T) leaks.Snapshot {
	t.Helper()
	now, err := leaks.Take(m.scope)
	if err != nil {
		t.Fatal(err)
	}
	delete(now, "descriptor") // of this process, which talks to daemons
	// Others use the machine's control groups too.
	groups, err := filepath.Glob(m.groups)
	if err != nil {
		t.Fatal(err)
	}
	now["control group"] = groups
	return now
}

// groupsOf names the top control group of a test's daemon.
func groupsOf(t *testing.T) string {
	name, _, _ := strings.Cut(t.Name(), "/")
	return fmt.Sprintf("shimd_%s_%d", name, os.Getpid())
}

// wantNothingNew waits for the kernel to take away what goes later than its last user.
func (m machine) wantNothingNew(t *testing.T) {
	t.Helper()
	var left []string
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if left = m.take(t).Since(m.before); len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left behind:\n%s", strings.Join(left, "\n"))
		}
	}
}

// life is one pod's, from RunPodSandbox to RemovePodSandbox. call is told of each request, and may ask again.
type life struct {
	image  string
	pod    *criv1.PodSandboxConfig
	member *criv1.ContainerConfig
	call   func(name string, request func(*criclient.Client) error)

	sandbox, container string
}

// newLife makes a pod that shares one PID namespace, which takes every step.
func newLife(t *testing.T, client *criclient.Client, image string) *life {
	l := &life{image: image, pod: client.Sandbox("life"), member: criclient.Container("main", image, "sleep", "1000")}
	l.pod.LogDirectory = t.TempDir()
	shared := &criv1.NamespaceOption{Pid: criv1.NamespaceMode_POD}
	l.pod.Linux.SecurityContext.NamespaceOptions = shared
	l.member.Linux.SecurityContext.NamespaceOptions = shared
	return l
}

func (l *life) run(ctx context.Context) {
	l.call("RunPodSandbox", func(c *criclient.Client) (err error) {
		l.sandbox, err = c.RunSandbox(ctx, l.pod)
		return err
	})
	l.create(ctx)
	l.call("StartContainer", func(c *criclient.Client) error {
		_, err := c.StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: l.container})
		return err
	})
}

func (l *life) create(ctx context.Context) {
	l.call("CreateContainer", func(c *criclient.Client) error {
		answer, err := c.CreateContainer(ctx, &criv1.CreateContainerRequest{PodSandboxId: l.sandbox, Config: l.member, SandboxConfig: l.pod})
		l.container = answer.GetContainerId()
		return err
	})
}

func (l *life) use(ctx context.Context) {
	l.call("ExecSync", func(c *criclient.Client) error {
		out, code, err := c.Exec(ctx, l.container, "echo", "alive")
		if err == nil && (out != "alive\n" || code != 0) {
			err = fmt.Errorf("it said %q and ended with %d", out, code)
		}
		return err
	})
}

func (l *life) end(ctx context.Context) {
	l.call("StopPodSandbox", func(c *criclient.Client) error {
		_, err := c.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: l.sandbox})
		return err
	})
	l.call("RemovePodSandbox", func(c *criclient.Client) error {
		_, err := c.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: l.sandbox})
		return err
	})
}

func wantPods(t *testing.T, client *criclient.Client, sandboxes, containers int) {
	t.Helper()
	pods, err := client.ListPodSandbox(t.Context(), &criv1.ListPodSandboxRequest{})
	if err != nil || len(pods.Items) != sandboxes {
		t.Fatalf("%d sandboxes wanted: %v, %v", sandboxes, pods, err)
	}
	list, err := client.ListContainers(t.Context(), &criv1.ListContainersRequest{})
	if err != nil || len(list.Containers) != containers {
		t.Fatalf("%d containers wanted: %v, %v", containers, list, err)
	}
}

// restart ends the daemon and starts it with other failpoints.
func restart(t *testing.T, d *daemon.Daemon, more string) *criclient.Client {
	t.Helper()
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := d.Configure(more); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return dial(t, d)
}

// warm runs one pod's life, so that what the first pod makes on the machine for all is there.
func warm(t *testing.T, client *criclient.Client) (image string) {
	t.Helper()
	image = pull(t, client)
	l := newLife(t, client, image)
	l.call = func(name string, request func(*criclient.Client) error) {
		t.Helper()
		if err := request(client); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	l.run(t.Context())
	l.use(t.Context())
	l.end(t.Context())
	return image
}

// Each step fails once: the request that it belongs to fails and says so, nothing is left of it, and asked again it succeeds.
func TestEveryStepFails(t *testing.T) {
	d, client := start(t, daemon.Config{CgroupParent: groupsOf(t)})
	image := warm(t, client)
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			client := restart(t, d, failpoint(step+"=error:1"))
			m := look(t, d)
			l := newLife(t, client, image)
			var failed []string
			l.call = func(name string, request func(*criclient.Client) error) {
				t.Helper()
				err := request(client)
				if err == nil {
					return
				}
				failed = append(failed, name)
				if !strings.Contains(err.Error(), step) {
					t.Fatalf("%s failed, but not of step %s: %v", name, step, err)
				}
				switch name {
				case "RunPodSandbox":
					wantPods(t, client, 0, 0)
					m.wantNothingNew(t)
				case "CreateContainer":
					wantPods(t, client, 1, 0)
				case "StartContainer": // is not repeated: a container that could not be started has ended, and another takes its name
					ended, err := client.Status(t.Context(), l.container)
					if err != nil || ended.State != criv1.ContainerState_CONTAINER_EXITED || ended.Reason != "StartError" || !strings.Contains(ended.Message, step) {
						t.Fatalf("%v, %v", ended, err)
					}
					if _, err := client.RemoveContainer(t.Context(), &criv1.RemoveContainerRequest{ContainerId: l.container}); err != nil {
						t.Fatal(err)
					}
					l.create(t.Context())
				}
				if err := request(client); err != nil {
					t.Fatalf("%s, asked again: %v", name, err)
				}
			}
			l.run(t.Context())
			l.use(t.Context())
			wantPods(t, client, 1, 1)
			l.end(t.Context())
			if len(failed) != 1 {
				t.Errorf("failed: %v", failed)
			}
			wantPods(t, client, 0, 0)
			m.wantNothingNew(t)
		})
	}
}

// Everything fails once, also what undoes what failed: the same request, again and again, comes through.
func TestAllStepsFailOnce(t *testing.T) {
	d, client := start(t, daemon.Config{CgroupParent: groupsOf(t)})
	image := warm(t, client)
	var all []string
	for _, step := range steps {
		if !slices.Contains([]string{"container.starting", "container.prepare", "container.launch", "container.running"}, step) {
			all = append(all, step+"=error:1")
		}
	}
	client = restart(t, d, failpoint(all...))
	m := look(t, d)
	l := newLife(t, client, image)
	l.call = func(name string, request func(*criclient.Client) error) {
		t.Helper()
		for range steps {
			err := request(client)
			if err == nil {
				return
			}
			if !strings.Contains(err.Error(), "failpoint") {
				t.Fatalf("%s: %v", name, err)
			}
		}
		t.Fatalf("%s never succeeds", name)
	}
	l.run(t.Context())
	l.use(t.Context())
	wantPods(t, client, 1, 1)
	l.end(t.Context())
	wantPods(t, client, 0, 0)
	m.wantNothingNew(t)
}

// The daemon is killed at each step: the next one gets the same request, and it succeeds.
func TestDaemonIsKilledAtEveryStep(t *testing.T) {
	d, client := start(t, daemon.Config{CgroupParent: groupsOf(t)})
	image := warm(t, client)
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			m := look(t, d)
			client := restart(t, d, failpoint(step+"=exit"))
			l := newLife(t, client, image)
			killed := 0
			l.call = func(name string, request func(*criclient.Client) error) {
				t.Helper()
				err := request(client)
				if err == nil {
					return
				}
				if killed++; killed > 1 || status.Code(unwrap(err)) != codes.Unavailable {
					t.Fatalf("%s: %v", name, err)
				}
				if err := d.WaitKilled(t.Context()); err != nil {
					t.Fatal(err)
				}
				client = restart(t, d, "")
				if err := request(client); err != nil {
					t.Fatalf("%s, asked again: %v", name, err)
				}
			}
			l.run(t.Context())
			l.use(t.Context())
			wantPods(t, client, 1, 1)
			l.end(t.Context())
			if killed != 1 {
				t.Errorf("the daemon was killed %d times", killed)
			}
			wantPods(t, client, 0, 0)
			m.wantNothingNew(t)
		})
	}
}

// unwrap finds the error that carries the status.
func unwrap(err error) error {
	for {
		inner, ok := err.(interface{ Unwrap() error })
		if !ok || inner.Unwrap() == nil {
			return err
		}
		err = inner.Unwrap()
	}
}
