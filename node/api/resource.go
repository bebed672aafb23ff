package api

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

// resource is a Resource[*T, *L]. Pointers to T and L are runtime.Objects.
type resource[T, L any] struct {
	client          rest.Interface
	codec           runtime.ParameterCodec
	name, namespace string
}

// into sends a request, and decodes the answer.
func into[A any](ctx context.Context, request *rest.Request) (*A, error) {
	answer := new(A)
	object, ok := any(answer).(runtime.Object)
	if !ok {
		return nil, fmt.Errorf("%T is no object of the API: %w", answer, errdefs.ErrInternal)
	}
	return answer, request.Do(ctx).Into(object)
}

func (r *resource[T, L]) of(request *rest.Request) *rest.Request {
	return request.NamespaceIfScoped(r.namespace, r.namespace != "").Resource(r.name)
}

func (r *resource[T, L]) Get(ctx context.Context, name string, options metav1.GetOptions) (*T, error) {
	return into[T](ctx, r.of(r.client.Get()).Name(name).VersionedParams(&options, r.codec))
}

// timeout is the client's, of a list or watch with one.
func timeout(options metav1.ListOptions) time.Duration {
	if options.TimeoutSeconds == nil {
		return 0
	}
	return time.Duration(*options.TimeoutSeconds) * time.Second
}

func (r *resource[T, L]) List(ctx context.Context, options metav1.ListOptions) (*L, error) {
	return into[L](ctx, r.of(r.client.Get()).VersionedParams(&options, r.codec).Timeout(timeout(options)))
}

func (r *resource[T, L]) Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	options.Watch = true
	return r.of(r.client.Get()).VersionedParams(&options, r.codec).Timeout(timeout(options)).Watch(ctx)
}

func (r *resource[T, L]) Create(ctx context.Context, object *T, options metav1.CreateOptions) (*T, error) {
	return into[T](ctx, r.of(r.client.Post()).VersionedParams(&options, r.codec).Body(object))
}

func (r *resource[T, L]) Update(ctx context.Context, object *T, options metav1.UpdateOptions) (*T, error) {
	named, ok := any(object).(metav1.Object)
	if !ok {
		return nil, fmt.Errorf("%T is no object of the API: %w", object, errdefs.ErrInternal)
	}
	return into[T](ctx, r.of(r.client.Put()).Name(named.GetName()).VersionedParams(&options, r.codec).Body(object))
}

func (r *resource[T, L]) Patch(ctx context.Context, name string, kind types.PatchType, data []byte, options metav1.PatchOptions, subresources ...string) (*T, error) {
	return into[T](ctx, r.of(r.client.Patch(kind)).Name(name).SubResource(subresources...).VersionedParams(&options, r.codec).Body(data))
}

func (r *resource[T, L]) Delete(ctx context.Context, name string, options metav1.DeleteOptions) error {
	return r.of(r.client.Delete()).Name(name).Body(&options).Do(ctx).Error()
}
