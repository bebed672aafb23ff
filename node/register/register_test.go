package register

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	goruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/node/api/apitest"
	"github.com/shimd/shimd/node/kubeletconfig"
)

var (
	early = time.Date(2026, 1, 1, 10, 0, 0, 0, time.UTC)
	late  = early.Add(time.Minute)
)

func some() facts {
	config := kubeletconfig.Default()
	config.KubeReserved = map[string]string{"cpu": "500m", "memory": "1Gi"}
	config.SystemReserved = map[string]string{"memory": "1Gi"}
	return facts{
		identity: Identity{Name: "me", Addresses: []string{"10.0.0.1", "fd00::1"}, Labels: map[string]string{"a": "b"}},
		config:   config,
		machine: Machine{CPUs: 4, Memory: 8 << 30, Storage: 100 << 30, HugePages: map[int64]int64{2 << 20: 1 << 30}, MachineID: "m", SystemUUID: "s",
			BootID: "b", KernelVersion: "6.18", OSImage: "Debian"},
		runtime: Runtime{Version: "shimd://1.0"},
		images:  []corev1.ContainerImage{{Names: []string{"a"}, SizeBytes: 2}, {Names: []string{"b"}, SizeBytes: 1}},
	}
}

func quantities(list corev1.ResourceList) map[string]string {
	found := map[string]string{}
	for name, q := range list {
		found[string(name)] = q.String()
	}
	return found
}

func TestResources(t *testing.T) {
	f := some()
	node := object(f.identity, f.config)
	node.Status.Capacity = corev1.ResourceList{"example.com/device": resource.MustParse("3"), "hugepages-1Gi": resource.MustParse("1Gi")}
	setStatus(node, f, early)
	want := map[string]string{"cpu": "4", "memory": "8Gi", "pods": "110", "ephemeral-storage": "100Gi", "hugepages-2Mi": "1Gi", "example.com/device": "3"}
	if got := quantities(node.Status.Capacity); !cmp.Equal(want, got) {
		t.Error("capacity", cmp.Diff(want, got))
	}
	want["cpu"], want["memory"], want["ephemeral-storage"] = "3500m", "5020Mi", "90Gi"
	if got := quantities(node.Status.Allocatable); !cmp.Equal(want, got) {
		t.Error("allocatable", cmp.Diff(want, got))
	}
	f.config.PodsPerCore = 10
	f.config.SystemReserved["memory"] = "100Gi"
	setStatus(node, f, early)
	if pods, memory := node.Status.Capacity.Pods().Value(), node.Status.Allocatable.Memory().Value(); pods != 40 || memory != 0 {
		t.Errorf("%d pods, %d bytes; want 40 and none", pods, memory)
	}
}

func TestStatus(t *testing.T) {
	f := some()
	f.config.NodeStatusMaxImages = new(int32)
	*f.config.NodeStatusMaxImages = 1
	node := object(f.identity, f.config)
	if len(setStatus(node, f, early)) != 3 {
		t.Error("a new node tells of each pressure")
	}
	want := []corev1.NodeAddress{{Type: "InternalIP", Address: "10.0.0.1"}, {Type: "InternalIP", Address: "fd00::1"}, {Type: "Hostname", Address: "me"}}
	if !cmp.Equal(want, node.Status.Addresses) {
		t.Error(cmp.Diff(want, node.Status.Addresses))
	}
	if len(node.Status.Images) != 1 || node.Status.DaemonEndpoints.KubeletEndpoint.Port != 10250 || !strings.HasPrefix(node.Status.NodeInfo.KubeletVersion, "v1.") {
		t.Errorf("status: %+v", node.Status)
	}
	ready := *Condition(&node.Status, corev1.NodeReady)
	if ready.Status != corev1.ConditionTrue || ready.Reason != "KubeletReady" || node.Status.Conditions[3].Type != corev1.NodeReady {
		t.Errorf("conditions: %+v", node.Status.Conditions)
	}
	before := node.Status.DeepCopy()
	if events := setStatus(node, f, late); len(events) > 0 || !same(before, &node.Status) {
		t.Errorf("nothing changed, but: %+v", events)
	}
	if got := Condition(&node.Status, corev1.NodeReady); !got.LastHeartbeatTime.Time.Equal(late) || !got.LastTransitionTime.Time.Equal(early) {
		t.Errorf("times: %+v", got)
	}

	f.runtime = Runtime{Problem: errors.New("container runtime is down")}
	f.problem = errors.New("no disk")
	f.pressure.Memory = true
	f.machine.BootID = "other"
	events := setStatus(node, f, late)
	var reasons []string
	for _, e := range events {
		reasons = append(reasons, e.reason)
	}
	if got := strings.Join(reasons, " "); got != "Rebooted NodeHasInsufficientMemory NodeNotReady" {
		t.Errorf("events: %s", got)
	}
	c := Condition(&node.Status, corev1.NodeReady)
	if c.Reason != "KubeletNotReady" || c.Message != "[container runtime is down, no disk]" || !c.LastTransitionTime.Time.Equal(late) {
		t.Errorf("not ready: %+v", c)
	}
	if node.Status.NodeInfo.ContainerRuntimeVersion != "shimd://1.0" {
		t.Error("a runtime that is away is the one that it was")
	}
}

