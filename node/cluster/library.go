package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/shimd/shimd/node/api"
)

// library keeps the ConfigMaps and Secrets that pods of this node refer to. Each is followed by a list and a watch of its own, of this one name:
// the API server's Node authorizer allows a node nothing else. The first list is asked for when a pod is seen that refers to the object, so
// that the answer is mostly there when the pod's volumes are made.
type library struct {
	client  api.Server
	log     *slog.Logger
	changed func(pods []types.UID)

	mu    sync.Mutex
	ctx   context.Context // nil until run
	group sync.WaitGroup
	books map[reference]*book
	pods  map[types.UID]map[reference]struct{}
}

// book is one object.
type book struct {
	pods  map[types.UID]struct{} // that refer to it
	known chan struct{}          // closed when there is a first answer
	// object is the newest version; nil with err set when there is none. Both are valid once known is closed.
	object runtime.Object
	err    error
	stop   context.CancelFunc
}

func newLibrary(client api.Server, log *slog.Logger, changed func([]types.UID)) *library {
	return &library{client: client, log: log, changed: changed, books: map[reference]*book{}, pods: map[types.UID]map[reference]struct{}{}}
}

// run allows books to be followed, until the context ends.
func (l *library) run(ctx context.Context) {
	l.mu.Lock()
	l.ctx = ctx
	for ref, b := range l.books {
		l.open(ref, b)
	}
	l.mu.Unlock()
	<-ctx.Done()
	l.mu.Lock()
	l.ctx = nil // none is opened after this
	l.mu.Unlock()
	l.group.Wait()
}

// open is called with the lock held.
func (l *library) open(ref reference, b *book) {
	if l.ctx == nil || l.ctx.Err() != nil || b.stop != nil {
		return
	}
	ctx, cancel := context.WithCancel(l.ctx)
	b.stop = cancel
	l.group.Go(func() { l.follow(ctx, ref, b) })
}

// refer records what a pod refers to: nothing, when it has ended or is gone.
func (l *library) refer(pod types.UID, refs map[reference]struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.pods[pod]
	if maps.Equal(before, refs) {
		return
	}
	for ref := range refs {
		b := l.books[ref]
		if b == nil {
			b = &book{pods: map[types.UID]struct{}{}, known: make(chan struct{})}
			l.books[ref] = b
			l.open(ref, b)
		}
		b.pods[pod] = struct{}{}
	}
	for ref := range before {
		if _, stays := refs[ref]; stays {
			continue
		}
		b := l.books[ref]
		if delete(b.pods, pod); len(b.pods) == 0 {
			delete(l.books, ref)
			if b.stop != nil {
				b.stop()
			}
		}
	}
	if l.pods[pod] = refs; len(refs) == 0 {
		delete(l.pods, pod)
	}
}

