package cluster

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/shimd/shimd/node"
	"github.com/shimd/shimd/node/api/apitest"
)

// told is what a listener was told.
type told struct {
	mu      sync.Mutex
	pods    []*corev1.Pod
	objects []string
	node    *corev1.Node
}

func (l *told) listener() node.Listener {
	return node.Listener{
		Pods: func(pods []*corev1.Pod) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.pods = pods
		},
		Objects: func(uids []string) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.objects = append(l.objects, uids...)
		},
		Node: func(n *corev1.Node) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.node = n
		},
	}
}

func (l *told) names() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var names []string
	for _, pod := range l.pods {
		names = append(names, pod.Name)
	}
	slices.Sort(names)
	return names
}

// eventually waits for what other goroutines bring about; the bound is only there to end a test that fails.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func start(t *testing.T, objects ...runtime.Object) (*fake.Clientset, *Cluster, *told) {
	t.Helper()
	client := fake.NewClientset(objects...)
	c := New(&Connection{Client: apitest.Server{Clientset: client}, Lookups: apitest.Server{Clientset: client}, Events: apitest.Server{Clientset: client}}, "me", slog.New(slog.NewTextHandler(io.Discard, nil)))
	listener := &told{}
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { c.Follow(ctx, listener.listener()) })
	t.Cleanup(func() {
		cancel()
		done.Wait()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "pods are listed", c.Synced)
	return client, c, listener
}

// react adds a reaction while reflectors already ask the client, whose own method takes no lock.
func react(client *fake.Clientset, verb, resource string, reaction clienttesting.ReactionFunc) {
	client.Lock()
	defer client.Unlock()
	client.PrependReactor(verb, resource, reaction)
}

func mine(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, UID: types.UID("uid-" + name), Generation: 1},
		Spec:       corev1.PodSpec{NodeName: "me", Containers: []corev1.Container{{Name: "c"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodPending},
	}
}

func get(t *testing.T, client *fake.Clientset, name string) *corev1.Pod {
	t.Helper()
	pod, err := client.CoreV1().Pods("n").Get(t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

func TestPodsAndStatuses(t *testing.T) {
	client, c, listener := start(t, mine("old"), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "me", UID: "node"}})
	eventually(t, "the listed pod is told", func() bool { return slices.Equal(listener.names(), []string{"old"}) })
	if _, err := client.CoreV1().Pods("n").Create(t.Context(), mine("new"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a new pod is told", func() bool { return slices.Equal(listener.names(), []string{"new", "old"}) })
	eventually(t, "the node is told", func() bool { listener.mu.Lock(); defer listener.mu.Unlock(); return listener.node != nil })

	pod := mine("new")
	c.Report(pod, &corev1.PodStatus{Phase: corev1.PodPending})
	c.Report(pod, &corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}})
	eventually(t, "the status is written", func() bool {
		status := get(t, client, "new").Status
		return status.Phase == corev1.PodRunning && status.PodIP == "10.0.0.1" && status.StartTime != nil && status.ObservedGeneration == 1
	})

	c.Report(mine("stranger"), &corev1.PodStatus{Phase: corev1.PodRunning})
	c.Finish(mine("stranger"))
	eventually(t, "words about an unknown pod are dropped", func() bool {
		c.writer.mu.Lock()
		defer c.writer.mu.Unlock()
		return c.writer.letters["uid-stranger"] == nil
	})
}

func TestFinish(t *testing.T) {
	gone := mine("gone")
	gone.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	gone.Finalizers = []string{"example.com/held"} // the fake would not take the object otherwise
	client, c, _ := start(t, gone)
	var mu sync.Mutex
	var deletions []metav1.DeleteOptions
	react(client, "delete", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		mu.Lock()
		defer mu.Unlock()
		if deletion, ok := action.(clienttesting.DeleteActionImpl); ok {
			deletions = append(deletions, deletion.DeleteOptions)
		}
		if len(deletions) == 1 {
			return true, nil, apierrors.NewInternalError(errors.New("once"))
		}
		return false, nil, nil
	})
	c.Finish(gone)
	eventually(t, "it is deleted", func() bool { return get(t, client, "gone") == nil })
	mu.Lock()
	defer mu.Unlock()
	if len(deletions) != 2 || *deletions[1].GracePeriodSeconds != 0 || *deletions[1].Preconditions.UID != gone.UID {
		t.Errorf("deletions: %+v", deletions)
	}
	patched := 0
	for _, action := range client.Actions() {
		if patch, ok := action.(clienttesting.PatchActionImpl); ok {
			patched++
			if patch.Subresource != "status" || !strings.Contains(string(patch.Patch), `"phase":"Failed"`) {
				t.Errorf("patch of %s: %s", patch.Subresource, patch.Patch)
			}
		}
	}
	if patched != 1 {
		t.Errorf("%d patches; the end is written once, before the pod is deleted", patched)
	}
}

