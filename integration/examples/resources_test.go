package examples_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestQuota(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "quota")
	s.apply("resources/quota.yaml")
	s.expect("resourcequota/small", "{.status.hard.pods}", "2")
	run := func(name string, more ...string) []string {
		return append(append([]string{"run", name, "--image=busybox"}, more...), "--", "sleep", "3600")
	}
	s.kubectl(run("one")...)
	given := s.pod("one").Spec.Containers[0].Resources
	if given.Limits.Memory().String() != "64Mi" || given.Requests.Memory().String() != "32Mi" || given.Limits.Cpu().String() != "200m" {
		t.Errorf("a container that says nothing gets %+v", given)
	}
	large := `{"spec":{"containers":[{"name":"large","image":"busybox","resources":{"limits":{"memory":"512Mi"}}}]}}`
	if why := s.fails(run("large", "--overrides="+large)...); !strings.Contains(why, "maximum memory usage per Container is 256Mi") {
		t.Errorf("a container that is too large was refused: %s", why)
	}
	s.kubectl(run("two")...)
	if why := s.fails(run("three")...); !strings.Contains(why, "exceeded quota: small") {
		t.Errorf("a third pod was refused: %s", why)
	}
	s.wait("condition=Ready", "pod/one", "pod/two")
	if limit := memoryLimit(t, s.pod("one")); limit != fmt.Sprint(64<<20) {
		t.Errorf("the limit in the cgroup is %s", limit)
	}
	// Room again when one has gone.
	s.kubectl("delete", "pod", "one", "--grace-period=0")
	s.expect("resourcequota/small", "{.status.used.pods}", "1")
	s.kubectl(run("three")...)
	s.wait("condition=Ready", "pod/three")
}

func TestQoSClasses(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "qos")
	s.apply("resources/qos.yaml")
	s.wait("condition=Ready", "pod", "-l", "example=qos")
	for name, want := range map[string]struct{ class, parent string }{
		"guaranteed": {"Guaranteed", "kubepods/pod"},
		"burstable":  {"Burstable", "kubepods/burstable/pod"},
		"besteffort": {"BestEffort", "kubepods/besteffort/pod"},
	} {
		pod := s.pod(name)
		if string(pod.Status.QOSClass) != want.class {
			t.Errorf("%s has the class %s", name, pod.Status.QOSClass)
		}
		group := containerCgroup(t, pod)
		if !strings.Contains(group, want.parent+string(pod.UID)+"/") {
			t.Errorf("%s is in %s, not below %s", name, group, want.parent)
		}
	}
}

// containerCgroup is the directory of a pod's first container, in the memory hierarchy or the only one.
func containerCgroup(t *testing.T, pod corev1.Pod) string {
	t.Helper()
	if len(pod.Status.ContainerStatuses) == 0 {
		t.Fatalf("%s has no containers", pod.Name)
	}
	_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(root, "memory")); err == nil {
		root = filepath.Join(root, "memory")
	}
	found := ""
	err := filepath.WalkDir(filepath.Join(root, node(t, pod.Spec.NodeName).CgroupName()), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && strings.Contains(entry.Name(), id) {
			found = path
			return fs.SkipAll
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // other pods come and go
		}
		return err
	})
	if err != nil || found == "" {
		t.Fatalf("looking for the cgroup of %s on %s: %q, %v", id, pod.Spec.NodeName, found, err)
	}
	return found
}

// memoryLimit is what stands in the cgroup.
func memoryLimit(t *testing.T, pod corev1.Pod) string {
	t.Helper()
	group := containerCgroup(t, pod)
	for _, name := range []string{"memory.limit_in_bytes", "memory.max"} {
		if text, err := os.ReadFile(filepath.Join(group, name)); err == nil {
			return strings.TrimSpace(string(text))
		}
	}
	t.Fatalf("there is no memory limit in %s", group)
	return ""
}