func TestProblem(t *testing.T) {
	condition := func(kind string, is bool) *criv1.RuntimeCondition {
		return &criv1.RuntimeCondition{Type: kind, Status: is, Reason: "Why", Message: "because"}
	}
	for want, conditions := range map[string][]*criv1.RuntimeCondition{
		"": {condition(criv1.RuntimeReady, true), condition(criv1.NetworkReady, true)},
		"container runtime network not ready: NetworkReady=false reason:Why message:because": {condition(criv1.RuntimeReady, true), condition(criv1.NetworkReady, false)},
		"container runtime not ready: the runtime does not tell":                             {condition(criv1.NetworkReady, true)},
	} {
		got := ""
		if err := problem(&criv1.RuntimeStatus{Conditions: conditions}); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestAdopt(t *testing.T) {
	f := some()
	fresh := object(f.identity, f.config)
	existing := fresh.DeepCopy()
	existing.Labels["a"], existing.Labels["other"] = "administrator's", "x"
	if adopt(existing, fresh) {
		t.Error("nothing of ours differs")
	}
	delete(existing.Labels, corev1.LabelOSStable)
	existing.Annotations = nil
	if !adopt(existing, fresh) || existing.Labels[corev1.LabelOSStable] != "linux" || existing.Labels["a"] != "administrator's" || existing.Annotations[attachAnnotation] != "true" {
		t.Errorf("adopted: %+v", existing.ObjectMeta)
	}
}

func TestReadMachine(t *testing.T) {
	root := t.TempDir()
	for path, content := range map[string]string{
		"sys/devices/system/cpu/online": "0-3,8\n", "proc/meminfo": "MemTotal:  1000 kB\nSwapTotal: 10 kB\n", "etc/machine-id": "id\n",
		"proc/sys/kernel/random/boot_id": "boot\n", "proc/sys/kernel/osrelease": "6.1\n", "etc/os-release": "NAME=x\nPRETTY_NAME=\"Some OS 1\"\n",
		"sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "3\n",
	} {
		full := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ReadMachine(root, filepath.Join(root, "not", "yet"))
	if err != nil || got.Storage == 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	got.Storage = 0
	want := Machine{CPUs: 5, Memory: 1000 << 10, Swap: 10 << 10, HugePages: map[int64]int64{2 << 20: 6 << 20}, MachineID: "id", SystemUUID: "id", BootID: "boot",
		KernelVersion: "6.1", OSImage: "Some OS 1"}
	if !cmp.Equal(want, got) {
		t.Error(cmp.Diff(want, got))
	}
	if _, err := ReadMachine("/", "/"); err != nil {
		t.Error("this machine:", err)
	}
}

// answers is a runtime whose state a test sets.
type answers struct {
	mu    sync.Mutex
	state Runtime
}

func (a *answers) Ask(context.Context) Runtime {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state
}

func (a *answers) set(state Runtime) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state = state
}

func (a *answers) List(context.Context) ([]corev1.ContainerImage, error) { return nil, nil }

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func TestRun(t *testing.T) {
	client := fake.NewClientset()
	client.PrependReactor("create", "nodes", func(action clienttesting.Action) (bool, goruntime.Object, error) {
		if create, ok := action.(clienttesting.CreateAction); ok {
			if node, ok := create.GetObject().(*corev1.Node); ok {
				node.UID = "uid"
			}
		}
		return false, nil, nil
	})
	f := some()
	runtime := &answers{state: Runtime{Problem: errors.New("container runtime is down")}}
	get := func() (*corev1.Node, error) {
		return client.CoreV1().Nodes().Get(t.Context(), "me", metav1.GetOptions{})
	}
	var mu sync.Mutex
	told := map[string]int{}
	r := New(Options{
		Identity: f.identity, Config: f.config, Machine: f.machine, Runtime: runtime, Client: apitest.Server{Clientset: client}, Node: get,
		Event: func(_, reason, _ string) { mu.Lock(); defer mu.Unlock(); told[reason]++ },
		Log:   slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { r.Run(ctx) })
	defer done.Wait()
	defer cancel()
	status := func(want corev1.ConditionStatus) func() bool {
		return func() bool {
			node, err := get()
			if err != nil {
				return false
			}
			c := Condition(&node.Status, corev1.NodeReady)
			return c != nil && c.Status == want
		}
	}
	eventually(t, "the node is there, not ready", status(corev1.ConditionFalse))
	runtime.set(Runtime{Version: "shimd://1.0"})
	r.Look()
	eventually(t, "it is ready", status(corev1.ConditionTrue))
	eventually(t, "it is known to be ready", r.Ready)
	eventually(t, "its lease is there", func() bool {
		l, err := client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(t.Context(), "me", metav1.GetOptions{})
		return err == nil && *l.Spec.LeaseDurationSeconds == 40 && len(l.OwnerReferences) == 1 && l.OwnerReferences[0].UID == "uid"
	})
	runtime.set(Runtime{Problem: errors.New("container runtime is down")})
	r.Look()
	eventually(t, "it is not ready any more", status(corev1.ConditionFalse))
	eventually(t, "that is told", func() bool { mu.Lock(); defer mu.Unlock(); return told["NodeReady"] == 1 && told["NodeNotReady"] == 1 })
}