func TestMirrorPods(t *testing.T) {
	orphan := mine("orphan")
	orphan.Annotations = map[string]string{mirrorAnnotation: "x"}
	client, c, listener := start(t, orphan, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "me", UID: "node"}})
	static := mine("web")
	static.Annotations = map[string]string{sourceAnnotation: "file", hashAnnotation: "v1"}
	c.Report(static, &corev1.PodStatus{Phase: corev1.PodRunning})
	c.Mirror(static)
	eventually(t, "the mirror is made, with the static pod's status", func() bool {
		pod := get(t, client, "web")
		return pod != nil && pod.Status.Phase == corev1.PodRunning && pod.Annotations[mirrorAnnotation] == "v1" &&
			len(pod.OwnerReferences) == 1 && pod.OwnerReferences[0].UID == "node"
	})
	changed := static.DeepCopy()
	changed.UID, changed.Annotations[hashAnnotation] = "uid-web-2", "v2"
	c.Mirror(changed)
	eventually(t, "it is made anew for a new version", func() bool {
		pod := get(t, client, "web")
		return pod != nil && pod.Annotations[mirrorAnnotation] == "v2"
	})
	if err := client.CoreV1().Pods("n").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is made anew when somebody deletes it", func() bool { return get(t, client, "web") != nil })
	c.Unmirror(changed)
	eventually(t, "it goes", func() bool { return get(t, client, "web") == nil })
	c.writer.sweep()
	eventually(t, "a mirror that shows nothing goes", func() bool { return get(t, client, "orphan") == nil })
	if names := listener.names(); len(names) > 0 {
		t.Errorf("mirror pods are no pods to run: %v", names)
	}
}

// A mirror pod may be gone again before the API server's answer to its creation arrives.
func TestMirrorDeletedWhileItIsMade(t *testing.T) {
	client, c, _ := start(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "me", UID: "node"}})
	static := mine("web")
	static.Annotations = map[string]string{sourceAnnotation: "file", hashAnnotation: "v1"}
	pods := corev1.SchemeGroupVersion.WithResource("pods")
	made := 0
	react(client, "create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		create, ok := action.(clienttesting.CreateAction)
		if made++; !ok || made > 1 {
			return false, nil, nil
		}
		err := client.Tracker().Create(pods, create.GetObject(), "n")
		eventually(t, "the mirror is seen", func() bool { return c.table.mirror(nameOf(static)) != nil })
		err = errors.Join(err, client.Tracker().Delete(pods, "n", "web"))
		eventually(t, "its end is seen", func() bool { return c.table.mirror(nameOf(static)) == nil })
		return true, create.GetObject(), err
	})
	c.Mirror(static)
	eventually(t, "it is made anew", func() bool { return get(t, client, "web") != nil })
}

