package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// lister is the part of client-go's typed clients that a watch needs; L is the list's type.
type lister[L runtime.Object] interface {
	List(ctx context.Context, options metav1.ListOptions) (L, error)
	Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error)
}

// sink is what a reflector fills. It keeps nothing itself: no queue and no second copy of the objects.
type sink[T runtime.Object] struct {
	set  func(T)
	gone func(T)
	all  func([]T)
}

var _ cache.ReflectorStore = sink[runtime.Object]{}

func (s sink[T]) call(f func(T), object any) error {
	typed, ok := object.(T)
	if !ok {
		return fmt.Errorf("the API server sent a %T", object)
	}
	f(typed)
	return nil
}

func (s sink[T]) Add(object any) error    { return s.call(s.set, object) }
func (s sink[T]) Update(object any) error { return s.call(s.set, object) }
func (s sink[T]) Delete(object any) error { return s.call(s.gone, object) }
func (s sink[T]) Resync() error           { return nil }

func (s sink[T]) Replace(objects []any, _ string) error {
	typed := make([]T, 0, len(objects))
	for _, object := range objects {
		if err := s.call(func(t T) { typed = append(typed, t) }, object); err != nil {
			return err
		}
	}
	s.all(typed)
	return nil
}

// reflect fills a sink until the context ends. client is what the lister is of: fakes can't stream lists, and say so.
func reflect[T, L runtime.Object](ctx context.Context, log *slog.Logger, client any, what lister[L], selector string, s sink[T]) {
	var example T
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.FieldSelector = selector
			return what.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = selector
			return what.Watch(ctx, options)
		},
	}
	logger := logr.FromSlogHandler(log.Handler())
	r := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, client), example, s, cache.ReflectorOptions{
		Name: "watch", Logger: &logger,
		// client-go's own ends at a minute: too long for pods to wait after the API server has come back.
		Backoff: &wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Steps: 6, Cap: 5 * time.Second, Jitter: 0.5},
	})
	r.RunWithContext(klog.NewContext(ctx, logger))
}
