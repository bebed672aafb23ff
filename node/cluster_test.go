package node

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func newClusterBench(t *testing.T) (*bench, *fakeCluster) {
	t.Helper()
	b, c := newBench(t), newFakeCluster()
	b.config.Cluster = c
	return b, c
}

func (b *bench) left() int {
	b.cri.mu.Lock()
	defer b.cri.mu.Unlock()
	return len(b.cri.sandboxes) + len(b.cri.containers)
}

func TestPodOfTheAPIServer(t *testing.T) {
	b, c := newClusterBench(t)
	b.start()
	uid := c.create(apiPod("web"))
	c.until(t, "running", c.is("web", corev1.PodRunning, corev1.ConditionTrue))
	s := c.last("web")
	if s.PodIP != "127.0.0.1" || s.HostIP != "192.0.2.7" || s.StartTime == nil || !strings.HasPrefix(s.ContainerStatuses[0].ContainerID, "fake://") {
		t.Errorf("status %+v", s)
	}
	if pods := b.agent.Pods(); len(pods) != 1 || pods[0].Status.Phase != corev1.PodRunning {
		t.Errorf("pods %+v", pods)
	}
	for _, reason := range []string{"Pulling", "Pulled", "Created", "Started"} {
		c.until(t, reason, c.told(reason, "|spec.containers{main}|"))
	}
	c.delete(uid, 5)
	c.until(t, "finished", func() bool { return slices.Contains(c.finished, "web") })
	s = c.last("web")
	if s.Phase != corev1.PodFailed || s.ContainerStatuses[0].State.Terminated == nil || s.ContainerStatuses[0].State.Terminated.ExitCode != 143 {
		t.Errorf("the last status: %+v", s)
	}
	c.until(t, "killing", c.told("Killing", "Stopping container main"))
	b.until("gone", none)
	if n := b.left(); n > 0 {
		t.Errorf("%d things are left in the runtime", n)
	}
	if left, err := os.ReadDir(filepath.Join(b.config.RootDir, "pods")); err != nil || len(left) > 0 {
		t.Errorf("left on disk: %v %v", left, err)
	}
}

func TestForceDeleted(t *testing.T) {
	b, c := newClusterBench(t)
	b.start()
	uid := c.create(apiPod("web"))
	c.until(t, "running", c.is("web", corev1.PodRunning, corev1.ConditionTrue))
	c.drop(uid)
	b.until("gone", none)
	if n := b.left(); n > 0 || len(c.finished) > 0 {
		t.Errorf("%d things are left, finished %v", n, c.finished)
	}
}

// A pod that was created and deleted while nobody looked is finished too.
func TestDeletedBeforeItRan(t *testing.T) {
	b, c := newClusterBench(t)
	uid := c.create(apiPod("web"))
	c.delete(uid, 30)
	b.start()
	c.until(t, "finished", func() bool { return len(c.finished) > 0 })
	if n := b.cri.called("RunPodSandbox"); n != 0 {
		t.Errorf("ran %d times", n)
	}
	if s := c.last("web"); s.Phase != corev1.PodFailed {
		t.Errorf("status %+v", s)
	}
}

func TestRestartWithoutTheAPIServer(t *testing.T) {
	b, c := newClusterBench(t)
	b.start()
	kept, gone := c.create(apiPod("kept")), c.create(apiPod("gone"))
	c.until(t, "both running", func() bool {
		return c.is("kept", corev1.PodRunning, corev1.ConditionTrue)() && c.is("gone", corev1.PodRunning, corev1.ConditionTrue)()
	})
	b.stop()
	c.mu.Lock()
	c.away = true
	delete(c.pods, gone)
	c.mu.Unlock()
	created := b.cri.called("CreateContainer")
	b.start()
	b.until("both adopted", func(s nodeStatus) bool { return running("kept")(s) && running("gone")(s) })
	b.cri.end("main", 1) // pods are looked after while the API server is away
	b.until("restarted", func(s nodeStatus) bool {
		return running("kept")(s) && running("gone")(s) && s.Pods[0].Containers[0].Restarts == 1 && s.Pods[1].Containers[0].Restarts == 1
	})
	if n := b.cri.called("CreateContainer"); n != created+2 || b.cri.called("RunPodSandbox") != 2 {
		t.Errorf("%d containers were created, %d before", n, created)
	}
	c.mu.Lock()
	c.away = false
	c.mu.Unlock()
	c.tell()
	b.until("one removed", func(s nodeStatus) bool {
		return len(s.Pods) == 1 && running("kept")(s) && s.Pods[0].UID == string(kept)
	})
}

