package examples_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/integration/cluster"
	"github.com/shimd/shimd/integration/tools"
)

// patience is long for the sake of loaded machines.
const patience = 6 * time.Minute

// notYet are the rows that an agent does not reach yet, by the test's name, with what it lacks. README's table of what is missing has them too.
func notYet(agent string) map[string]string {
	if agent != cluster.Shimlet {
		return nil
	}
	return map[string]string{}
}

func agent() string {
	if name := os.Getenv(agentVariable); name != "" {
		return name
	}
	return cluster.Kubelet
}

// space is a namespace in which a test does what a user would.
type space struct {
	t    *testing.T
	name string
}

// newSpace makes a namespace for a test, or skips it.
func newSpace(t *testing.T, name string) *space {
	t.Helper()
	if reason != "" {
		t.Skip(reason)
	}
	if lacks, known := notYet(agent())[t.Name()]; known {
		t.Skipf("not with %s yet: %s", agent(), lacks)
	}
	s := &space{t: t, name: "example-" + name}
	if _, err := shared.Kubectl(t.Context(), "create", "namespace", s.name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.remove)
	s.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=60s")
	return s
}

// remove ends the namespace; that it goes, TestMain sees. If the test has failed, it says first what is there.
func (s *space) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if s.t.Failed() {
		for _, args := range [][]string{{"get", "all,pvc,endpointslices", "-o", "wide"}, {"describe", "pods"}, {"get", "events", "--sort-by=.lastTimestamp"}} {
			out, err := shared.Kubectl(ctx, append([]string{"-n", s.name}, args...)...)
			s.t.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	if _, err := shared.Kubectl(ctx, "delete", "namespace", s.name, "--wait=false"); err != nil {
		s.t.Errorf("removing the namespace: %v", err)
	}
}

// try runs kubectl in the namespace.
func (s *space) try(args ...string) (string, error) {
	return s.tryInput("", args...)
}

func (s *space) tryInput(input string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	out, err := shared.KubectlInput(ctx, strings.NewReader(input), append([]string{"-n", s.name}, args...)...)
	return string(out), err
}

// kubectl is try for what must succeed.
func (s *space) kubectl(args ...string) string {
	s.t.Helper()
	out, err := s.try(args...)
	if err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// fails is try for what must be refused; it answers the complaint.
func (s *space) fails(args ...string) string {
	s.t.Helper()
	out, err := s.try(args...)
	if err == nil {
		s.t.Fatalf("kubectl %s succeeded:\n%s", strings.Join(args, " "), out)
	}
	return err.Error()
}

// document reads a file of examples/. Replacements are pairs of old and new.
func document(t *testing.T, file string, replace ...string) string {
	t.Helper()
	root, err := tools.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "examples", filepath.FromSlash(file)))
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer(replace...).Replace(string(text))
}

// apply applies a file of examples/.
func (s *space) apply(file string, replace ...string) {
	s.t.Helper()
	if out, err := s.tryInput(document(s.t, file, replace...), "apply", "-f", "-"); err != nil {
		s.t.Fatalf("applying %s: %v\n%s", file, err, out)
	}
}

// applyGlobal applies a file that also has objects in no namespace, and deletes those at the end.
func (s *space) applyGlobal(file string, replace ...string) {
	s.t.Helper()
	s.deleteAtEnd(file, document(s.t, file, replace...))
	s.apply(file, replace...)
}

// install applies a file whose objects are in a namespace of their own, and deletes them at the end.
func (s *space) install(file string) {
	s.t.Helper()
	text := document(s.t, file)
	s.deleteAtEnd(file, text)
	if out, err := shared.KubectlInput(s.t.Context(), strings.NewReader(text), "apply", "-f", "-"); err != nil {
		s.t.Fatalf("applying %s: %v\n%s", file, err, out)
	}
}

func (s *space) deleteAtEnd(file, text string) {
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if out, err := shared.KubectlInput(ctx, strings.NewReader(text), "delete", "--ignore-not-found", "--wait=false", "-f", "-"); err != nil {
			s.t.Errorf("deleting %s: %v\n%s", file, err, out)
		}
	})
}

