package node

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/node/status"
	"github.com/shimd/shimd/node/translate"
)

// bench is an agent with a fake runtime and folders of its own.
type bench struct {
	t      *testing.T
	cri    *fakeCRI
	config Config
	agent  *Agent
	stop   func()
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir := t.TempDir()
	b := &bench{t: t, cri: startFakeCRI(t)}
	b.config = Config{
		Folder: filepath.Join(dir, "pods"), Endpoint: b.cri.endpoint, RootDir: filepath.Join(dir, "root"), LogDir: filepath.Join(dir, "logs"),
		NodeName: "node", NodeIPs: []string{"192.0.2.7"}, Log: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
	if err := os.Mkdir(b.config.Folder, 0o755); err != nil {
		t.Fatal(err)
	}
	return b
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// start runs the agent; the answer stops it, and so does the end of the test.
func (b *bench) start() {
	b.t.Helper()
	agent, err := New(b.config)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- agent.Run(ctx) }()
	b.agent = agent
	stopped := false
	b.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
		if err := agent.Close(); err != nil {
			b.t.Error(err)
		}
	}
	b.t.Cleanup(func() { b.stop() })
}

func (b *bench) write(name, text string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.config.Folder, name), []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) remove(name string) {
	b.t.Helper()
	if err := os.Remove(filepath.Join(b.config.Folder, name)); err != nil {
		b.t.Fatal(err)
	}
}

// until waits for the status to be what the test wants; only a hang makes it fail.
func (b *bench) until(what string, is func(status.Node) bool) status.Node {
	b.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		s := b.agent.Status()
		if is(s) {
			return s
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("never seen: %s; last:\n%+v", what, s)
		}
	}
}

func podFile(name, spec string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata:\n  name: " + name + "\nspec:\n" + spec
}

const oneContainer = "  containers:\n  - name: main\n    image: example.org/main:1\n"

// nodeStatus is what the agent says of all.
type nodeStatus = status.Node

func running(name string) func(status.Node) bool {
	return func(s status.Node) bool {
		return slices.ContainsFunc(s.Pods, func(p status.Pod) bool { return p.Name == name && p.Phase == "Running" && p.Ready })
	}
}

func none(s status.Node) bool { return len(s.Pods) == 0 }

func TestFileAddedChangedRemoved(t *testing.T) {
	for _, events := range []bool{true, false} {
		name := map[bool]string{true: "events", false: "polling"}[events]
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.cri.noEvents = !events
			b.start()
			b.write("web.yaml", podFile("web", oneContainer))
			first := b.until("running", running("web")).Pods[0]
			if len(first.IPs) != 1 || first.Containers[0].Restarts != 0 {
				t.Errorf("unexpected: %+v", first)
			}
			log := filepath.Join(b.config.LogDir, "default_web_"+first.UID)
			if _, err := os.Stat(log); err != nil {
				t.Error(err)
			}
			b.write("web.yaml", "# only a comment\n"+podFile("web", oneContainer))
			b.write("web.yaml", podFile("web", oneContainer+"    args: [changed]\n"))
			b.until("replaced", func(s status.Node) bool { return running("web")(s) && len(s.Pods) == 1 && s.Pods[0].UID != first.UID })
			if _, err := os.Stat(log); !os.IsNotExist(err) {
				t.Errorf("the logs of the replaced pod: %v", err)
			}
			b.remove("web.yaml")
			b.until("gone", none)
			if len(b.cri.sandboxes)+len(b.cri.containers) > 0 {
				t.Errorf("left in the runtime: %v %v", b.cri.sandboxes, b.cri.containers)
			}
			for _, dir := range []string{filepath.Join(b.config.RootDir, "pods"), b.config.LogDir} {
				if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
					t.Errorf("left in %s: %v %v", dir, left, err)
				}
			}
		})
	}
}

func TestRestartedAgentAdopts(t *testing.T) {
	b := newBench(t)
	b.write("web.yaml", podFile("web", oneContainer+"    startupProbe: {exec: {command: [started]}, periodSeconds: 1}\n"))
	b.write("old.yaml", podFile("old", oneContainer))
	b.start()
	b.until("both running", func(s status.Node) bool { return running("web")(s) && running("old")(s) })
	b.cri.end("main", 1) // of both
	b.until("both restarted", func(s status.Node) bool {
		return running("web")(s) && running("old")(s) && s.Pods[0].Containers[0].Restarts == 1 && s.Pods[1].Containers[0].Restarts == 1
	})
	b.stop()
	b.remove("old.yaml")
	b.write("web.yaml", "kind: nonsense") // a broken file while the agent is away ends nothing either
	ran, created := b.cri.called("RunPodSandbox"), b.cri.called("CreateContainer")
	b.cri.mu.Lock()
	b.cri.exec = func(string, []string) int32 { return 1 } // a startup probe would fail now
	b.cri.mu.Unlock()
	b.start()
	s := b.until("one adopted, one removed", func(s status.Node) bool { return len(s.Pods) == 1 && running("web")(s) })
	if got := s.Pods[0].Containers[0]; got.Restarts != 1 || !got.Started {
		t.Errorf("adopted as %+v", got)
	}
	if b.cri.called("RunPodSandbox") != ran || b.cri.called("CreateContainer") != created {
		t.Error("something was started again")
	}
	if len(s.Files) != 1 || !strings.Contains(s.Files[0].Error, "runs on") {
		t.Errorf("files: %+v", s.Files)
	}
}

