package cluster

import (
	"context"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"

	"github.com/shimd/shimd/node/api"
)

const (
	// writers is how many requests are under way at most. They wait for the API server most of their time.
	writers = 8
	// settle is how long the first word about a pod that is being made waits for a better one: a pod that runs within that time costs one request less.
	settle = 150 * time.Millisecond
	// mend is how long a status that somebody else has written over stays so.
	mend = 5 * time.Second
	// firstRetry and lastRetry bound the waits between tries; when the API server is seen to be back, they are cut short.
	firstRetry, lastRetry = 100 * time.Millisecond, 10 * time.Second
	// requestTimeout bounds each request.
	requestTimeout = 30 * time.Second
)

// task is one thing to bring about: a pod's status and end (uid), or a static pod's mirror (mirror). A task is never run twice at the same time.
type task struct {
	uid    types.UID
	mirror types.NamespacedName
}

// letter is the newest word about one pod that the API server is to have.
type letter struct {
	pod      *corev1.Pod       // as the agent handed it over
	status   *corev1.PodStatus // nil: none yet
	finish   bool              // delete it
	finished bool              // it has been deleted: only a finalizer can still hold it
}

// writer brings words to the API server: the newest about each pod, several pods at a time.
type writer struct {
	client api.Server
	table  *table
	node   func() (*corev1.Node, error)
	log    *slog.Logger
	queue  workqueue.TypedRateLimitingInterface[task]

	mu      sync.Mutex
	letters map[types.UID]*letter
	statics map[types.NamespacedName]*corev1.Pod // static pods that are to have mirrors
}

func newWriter(client api.Server, table *table, node func() (*corev1.Node, error), log *slog.Logger) *writer {
	return &writer{
		client: client, table: table, node: node, log: log,
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[task](firstRetry, lastRetry)),
		letters: map[types.UID]*letter{}, statics: map[types.NamespacedName]*corev1.Pod{},
	}
}

// run writes until the context ends. It is started when the pods have been listed: before, nothing is known to write against.
func (w *writer) run(ctx context.Context) {
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for w.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	w.queue.ShutDown()
	group.Wait()
}

func (w *writer) next(ctx context.Context) bool {
	t, shutdown := w.queue.Get()
	if shutdown {
		return false
	}
	defer w.queue.Done(t)
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var err error
	if t.uid != "" {
		err = w.deliver(ctx, t.uid)
	} else {
		err = w.reflectStatic(ctx, t.mirror)
	}
	if err == nil {
		w.queue.Forget(t)
		return true
	}
	if ctx.Err() == nil {
		w.log.Warn("writing to the API server; it will be tried again", "pod", t.mirror, "uid", t.uid, "error", err)
	}
	w.queue.AddRateLimited(t)
	return true
}

// update changes the letter of a pod, and has it delivered.
func (w *writer) update(pod *corev1.Pod, change func(*letter)) {
	w.mu.Lock()
	l := w.letters[pod.UID]
	if l == nil {
		l = &letter{}
		w.letters[pod.UID] = l
	}
	l.pod = pod
	change(l)
	early := !l.finish && l.status != nil && l.status.Phase == corev1.PodPending
	w.mu.Unlock()
	if early {
		if base := w.target(pod); base != nil && base.Status.StartTime == nil {
			w.queue.AddAfter(task{uid: pod.UID}, settle)
			return
		}
	}
	w.queue.Add(task{uid: pod.UID})
}

// forget drops what was to be said about a pod that the API server no longer has.
func (w *writer) forget(uid types.UID) {
	w.mu.Lock()
	delete(w.letters, uid)
	w.mu.Unlock()
	w.queue.Forget(task{uid: uid})
}

// shown is called when the watch shows a pod that this agent did not just write itself.
func (w *writer) shown(pod *corev1.Pod) {
	w.mu.Lock()
	_, known := w.statics[nameOf(pod)]
	l := w.letters[pod.UID]
	waits := l != nil && l.finish && pod.DeletionTimestamp != nil
	w.mu.Unlock()
	switch {
	case isMirror(pod):
		if known {
			w.queue.Add(task{mirror: nameOf(pod)})
		}
	case waits:
		w.queue.Add(task{uid: pod.UID})
	case l != nil:
		w.queue.AddAfter(task{uid: pod.UID}, mend)
	}
}

