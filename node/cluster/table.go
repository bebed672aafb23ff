package cluster

import (
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// mirrorAnnotation is on mirror pods: the API server's objects that show static pods. Its value is the static pod's hash.
const mirrorAnnotation = corev1.MirrorPodAnnotationKey

// table is the pods bound to this node, as the API server has them.
type table struct {
	mu     sync.Mutex
	listed bool
	pods   map[types.UID]*row
	names  map[types.NamespacedName]types.UID // of mirror pods
}

// row is one pod. written is what the API server answered to the last patch, as long as the watch has not shown it.
type row struct{ shown, written *corev1.Pod }

func (r *row) newest() *corev1.Pod {
	if r.written != nil {
		return r.written
	}
	return r.shown
}

func newTable() *table {
	return &table{pods: map[types.UID]*row{}, names: map[types.NamespacedName]types.UID{}}
}

func nameOf(pod *corev1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
}

func isMirror(pod *corev1.Pod) bool {
	_, is := pod.Annotations[mirrorAnnotation]
	return is
}

// set takes in what the watch shows. It says whether that is news: what this agent has just written itself is none.
func (t *table) set(pod *corev1.Pod) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.put(pod)
}

func (t *table) put(pod *corev1.Pod) bool {
	pod.ManagedFields = nil
	r := t.pods[pod.UID]
	if r == nil {
		r = &row{}
		t.pods[pod.UID] = r
	}
	echo := r.written != nil && r.written.ResourceVersion == pod.ResourceVersion
	if r.written != nil && !newer(r.written, pod) {
		r.written = nil
	}
	r.shown = pod
	if isMirror(pod) {
		t.names[nameOf(pod)] = pod.UID
	}
	return !echo
}

// replace takes in a whole list, and returns the pods that are gone.
func (t *table) replace(pods []*corev1.Pod) []*corev1.Pod {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.pods
	t.pods, t.names = map[types.UID]*row{}, map[types.NamespacedName]types.UID{}
	for _, pod := range pods {
		if r := before[pod.UID]; r != nil {
			t.pods[pod.UID] = r
			delete(before, pod.UID)
		}
		t.put(pod)
	}
	t.listed = true
	var gone []*corev1.Pod
	for _, r := range before {
		gone = append(gone, r.shown)
	}
	return gone
}

func (t *table) remove(pod *corev1.Pod) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.pods, pod.UID)
	if t.names[nameOf(pod)] == pod.UID {
		delete(t.names, nameOf(pod))
	}
}

// wrote takes in the answer to a patch.
func (t *table) wrote(pod *corev1.Pod) {
	t.mu.Lock()
	defer t.mu.Unlock()
	pod.ManagedFields = nil
	if r := t.pods[pod.UID]; r != nil && newer(pod, r.newest()) {
		r.written = pod
	}
}

// newer compares versions of one object. Versions that are no numbers (of fakes) are taken for newer.
func newer(a, b *corev1.Pod) bool {
	order, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion)
	return err != nil && a.ResourceVersion != b.ResourceVersion || order > 0
}

// pod is the newest version of one that is known, or nil.
func (t *table) pod(uid types.UID) *corev1.Pod {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.pods[uid]; r != nil {
		return r.newest()
	}
	return nil
}

// mirror is the API server's object that shows a static pod, or nil.
func (t *table) mirror(name types.NamespacedName) *corev1.Pod {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.pods[t.names[name]]; r != nil {
		return r.newest()
	}
	return nil
}

// bound lists all pods but mirror pods, oldest first; nil before the first list.
func (t *table) bound() []*corev1.Pod { return t.list(false) }

// mirrors lists mirror pods.
func (t *table) mirrors() []*corev1.Pod { return t.list(true) }

func (t *table) list(mirrors bool) []*corev1.Pod {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.listed {
		return nil
	}
	pods := make([]*corev1.Pod, 0, len(t.pods))
	for _, r := range t.pods {
		if isMirror(r.shown) == mirrors {
			pods = append(pods, r.newest())
		}
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		if order := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); order != 0 {
			return order
		}
		return strings.Compare(string(a.UID), string(b.UID))
	})
	return pods
}