func TestBadFiles(t *testing.T) {
	b := newBench(t)
	b.start()
	b.write("web.yaml", podFile("web", oneContainer))
	uid := b.until("running", running("web")).Pods[0].UID
	b.write("web.yaml", podFile("web", oneContainer+"    envFrom: [{configMapRef: {name: x}}]\n"))
	b.write("twin.yaml", podFile("web", oneContainer))
	b.write(".hidden.yaml", podFile("hidden", oneContainer))
	b.write("web.yaml~", podFile("backup", oneContainer))
	s := b.until("two errors", func(s status.Node) bool { return len(s.Files) == 2 })
	if !strings.Contains(s.Files[0].Error, "web.yaml") || !strings.Contains(s.Files[1].Error, "spec.containers[0].envFrom") {
		t.Errorf("files: %+v", s.Files)
	}
	if len(s.Pods) != 1 || s.Pods[0].UID != uid || s.Pods[0].Phase != "Running" {
		t.Errorf("pods: %+v", s.Pods)
	}
}

func TestInitContainersAndSidecars(t *testing.T) {
	b := newBench(t)
	b.cri.exits["first"], b.cri.exits["second"] = 0, 0
	b.start()
	b.write("pod.json", `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": {"terminationGracePeriodSeconds": 2,
		"initContainers": [{"name": "first", "image": "i:1"}, {"name": "side", "image": "i:1", "restartPolicy": "Always"}, {"name": "second", "image": "i:1"}],
		"containers": [{"name": "main", "image": "i:1"}]}}`)
	s := b.until("running", running("pod"))
	var order []string
	for _, c := range s.Pods[0].Containers {
		order = append(order, c.Name+" "+c.State)
	}
	if want := []string{"first terminated", "side running", "second terminated", "main running"}; !slices.Equal(order, want) {
		t.Errorf("containers: %v", order)
	}
	b.remove("pod.json")
	b.until("gone", none)
}

func TestPodThatEnds(t *testing.T) {
	b := newBench(t)
	b.start()
	b.write("job.yaml", podFile("job", "  restartPolicy: OnFailure\n"+oneContainer))
	b.until("running", running("job"))
	b.cri.end("main", 3)
	b.until("restarted", func(s status.Node) bool { return running("job")(s) && s.Pods[0].Containers[0].Restarts == 1 })
	b.cri.end("main", 0)
	b.until("succeeded, its sandbox stopped", func(s status.Node) bool {
		return s.Pods[0].Phase == "Succeeded" && b.cri.called("StopPodSandbox") == 1
	})
}

func TestPullFailureBacksOff(t *testing.T) {
	b := newBench(t)
	b.cri.setFail("PullImage", grpcstatus.Error(codes.NotFound, "no such image"))
	b.start()
	b.write("web.yaml", podFile("web", oneContainer))
	b.until("backing off", func(s status.Node) bool {
		return len(s.Pods) == 1 && s.Pods[0].Containers[0].Reason == status.ReasonImagePullBackOff && strings.Contains(s.Pods[0].Containers[0].Message, "no such image")
	})
	b.agent.wake("") // being woken is no reason to try sooner
	if n := b.cri.called("PullImage"); n != 1 {
		t.Errorf("pulled %d times", n)
	}
	b.remove("web.yaml")
	b.until("gone", none)
}

func TestPullIsGivenUpWhenThePodGoes(t *testing.T) {
	b := newBench(t)
	b.cri.pulling = make(chan struct{})
	b.start()
	b.write("web.yaml", podFile("web", oneContainer))
	b.until("pulling", func(status.Node) bool { return b.cri.called("PullImage") == 1 })
	b.remove("web.yaml")
	b.until("gone", none)
}

func TestLivenessKillsAndReadinessShows(t *testing.T) {
	b := newBench(t)
	b.start()
	b.cri.exec = func(_ string, cmd []string) int32 {
		if cmd[0] == "live" {
			return 0
		}
		return 1
	}
	b.write("web.yaml", podFile("web", oneContainer+
		"    livenessProbe: {exec: {command: [live]}, periodSeconds: 1}\n    readinessProbe: {exec: {command: [ready]}, periodSeconds: 1}\n"))
	b.until("running, not ready", func(s status.Node) bool {
		return len(s.Pods) == 1 && s.Pods[0].Containers[0].State == "running" && !s.Pods[0].Ready
	})
	b.cri.mu.Lock()
	b.cri.exec = func(_ string, cmd []string) int32 {
		if cmd[0] == "live" {
			return 1
		}
		return 0
	}
	b.cri.mu.Unlock()
	b.until("restarted", func(s status.Node) bool { return s.Pods[0].Containers[0].Restarts > 0 })
}