// again has everything delivered that waits, at once: the API server answers again.
func (w *writer) again() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for uid := range w.letters {
		w.queue.Forget(task{uid: uid})
		w.queue.Add(task{uid: uid})
	}
	for name := range w.statics {
		w.queue.Forget(task{mirror: name})
		w.queue.Add(task{mirror: name})
	}
}

// target is the API server's object that a pod's status goes to: the pod itself, or a static one's mirror.
func (w *writer) target(pod *corev1.Pod) *corev1.Pod {
	if isStatic(pod) {
		return w.table.mirror(nameOf(pod))
	}
	return w.table.pod(pod.UID)
}

// deliver writes a pod's status, if it differs from what is there, and deletes the pod, if that was asked for.
func (w *writer) deliver(ctx context.Context, uid types.UID) error {
	w.mu.Lock()
	if w.letters[uid] == nil {
		w.mu.Unlock()
		return nil
	}
	l := *w.letters[uid]
	w.mu.Unlock()
	base := w.target(l.pod)
	if base == nil {
		if !isStatic(l.pod) { // a static pod's mirror will be made, and its status waits for that
			w.forget(uid)
		}
		return nil
	}
	status := l.status
	if l.finish && !isStatic(l.pod) {
		status = ended(base, status)
	}
	if status != nil {
		var err error
		if base, err = w.write(ctx, base, status, l.pod.Generation); err != nil || base == nil {
			return w.drop(ctx, uid, l.pod, err)
		}
	}
	if !l.finish || l.finished || base.DeletionTimestamp == nil || isStatic(l.pod) {
		return nil
	}
	if err := w.remove(ctx, base); err != nil {
		return err
	}
	w.mu.Lock()
	if now := w.letters[uid]; now != nil {
		now.finished = true
	}
	w.mu.Unlock()
	return nil
}

// ended makes sure that a pod of which nothing is left is not deleted while its status says that it goes on: others (Jobs) count by it.
func ended(base *corev1.Pod, status *corev1.PodStatus) *corev1.PodStatus {
	if status == nil {
		status = &base.Status
	}
	if terminal(status.Phase) || terminal(base.Status.Phase) {
		return status
	}
	failed := status.DeepCopy()
	failed.Phase = corev1.PodFailed
	return failed
}

// write patches the status and returns the object as it is then; nil when there is none of this UID any more.
func (w *writer) write(ctx context.Context, base *corev1.Pod, status *corev1.PodStatus, generation int64) (*corev1.Pod, error) {
	merged := merge(base, status, generation, time.Now())
	if apiequality.Semantic.DeepEqual(&base.Status, merged) {
		return base, nil
	}
	p, err := patch(base.UID, &base.Status, merged)
	if err != nil || p == nil {
		return base, err
	}
	after, err := w.client.Pods(base.Namespace).Patch(ctx, base.Name, types.StrategicMergePatchType, p, metav1.PatchOptions{}, "status")
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, kind(err)
	}
	w.log.Debug("status written", "pod", nameOf(base), "uid", base.UID, "phase", merged.Phase, "patch", string(p))
	w.table.wrote(after)
	return after, nil
}

// drop decides what a failed patch means. The API server answers "conflict" both to another UID and to writers who were faster.
func (w *writer) drop(ctx context.Context, uid types.UID, pod *corev1.Pod, err error) error {
	switch {
	case isStatic(pod): // its mirror will be made anew, and its status waits for that
		return err
	case err == nil:
		w.forget(uid)
		return nil
	case !apierrors.IsConflict(err):
		return err
	}
	found, getErr := w.client.Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(getErr) || getErr == nil && found.UID != uid {
		w.forget(uid)
		return nil
	}
	return err
}

// remove deletes an object at once, if it is still this one.
func (w *writer) remove(ctx context.Context, pod *corev1.Pod) error {
	err := w.client.Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: ptr.To[int64](0), Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return kind(err)
}
