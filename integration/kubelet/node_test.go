package kubelet_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/integration/controlgroup"
	"github.com/shimd/shimd/integration/criclient"
	"github.com/shimd/shimd/integration/daemon"
	"github.com/shimd/shimd/integration/kubelet"
)

// node is a daemon and a kubelet that uses it.
type node struct {
	daemon  *daemon.Daemon
	client  *criclient.Client
	kubelet *kubelet.Kubelet
	cgroup  string
}

// keepVariable names a directory to which logs are copied.
const keepVariable = "SHIMD_TEST_LOGS"

// startNode runs both. more is further configuration of the kubelet's.
func startNode(t *testing.T, gates map[string]bool, more map[string]any) *node {
	t.Helper()
	if reason != "" {
		t.Skip(reason)
	}
	dir, err := os.MkdirTemp(shared.work, "node-")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{cgroup: fmt.Sprintf("shimd-test-kubelet-%x", time.Now().UnixNano())}
	n.daemon, err = daemon.New(daemon.Config{Programs: shared.bundle.Programs(), Dir: filepath.Join(dir, "shimd"), CertsDir: shared.certs})
	if err != nil {
		t.Fatal(err)
	}
	n.kubelet, err = kubelet.New(kubelet.Config{
		Program: shared.kubelet, Dir: filepath.Join(dir, "kubelet"), Endpoint: n.daemon.Endpoint(),
		NodeName: "node", NodeIP: nodeIP, CgroupRoot: "/" + n.cgroup, PodCIDR: podCIDR, Gates: gates, More: more,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.cleanup(t) })
	if err := controlgroup.New(n.cgroup); err != nil {
		t.Fatal(err)
	}
	if err := n.daemon.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n.client, err = n.daemon.Client(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.client.Close)
	if err := n.kubelet.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) cleanup(t *testing.T) {
	t.Helper()
	deadline, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if keep := os.Getenv(keepVariable); keep != "" {
		for _, file := range []string{n.daemon.LogFile(), n.kubelet.LogFile()} {
			text, err := os.ReadFile(file)
			if err == nil {
				err = os.WriteFile(filepath.Join(keep, strings.ReplaceAll(t.Name(), "/", "-")+"-"+filepath.Base(file)), text, 0o644)
			}
			if err != nil {
				t.Errorf("keeping a log: %v", err)
			}
		}
	}
	if t.Failed() {
		t.Logf("the end of the kubelet's log:\n%s\nthe end of shimd's log:\n%s", n.kubelet.LogTail(), n.daemon.LogTail())
	}
	for _, step := range []func() error{
		n.kubelet.Cleanup,
		func() error { return n.daemon.Cleanup(deadline) },
		func() error { return controlgroup.Remove(n.cgroup) },
		func() error { return os.RemoveAll(filepath.Dir(n.daemon.Root())) },
	} {
		if err := step(); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
	}
}

// runFiles puts those pod files of testdata into the kubelet's folder whose names fit.
func (n *node) runFiles(t *testing.T, pattern string) {
	t.Helper()
	files, err := filepath.Glob("testdata/pods/" + pattern + ".yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no pod files: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		// Whole at once: the kubelet looks as soon as there is a file.
		draft := filepath.Join(filepath.Dir(n.kubelet.PodFiles()), "draft.yaml")
		if err := os.WriteFile(draft, text, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(draft, filepath.Join(n.kubelet.PodFiles(), filepath.Base(file))); err != nil {
			t.Fatal(err)
		}
	}
}

func (n *node) pods(t *testing.T) map[string]corev1.Pod {
	t.Helper()
	pods, err := n.kubelet.Pods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return pods
}

// wait answers the pod once it is as wanted.
func (n *node) wait(t *testing.T, name, what string, wanted func(corev1.Pod) bool) corev1.Pod {
	t.Helper()
	var pod corev1.Pod
	eventually(t, name+" "+what, func() bool {
		pod = n.pods(t)[name]
		return wanted(pod)
	}, func() string {
		return fmt.Sprintf("%s: %+v %+v", pod.Status.Phase, pod.Status.ContainerStatuses, pod.Status.Conditions)
	})
	return pod
}

func (n *node) log(t *testing.T, pod corev1.Pod, container string) string {
	t.Helper()
	text, err := n.kubelet.ContainerLog(t.Context(), pod.Name, container)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (n *node) run(t *testing.T, pod corev1.Pod, container string, command ...string) string {
	t.Helper()
	out, err := n.kubelet.Run(t.Context(), pod.Name, container, command...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// eventually tries until the condition holds. Nothing depends on how long that takes, but that it ends.
func eventually(t *testing.T, what string, holds func() bool, state func() string) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !holds(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never came true: %s; %s", what, state())
		}
	}
}

func ready(pod corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func phase(wanted corev1.PodPhase) func(corev1.Pod) bool {
	return func(pod corev1.Pod) bool { return pod.Status.Phase == wanted }
}

// status is that of one of the pod's containers; empty when there is none.
func status(pod corev1.Pod, container string) corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, s := range list {
			if s.Name == container {
				return s
			}
		}
	}
	return corev1.ContainerStatus{}
}

// containers are the IDs and restart counts of all containers of pods, by pod and name.
func containers(pods map[string]corev1.Pod, except string) map[string]string {
	found := map[string]string{}
	for name, pod := range pods {
		if name == except {
			continue
		}
		for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
			for _, s := range list {
				found[name+"/"+s.Name] = fmt.Sprintf("%s restarted %d times", s.ContainerID, s.RestartCount)
			}
		}
	}
	return found
}