// get answers the newest version known, and waits for the first. What no pod refers to is asked for each time.
func (l *library) get(ctx context.Context, ref reference) (runtime.Object, error) {
	l.mu.Lock()
	b := l.books[ref]
	l.mu.Unlock()
	if b == nil {
		object, _, err := l.list(ctx, ref)
		return object, err
	}
	select {
	case <-b.known:
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for %s %s/%s from the API server: %w: %w", ref.kind(), ref.namespace, ref.name, context.Cause(ctx), errdefs.ErrUnavailable)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return b.object, b.err
}

// kind is the word of the kubelet's messages.
func (r reference) kind() string {
	if r.secret {
		return "secret"
	}
	return "configmap"
}

// put makes an answer the newest one. A failure to ask does not replace what is known.
func (l *library) put(b *book, object runtime.Object, err error) {
	l.mu.Lock()
	first := false
	select {
	case <-b.known:
	default:
		first = true
	}
	missing := errors.Is(err, errdefs.ErrNotFound)
	if err != nil && !missing && b.object != nil {
		l.mu.Unlock()
		return
	}
	news := !first && (err == nil && version(object) != version(b.object) || missing && b.object != nil || b.err != nil && err == nil)
	b.object, b.err = object, err
	if first {
		close(b.known)
	}
	pods := slices.Collect(maps.Keys(b.pods))
	l.mu.Unlock()
	if news && len(pods) > 0 {
		l.changed(pods)
	}
}

func version(object runtime.Object) string {
	if o, ok := object.(metav1.Object); ok {
		return o.GetResourceVersion()
	}
	return ""
}

// follow keeps a book up to date until the context ends, or what it holds can't change any more.
func (l *library) follow(ctx context.Context, ref reference, b *book) {
	backoff := pauses{}
	for ctx.Err() == nil {
		object, at, err := l.list(ctx, ref)
		if ctx.Err() != nil {
			return
		}
		// A pod is bound a moment before the authorizer knows that its node may now read what it refers to.
		if errors.Is(err, errdefs.ErrPermissionDenied) && backoff.tries < 7 {
			backoff.wait(ctx)
			continue
		}
		l.put(b, object, err)
		if err != nil && !errors.Is(err, errdefs.ErrNotFound) {
			l.log.Debug("asking for an object of a pod", "kind", ref.kind(), "object", ref.namespace+"/"+ref.name, "error", err)
			backoff.wait(ctx)
			continue
		}
		if immutable(object) {
			return
		}
		backoff = pauses{}
		for at != "" && ctx.Err() == nil {
			if at = l.watch(ctx, ref, b, at, &backoff); backoff.tries > 0 {
				backoff.wait(ctx)
			}
		}
	}
}

// list asks for the object by a list of one name: unlike a get, it says from where on to watch when there is none.
func (l *library) list(ctx context.Context, ref reference) (runtime.Object, string, error) {
	options := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, ref.name).String()}
	none := kinded{apierrors.NewNotFound(schema.GroupResource{Resource: ref.kind()}, ref.name), errdefs.ErrNotFound}
	if ref.secret {
		list, err := l.client.Secrets(ref.namespace).List(ctx, options)
		if err != nil {
			return nil, "", kind(err)
		}
		if len(list.Items) == 0 {
			return nil, list.ResourceVersion, none
		}
		return slim(&list.Items[0]), list.ResourceVersion, nil
	}
	list, err := l.client.ConfigMaps(ref.namespace).List(ctx, options)
	if err != nil {
		return nil, "", kind(err)
	}
	if len(list.Items) == 0 {
		return nil, list.ResourceVersion, none
	}
	return slim(&list.Items[0]), list.ResourceVersion, nil
}

// watch takes in what happens from a version on, until the watch ends, and returns where to go on; "" for: ask again.
func (l *library) watch(ctx context.Context, ref reference, b *book, at string, backoff *pauses) string {
	options := metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, ref.name).String(), ResourceVersion: at, AllowWatchBookmarks: true,
		TimeoutSeconds: ptr.To(300 + rand.Int64N(300)),
	}
	var w watch.Interface
	var err error
	if ref.secret {
		w, err = l.client.Secrets(ref.namespace).Watch(ctx, options)
	} else {
		w, err = l.client.ConfigMaps(ref.namespace).Watch(ctx, options)
	}
	if err != nil {
		backoff.tries++
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			return ""
		}
		return at
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return at
		case event, more := <-w.ResultChan():
			if !more {
				return at
			}
			backoff.tries = 0
			switch event.Type {
			case watch.Added, watch.Modified:
				l.put(b, slim(event.Object), nil)
				if immutable(event.Object) {
					w.Stop()
					<-ctx.Done() // until nobody refers to it any more
					return at
				}
			case watch.Deleted:
				l.put(b, nil, kinded{apierrors.NewNotFound(schema.GroupResource{Resource: ref.kind()}, ref.name), errdefs.ErrNotFound})
			case watch.Error:
				return ""
			case watch.Bookmark:
			}
			at = or(version(event.Object), at)
		}
	}
}

func slim(object runtime.Object) runtime.Object {
	if o, ok := object.(metav1.Object); ok {
		o.SetManagedFields(nil)
	}
	return object
}

func immutable(object runtime.Object) bool {
	switch o := object.(type) {
	case *corev1.ConfigMap:
		return ptr.Deref(o.Immutable, false)
	case *corev1.Secret:
		return ptr.Deref(o.Immutable, false)
	}
	return false
}

// pauses are waits between tries: 10 ms at first, doubled up to 10 s.
type pauses struct{ tries int }

func (p *pauses) wait(ctx context.Context) {
	delay := min(10*time.Millisecond<<min(p.tries, 16), 10*time.Second)
	p.tries++
	timer := time.NewTimer(delay + rand.N(delay/4))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