func TestEndedPodStaysEnded(t *testing.T) {
	b, c := newClusterBench(t)
	b.cri.exits["main"] = 0
	pod := apiPod("job")
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	b.start()
	c.create(pod)
	c.until(t, "succeeded", c.is("job", corev1.PodSucceeded, corev1.ConditionFalse))
	b.until("its sandbox stopped", func(nodeStatus) bool { return b.cri.called("StopPodSandbox") == 1 })
	b.stop()
	b.cri.mu.Lock()
	clear(b.cri.containers) // as if somebody had cleaned up
	clear(b.cri.sandboxes)
	b.cri.mu.Unlock()
	b.config.RootDir = t.TempDir()
	b.start()
	b.until("known", func(s nodeStatus) bool { return len(s.Pods) == 1 && s.Pods[0].Phase == "Succeeded" })
	if n := b.cri.called("RunPodSandbox"); n != 1 {
		t.Errorf("ran %d times", n)
	}
}

func TestDeadline(t *testing.T) {
	b, c := newClusterBench(t)
	b.start()
	pod, seconds := apiPod("web"), int64(1)
	pod.Spec.ActiveDeadlineSeconds = &seconds
	c.create(pod)
	c.until(t, "failed", func() bool {
		s := c.last("web")
		return s.Phase == corev1.PodFailed && s.Reason == "DeadlineExceeded"
	})
	b.until("stopped", func(nodeStatus) bool { return b.cri.called("StopPodSandbox") > 0 })
	if b.left() == 0 {
		t.Error("what tells of it is gone")
	}
}

func TestRefusedPod(t *testing.T) {
	b, c := newClusterBench(t)
	c.node = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi"), corev1.ResourcePods: resource.MustParse("10"),
	}}}
	b.start()
	pod := apiPod("big")
	pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}
	uid := c.create(pod)
	c.until(t, "failed", func() bool {
		s := c.last("big")
		return s.Phase == corev1.PodFailed && s.Reason == "OutOfcpu" && strings.Contains(s.Message, "requested: 2000, used: 0, capacity: 1000")
	})
	c.delete(uid, 0)
	c.until(t, "finished", func() bool { return len(c.finished) == 1 })
	if b.cri.called("RunPodSandbox") != 0 {
		t.Error("it ran")
	}
}

func TestStaticPodIsMirrored(t *testing.T) {
	b, c := newClusterBench(t)
	b.start()
	b.write("web.yaml", podFile("web", oneContainer))
	c.until(t, "mirrored and running", func() bool {
		return c.mirrors["web-node"] != nil && c.is("web-node", corev1.PodRunning, corev1.ConditionTrue)()
	})
	if m := c.mirrors["web-node"]; m.Annotations["kubernetes.io/config.hash"] != string(m.UID) || m.Annotations["kubernetes.io/config.source"] != "file" {
		t.Errorf("annotations %v", m.Annotations)
	}
	b.remove("web.yaml")
	c.until(t, "not any more", func() bool { return len(c.mirrors) == 0 })
}

func TestEnvironmentWaitsForItsSource(t *testing.T) {
	b, c := newClusterBench(t)
	b.start()
	pod := apiPod("web")
	pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}, Key: "a",
	}}}}
	uid := c.create(pod)
	c.until(t, "waiting", func() bool {
		s := c.last("web")
		return len(s.ContainerStatuses) == 1 && s.ContainerStatuses[0].State.Waiting != nil && s.ContainerStatuses[0].State.Waiting.Reason == "CreateContainerConfigError"
	})
	c.mu.Lock()
	c.maps["settings"] = &corev1.ConfigMap{Data: map[string]string{"a": "b"}}
	listener := c.listener
	c.mu.Unlock()
	listener.Objects([]string{string(uid)})
	c.until(t, "running", c.is("web", corev1.PodRunning, corev1.ConditionTrue))
	b.cri.mu.Lock()
	defer b.cri.mu.Unlock()
	for _, container := range b.cri.containers {
		if env := container.config.Envs; len(env) != 1 || env[0].Key != "A" || string(env[0].Value) != "b" {
			t.Errorf("environment %v", env)
		}
	}
}

func TestEphemeralContainer(t *testing.T) {
	b, c := newClusterBench(t)
	b.start()
	uid := c.create(apiPod("web"))
	c.until(t, "running", c.is("web", corev1.PodRunning, corev1.ConditionTrue))
	c.change(uid, func(p *corev1.Pod) {
		p.Generation++
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "example.org/debug:1"}, TargetContainerName: "main"}}
	})
	c.until(t, "beside", func() bool {
		s := c.last("web").EphemeralContainerStatuses
		return len(s) == 1 && s[0].State.Running != nil
	})
	b.cri.end("debug", 3)
	c.until(t, "ended", func() bool {
		s := c.last("web").EphemeralContainerStatuses
		return len(s) == 1 && s[0].State.Terminated != nil && s[0].State.Terminated.ExitCode == 3
	})
	if !c.is("web", corev1.PodRunning, corev1.ConditionTrue)() {
		t.Error("the pod is not ready")
	}
}