// wait is kubectl wait.
func (s *space) wait(condition string, objects ...string) {
	s.t.Helper()
	s.kubectl(append([]string{"wait", "--for=" + condition, "--timeout=" + patience.String()}, objects...)...)
}

func (s *space) rollout(object string, more ...string) {
	s.t.Helper()
	s.kubectl(append([]string{"rollout", "status", object, "--timeout=" + patience.String()}, more...)...)
}

// eventually asks until there is no error.
func (s *space) eventually(what string, ask func() error) {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("waiting for %s: %v", what, err)
		}
		time.Sleep(time.Second)
	}
}

// field is a JSONPath of an object.
func (s *space) field(object, path string) string {
	s.t.Helper()
	return s.kubectl("get", object, "-o", "jsonpath="+path)
}

// expect waits until a field has that value.
func (s *space) expect(object, path, value string) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("%s of %s to be %q", path, object, value), func() error {
		now, err := s.try("get", object, "-o", "jsonpath="+path)
		if err == nil && now != value {
			err = fmt.Errorf("it is %q", now)
		}
		return err
	})
}

// pods are those with a label.
func (s *space) pods(selector string) []corev1.Pod {
	s.t.Helper()
	var list corev1.PodList
	if err := json.Unmarshal([]byte(s.kubectl("get", "pods", "-l", selector, "-o", "json")), &list); err != nil {
		s.t.Fatal(err)
	}
	return list.Items
}

func (s *space) pod(name string) corev1.Pod {
	s.t.Helper()
	var pod corev1.Pod
	if err := json.Unmarshal([]byte(s.kubectl("get", "pod", name, "-o", "json")), &pod); err != nil {
		s.t.Fatal(err)
	}
	return pod
}

// restarted waits until a pod's first container was started again that often.
func (s *space) restarted(name string, times int32) corev1.Pod {
	s.t.Helper()
	var pod corev1.Pod
	s.eventually(fmt.Sprintf("%d restarts of %s", times, name), func() error {
		pod = s.pod(name)
		if len(pod.Status.ContainerStatuses) == 0 || pod.Status.ContainerStatuses[0].RestartCount < times {
			return fmt.Errorf("its status is %+v", pod.Status.ContainerStatuses)
		}
		return nil
	})
	return pod
}

// event waits for an event of an object that has these words.
func (s *space) event(object, words string) {
	s.t.Helper()
	s.eventually("an event of "+object, func() error {
		events, err := s.try("get", "events", "--field-selector", "involvedObject.name="+object, "-o", "custom-columns=R:.reason,M:.message")
		if err == nil && !strings.Contains(events, words) {
			err = fmt.Errorf("no %q in\n%s", words, events)
		}
		return err
	})
}

// client starts a pod to ask others from, on a node, or on any ("").
func (s *space) client(node string) {
	s.t.Helper()
	overrides := map[string]any{"spec": map[string]any{"terminationGracePeriodSeconds": 1}}
	if node != "" {
		overrides["spec"].(map[string]any)["nodeSelector"] = map[string]string{corev1.LabelHostname: node}
	}
	text, err := json.Marshal(overrides)
	if err != nil {
		s.t.Fatal(err)
	}
	s.kubectl("run", "client", "--image=busybox", "--restart=Never", "--overrides="+string(text), "--", "sleep", "86400")
	s.wait("condition=Ready", "pod/client")
}

// ask runs a shell's command in the client.
func (s *space) ask(command string) string {
	s.t.Helper()
	return s.kubectl("exec", "client", "--", "sh", "-c", command)
}

// node is the cluster's node of that name.
func node(t *testing.T, name string) *cluster.Node {
	t.Helper()
	for _, n := range shared.Nodes() {
		if n.Name() == name {
			return n
		}
	}
	t.Fatalf("there is no node %s", name)
	return nil
}

func worker(i int) string { return shared.Nodes()[i].Name() }

func small() string { return shared.Nodes()[workers].Name() }

// distinct are the different lines.
func distinct(text string) map[string]int {
	lines := map[string]int{}
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines[line]++
		}
	}
	return lines
}