func TestLostSandboxIsReplaced(t *testing.T) {
	b := newBench(t)
	b.start()
	b.write("web.yaml", podFile("web", oneContainer))
	b.until("running", running("web"))
	b.cri.mu.Lock()
	for _, s := range b.cri.sandboxes {
		s.state = 1
	}
	for _, c := range b.cri.containers {
		b.cri.exit(c, 137)
	}
	b.cri.mu.Unlock()
	b.until("in a new sandbox", func(s status.Node) bool { return running("web")(s) && s.Pods[0].Containers[0].Restarts == 1 })
	if n := b.cri.called("RunPodSandbox"); n != 2 {
		t.Errorf("%d sandboxes were run", n)
	}
}

// Pods of others on the same runtime, another agent's among them, are not this one's.
func TestUserNamespaces(t *testing.T) {
	b := newBench(t)
	b.cri.handlers = []*criv1.RuntimeHandler{{Features: &criv1.RuntimeHandlerFeatures{UserNamespaces: true}}}
	b.start()
	seen := map[uint32]bool{}
	for _, name := range []string{"one", "two"} {
		b.write(name+".yaml", podFile(name, "  hostUsers: false\n"+oneContainer+
			"    volumeMounts: [{name: v, mountPath: /v}]\n  volumes: [{name: v, emptyDir: {}}]\n"))
		b.until("running", running(name))
	}
	b.cri.mu.Lock()
	for _, c := range b.cri.containers {
		users := c.config.Linux.SecurityContext.NamespaceOptions.UsernsOptions
		if users.GetMode() != criv1.NamespaceMode_POD || len(users.Uids) != 1 || len(users.Gids) != 1 {
			t.Fatalf("a container's user namespace: %+v", users)
		}
		ids := users.Uids[0]
		of := b.cri.sandboxes[c.sandbox].config.Linux.SecurityContext.NamespaceOptions.UsernsOptions
		if ids.HostId == 0 || ids.ContainerId != 0 || ids.Length != 65536 || seen[ids.HostId] || of.GetUids()[0].HostId != ids.HostId {
			t.Errorf("the IDs of a pod: %+v; its sandbox: %+v; others: %v", ids, of, seen)
		}
		seen[ids.HostId] = true
		for _, mount := range c.config.Mounts {
			if len(mount.UidMappings) != 1 || mount.UidMappings[0].HostId != ids.HostId || len(mount.GidMappings) != 1 {
				t.Errorf("a mount is not mapped as its pod: %+v", mount)
			}
		}
	}
	b.cri.mu.Unlock()
	b.stop()

	b.cri.handlers = nil
	b.start()
	b.write("three.yaml", podFile("three", "  hostUsers: false\n"+oneContainer))
	b.until("refused", func(s status.Node) bool {
		return slices.ContainsFunc(s.Pods, func(p status.Pod) bool { return p.Name == "three" && strings.Contains(p.Message, "user namespaces") })
	})
}

func TestOthersAreLeftAlone(t *testing.T) {
	b := newBench(t)
	b.write("web.yaml", podFile("web", oneContainer))
	b.start()
	b.until("running", running("web"))
	b.stop()
	b.config.Folder, b.config.RootDir = t.TempDir(), t.TempDir()
	b.start()
	b.until("connected", func(s status.Node) bool { return s.Runtime.Error == "" && s.Runtime.Events })
	if n := b.cri.called("StopPodSandbox"); n != 0 {
		t.Error("another agent's pod was stopped")
	}
	for _, s := range b.cri.sandboxes {
		if s.config.Annotations[translate.AnnotationSource] != "file" {
			t.Errorf("annotations: %v", s.config.Annotations)
		}
	}
}

func TestLostFolderEndsNothing(t *testing.T) {
	b := newBench(t)
	b.start()
	b.write("web.yaml", podFile("web", oneContainer))
	b.until("running", running("web"))
	if err := os.Rename(b.config.Folder, b.config.Folder+".away"); err != nil {
		t.Fatal(err)
	}
	b.until("an error", func(s status.Node) bool { return s.FolderError != "" })
	if !running("web")(b.agent.Status()) {
		t.Error("the pod does not run any more")
	}
}

func TestOneAgentPerDirectory(t *testing.T) {
	b := newBench(t)
	b.start()
	if _, err := New(b.config); err == nil || !strings.Contains(err.Error(), "--root-dir") {
		t.Errorf("a second agent: %v", err)
	}
}
