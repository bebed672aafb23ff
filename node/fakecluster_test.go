package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shimd/shimd/node/objects"
	"github.com/shimd/shimd/node/status"
)

// fakeCluster is an API server of maps, for one node.
type fakeCluster struct {
	objects.Offline

	mu       sync.Mutex
	listener Listener
	away     bool
	pods     map[types.UID]*corev1.Pod
	history  map[string][]corev1.PodStatus // by name
	finished []string
	mirrors  map[string]*corev1.Pod
	events   []string
	secrets  map[string]*corev1.Secret
	maps     map[string]*corev1.ConfigMap
	node     *corev1.Node
	version  int
	serial   sync.Mutex // of calls to the listener
}

func newFakeCluster() *fakeCluster {
	return &fakeCluster{
		pods: map[types.UID]*corev1.Pod{}, history: map[string][]corev1.PodStatus{}, mirrors: map[string]*corev1.Pod{},
		secrets: map[string]*corev1.Secret{}, maps: map[string]*corev1.ConfigMap{},
	}
}

func (f *fakeCluster) Follow(ctx context.Context, listener Listener) {
	f.mu.Lock()
	f.listener = listener
	f.mu.Unlock()
	f.tell()
	<-ctx.Done()
	f.mu.Lock()
	f.listener = Listener{}
	f.mu.Unlock()
}

// tell gives the listener the pods as they are.
func (f *fakeCluster) tell() {
	f.serial.Lock()
	defer f.serial.Unlock()
	f.mu.Lock()
	listener := f.listener
	var pods []*corev1.Pod
	for _, pod := range f.pods {
		pods = append(pods, pod)
	}
	away := f.away
	f.mu.Unlock()
	if listener.Pods != nil && !away {
		listener.Pods(pods)
	}
}

// change replaces a pod's object by a changed copy.
func (f *fakeCluster) change(uid types.UID, change func(*corev1.Pod)) {
	f.mu.Lock()
	if pod := f.pods[uid]; pod != nil {
		pod = pod.DeepCopy()
		change(pod)
		f.version++
		pod.ResourceVersion = fmt.Sprint(f.version)
		f.pods[uid] = pod
	}
	f.mu.Unlock()
	f.tell()
}

func (f *fakeCluster) create(pod *corev1.Pod) types.UID {
	f.mu.Lock()
	f.version++
	pod.UID = types.UID(fmt.Sprintf("uid-%d", f.version))
	pod.Namespace, pod.Generation = "default", 1
	pod.Status.Phase = corev1.PodPending
	f.pods[pod.UID] = pod
	f.mu.Unlock()
	f.tell()
	return pod.UID
}

func (f *fakeCluster) delete(uid types.UID, grace int64) {
	f.change(uid, func(pod *corev1.Pod) {
		now := metav1.NewTime(time.Now().Add(time.Duration(grace) * time.Second))
		pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &now, &grace
	})
}

func (f *fakeCluster) drop(uid types.UID) {
	f.mu.Lock()
	delete(f.pods, uid)
	f.mu.Unlock()
	f.tell()
}

func (f *fakeCluster) Report(pod *corev1.Pod, s *corev1.PodStatus) {
	f.mu.Lock()
	f.history[pod.Name] = append(f.history[pod.Name], *s)
	f.mu.Unlock()
	go f.change(pod.UID, func(p *corev1.Pod) { p.Status = *s })
}

func (f *fakeCluster) Finish(pod *corev1.Pod) {
	f.mu.Lock()
	f.finished = append(f.finished, pod.Name)
	f.mu.Unlock()
	go f.drop(pod.UID)
}

func (f *fakeCluster) Mirror(static *corev1.Pod) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mirrors[static.Name] = static
}

func (f *fakeCluster) Unmirror(static *corev1.Pod) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.mirrors, static.Name)
}

func (f *fakeCluster) Event(_ *corev1.Pod, field, kind, reason, message string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, strings.Join([]string{kind, reason, field, message}, "|"))
}

func (f *fakeCluster) Node() (*corev1.Node, error) {
	if f.node == nil {
		return nil, errdefs.ErrUnavailable
	}
	return f.node, nil
}

func (f *fakeCluster) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if found := f.maps[name]; found != nil {
		return found, nil
	}
	return nil, fmt.Errorf("configmap %q not found: %w", name, errdefs.ErrNotFound)
}

func (f *fakeCluster) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if found := f.secrets[name]; found != nil {
		return found, nil
	}
	return nil, fmt.Errorf("secret %q not found: %w", name, errdefs.ErrNotFound)
}

// until waits for something that the API server has.
func (f *fakeCluster) until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		f.mu.Lock()
		ok := is()
		f.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("never seen: %s; events %q", what, f.events)
		}
	}
}

// last is the newest status of a pod; the lock is held.
func (f *fakeCluster) last(name string) corev1.PodStatus {
	if all := f.history[name]; len(all) > 0 {
		return all[len(all)-1]
	}
	return corev1.PodStatus{}
}

func (f *fakeCluster) is(name string, phase corev1.PodPhase, ready corev1.ConditionStatus) func() bool {
	return func() bool {
		s := f.last(name)
		c := status.Condition(s.Conditions, corev1.PodReady)
		return s.Phase == phase && c != nil && c.Status == ready
	}
}

func (f *fakeCluster) told(reason, text string) func() bool {
	return func() bool {
		return slices.ContainsFunc(f.events, func(e string) bool {
			return strings.Contains(e, "|"+reason+"|") && strings.Contains(e, text)
		})
	}
}

func apiPod(name string) *corev1.Pod {
	grace, links := int64(30), true
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst, TerminationGracePeriodSeconds: &grace, EnableServiceLinks: &links,
			NodeName: "node", SecurityContext: &corev1.PodSecurityContext{},
			Containers: []corev1.Container{{
				Name: "main", Image: "example.org/main:1", ImagePullPolicy: corev1.PullIfNotPresent,
				TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile,
			}},
		},
	}
}
