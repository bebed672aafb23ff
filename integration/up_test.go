package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/integration/criclient"
)

// `make up` and `make down`, and what a person does between them with the folder of pod files.
func TestUpAndDown(t *testing.T) {
	needRoot(t)
	if _, err := exec.LookPath("go"); err != nil {
		t.Skipf("the demo builds its image: %v", err)
	}
	dir, err := os.MkdirTemp(shared.work, "up-")
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(dir, "state")
	up := func(args ...string) (string, error) {
		args = append(args, "-programs", shared.bundle.Programs(), "-root", filepath.Join(dir, "root"), "-state", state)
		out, err := exec.CommandContext(t.Context(), shared.bundle.Program("up"), args...).CombinedOutput()
		return string(out), err
	}
	defer func() {
		if out, err := up("-down"); err != nil {
			t.Errorf("down: %v\n%s", err, out)
		}
		for _, left := range []string{"root", "state", "state-up"} {
			if _, err := os.Stat(filepath.Join(dir, left)); !os.IsNotExist(err) {
				t.Errorf("%s is left behind (%v)", left, err)
			}
		}
	}()
	out, err := up()
	if err != nil {
		t.Fatalf("up: %v\n%s", err, out)
	}
	for _, want := range []string{"Hello from a pod", "host name: web", "serving on :8080", "GET / from", "make down"} {
		if !strings.Contains(out, want) {
			t.Errorf("up did not print %q:\n%s", want, out)
		}
	}
	if again, err := up(); err == nil {
		t.Errorf("a second up did not refuse:\n%s", again)
	}
	client, err := criclient.Dial("unix://" + filepath.Join(state, "shimd.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	folder := filepath.Join(state+"-up", "pods")
	text, err := os.ReadFile(filepath.Join(folder, "web.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	second := filepath.Join(folder, "second.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(second, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	named := strings.ReplaceAll(string(text), "name: web", "name: second")
	write(named)
	eventually(t, "a second pod runs", func() bool { return len(runningIn(t, client, "second")) == 1 })
	first := runningIn(t, client, "second")
	write(strings.Replace(named, "  - name: second\n", "  - name: second\n    env:\n    - {name: CHANGED, value: 'yes'}\n", 1))
	eventually(t, "the changed pod is replaced", func() bool {
		now := runningIn(t, client, "second")
		return len(now) == 1 && len(first) == 1 && now[0] != first[0]
	})
	if err := os.Remove(second); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the removed pod is gone", func() bool { return len(runningIn(t, client, "second")) == 0 })
	if len(runningIn(t, client, "web")) != 1 {
		t.Error("the first pod did not stay")
	}
}

// runningIn are the running containers of a pod, by the start of the pod's name: an agent may add the node's to it.
func runningIn(t *testing.T, client *criclient.Client, pod string) []string {
	t.Helper()
	pods, err := client.ListPodSandbox(t.Context(), &criv1.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, p := range pods.Items {
		if !strings.HasPrefix(p.Metadata.Name, pod) {
			continue
		}
		filter := &criv1.ContainerFilter{PodSandboxId: p.Id, State: &criv1.ContainerStateValue{State: criv1.ContainerState_CONTAINER_RUNNING}}
		list, err := client.ListContainers(t.Context(), &criv1.ListContainersRequest{Filter: filter})
		if err != nil {
			t.Fatal(err)
		}
		for _, container := range list.Containers {
			found = append(found, container.Id)
		}
	}
	return found
}