func TestObjects(t *testing.T) {
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "conf", ResourceVersion: "1"}, Data: map[string]string{"k": "1"}}
	pod := mine("reader")
	pod.Spec.Volumes = []corev1.Volume{
		{VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "conf"}}}},
		{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "later"}}},
	}
	client, c, listener := start(t, config, pod, &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, Handler: "crun"})
	got, err := c.ConfigMap(t.Context(), "n", "conf")
	if err != nil || got.Data["k"] != "1" {
		t.Fatalf("conf: %+v, %v", got, err)
	}
	_, err = c.Secret(t.Context(), "n", "later")
	if !errors.Is(err, errdefs.ErrNotFound) || err.Error() != `secret "later" not found` {
		t.Errorf("a missing secret: %v", err)
	}
	// The fake does not replay what happens between a list and the watch after it: wait for the watches.
	eventually(t, "both are watched", func() bool {
		watched := 0
		for _, action := range client.Actions() {
			if action.GetVerb() == "watch" && (action.GetResource().Resource == "configmaps" || action.GetResource().Resource == "secrets") {
				watched++
			}
		}
		return watched == 2
	})
	time.Sleep(10 * time.Millisecond)
	config = config.DeepCopy()
	config.Data["k"], config.ResourceVersion = "2", "2"
	if _, err := client.CoreV1().ConfigMaps("n").Update(t.Context(), config, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "later", ResourceVersion: "3"}}
	if _, err := client.CoreV1().Secrets("n").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a change arrives", func() bool {
		got, err := c.ConfigMap(t.Context(), "n", "conf")
		return err == nil && got.Data["k"] == "2"
	})
	eventually(t, "a missing object arrives", func() bool { _, err := c.Secret(t.Context(), "n", "later"); return err == nil })
	eventually(t, "the listener is told which pods it concerns", func() bool {
		listener.mu.Lock()
		defer listener.mu.Unlock()
		return slices.Contains(listener.objects, string(pod.UID))
	})
	if err := client.CoreV1().Pods("n").Delete(t.Context(), "reader", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is watched any more", func() bool { c.followed.mu.Lock(); defer c.followed.mu.Unlock(); return len(c.followed.books) == 0 })
	if handler, err := c.RuntimeHandler(t.Context(), "fast"); handler != "crun" || err != nil {
		t.Errorf("RuntimeClass: %q, %v", handler, err)
	}
	if _, err := c.RuntimeHandler(t.Context(), "none"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("a missing RuntimeClass: %v", err)
	}
}

// The authorizer learns of a pod's binding after the node has.
func TestForbiddenAtFirst(t *testing.T) {
	pod := mine("reader")
	pod.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
	client, c, _ := start(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "pull"}})
	refusals := 3
	react(client, "list", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
		refusals--
		return refusals >= 0, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "pull", errors.New("no relationship found"))
	})
	if _, err := client.CoreV1().Pods("n").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the reference is seen", func() bool { c.followed.mu.Lock(); defer c.followed.mu.Unlock(); return len(c.followed.books) == 1 })
	if _, err := c.Secret(t.Context(), "n", "pull"); err != nil {
		t.Error(err)
	}
}

func TestServicesAndEvents(t *testing.T) {
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "s", Labels: map[string]string{"big": "label"}},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.0.0.1", Ports: []corev1.ServicePort{{Port: 80}}},
	}
	client, c, _ := start(t, service)
	eventually(t, "services are listed", func() bool { services, err := c.Services(); return err == nil && len(services) == 1 })
	services, _ := c.Services()
	if services[0].Spec.ClusterIP != "10.0.0.1" || services[0].Labels != nil {
		t.Errorf("a service as it is kept: %+v", services[0])
	}
	c.Event(mine("p"), "spec.containers{c}", corev1.EventTypeNormal, "Started", "Container started")
	eventually(t, "the event is there", func() bool {
		events := eventsOf(t, client)
		return len(events) == 1 && events[0].Source == corev1.EventSource{Component: "kubelet", Host: "me"} &&
			events[0].InvolvedObject.FieldPath == "spec.containers{c}" && events[0].InvolvedObject.UID == "uid-p"
	})
}

func eventsOf(t *testing.T, client *fake.Clientset) []corev1.Event {
	t.Helper()
	events, err := client.CoreV1().Events("n").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return events.Items
}

func TestEventsAreCounted(t *testing.T) {
	client, c, _ := start(t)
	pulled := func() { c.Event(mine("p"), "", corev1.EventTypeNormal, "Pulled", "there already") }
	counted := func(n int32) func() bool {
		return func() bool { events := eventsOf(t, client); return len(events) == 1 && events[0].Count == n }
	}
	pulled()
	pulled()
	eventually(t, "two of them are one event", counted(2))
	if err := client.CoreV1().Events("n").Delete(t.Context(), eventsOf(t, client)[0].Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	pulled()
	eventually(t, "an event that the API server has forgotten is made anew", counted(3))
}

func TestCloseWritesWhatWaits(t *testing.T) {
	client, c, _ := start(t)
	for _, reason := range []string{"Killing", "NodeShutdown"} {
		c.Event(mine("p"), "", corev1.EventTypeNormal, reason, "last words")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if events := eventsOf(t, client); len(events) != 2 {
		t.Errorf("after Close there are %d events, want 2", len(events))
	}
}