func TestPreemption(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "preemption")
	const slots = `{"status":{"capacity":{"example.com/slot":"2"},"allocatable":{"example.com/slot":"2"}}}`
	s.kubectl("patch", "node", worker(0), "--subresource=status", "--type=merge", "-p", slots)
	s.expect("node/"+worker(0), `{.status.allocatable.example\.com/slot}`, "2")
	s.applyGlobal("resources/priority.yaml")
	s.rollout("deployment/low")
	s.apply("resources/high.yaml")
	s.wait("condition=Ready", "pod/high")
	if at := s.pod("high").Spec.NodeName; at != worker(0) {
		t.Errorf("the pod of high priority is on %s", at)
	}
	s.eventually("one pod of low priority to run and one to wait", func() error {
		var running, pending int
		for _, pod := range s.pods("app=low") {
			switch pod.Status.Phase {
			case corev1.PodRunning:
				running++
			case corev1.PodPending:
				pending++
			default:
			}
		}
		if running != 1 || pending != 1 {
			return fmt.Errorf("%d run, %d wait", running, pending)
		}
		return nil
	})
	s.eventually("an event that tells of the preemption", func() error {
		events, err := s.try("get", "events", "--field-selector", "reason=Preempted", "-o", "name")
		if err == nil && events == "" {
			err = errors.New("there is none")
		}
		return err
	})
}

func TestEviction(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "eviction")
	s.apply("resources/eviction.yaml", "NODE", small())
	s.wait("condition=Ready", "pod/guaranteed")
	s.wait("jsonpath={.status.phase}=Failed", "pod/hungry")
	evicted := s.pod("hungry").Status
	if evicted.Reason != "Evicted" || !strings.Contains(evicted.Message, "The node was low on resource: memory") {
		t.Errorf("the hungry pod: %s, %s", evicted.Reason, evicted.Message)
	}
	s.event("hungry", "Evicted")
	stays := s.pod("guaranteed")
	if stays.Status.Phase != corev1.PodRunning || stays.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("the guaranteed pod: %+v", stays.Status)
	}
	s.expect("node/"+small(), `{.status.conditions[?(@.type=="MemoryPressure")].status}`, "False")
}

func TestRuntimeClasses(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"/usr/sbin/runc", "/usr/bin/crun"} {
		if _, err := os.Stat(program); err != nil {
			t.Skipf("%v: install Debian's packages runc and crun", err)
		}
	}
	s := newSpace(t, "runtimes")
	s.applyGlobal("runtime-class/runtimes.yaml", "NODE", worker(0))
	s.wait("condition=Ready", "pod", "-l", "example=runtimes")
	for _, name := range []string{"with-builtin", "with-runc", "with-crun"} {
		pod := s.pod(name)
		if pod.Spec.NodeName != worker(0) {
			t.Errorf("%s is on %s", name, pod.Spec.NodeName)
		}
		if page, err := fetch("http://" + pod.Status.PodIP); err != nil || !strings.Contains(page, "nginx") {
			t.Errorf("%s: %v, %q", name, err, page)
		}
		if said := s.kubectl("exec", name, "--", "cat", "/etc/hostname"); strings.TrimSpace(said) != name {
			t.Errorf("exec in %s says %q", name, said)
		}
		s.eventually("its log", func() error {
			log, err := s.try("logs", name)
			if err == nil && !strings.Contains(log, "GET / HTTP") {
				err = fmt.Errorf("the log is %q", log)
			}
			return err
		})
	}
	var about corev1.Node
	if err := json.Unmarshal([]byte(s.kubectl("get", "node", worker(0), "-o", "json")), &about); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "runc", "crun"} {
		if !slices.ContainsFunc(about.Status.RuntimeHandlers, func(h corev1.NodeRuntimeHandler) bool { return h.Name == name }) {
			t.Errorf("the node has no runtime handler %q: %v", name, about.Status.RuntimeHandlers)
		}
	}
}
