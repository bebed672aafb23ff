package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// classAge is how long a RuntimeClass is taken for what it was. Handlers never change; a class can be deleted and made anew with another one.
const classAge = 10 * time.Second

// class is a RuntimeClass's handler, as asked at a time.
type class struct {
	handler string
	asked   time.Time
}

// patient asks until the authorizer knows that a pod has come to this node, which is a moment after the watch has shown it.
func patient[T any](ctx context.Context, ask func() (T, error)) (T, error) {
	backoff := pauses{}
	for {
		answer, err := ask()
		err = kind(err)
		if !errors.Is(err, errdefs.ErrPermissionDenied) || backoff.tries >= 7 || ctx.Err() != nil {
			return answer, err
		}
		backoff.wait(ctx)
	}
}

// ConfigMap implements objects.Source.
func (c *Cluster) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	object, err := c.followed.get(ctx, reference{false, namespace, name})
	if err != nil {
		return nil, err
	}
	found, ok := object.(*corev1.ConfigMap)
	if !ok {
		return nil, fmt.Errorf("the API server sent a %T for ConfigMap %s/%s: %w", object, namespace, name, errdefs.ErrUnavailable)
	}
	return found, nil
}

// Secret implements objects.Source.
func (c *Cluster) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	object, err := c.followed.get(ctx, reference{true, namespace, name})
	if err != nil {
		return nil, err
	}
	found, ok := object.(*corev1.Secret)
	if !ok {
		return nil, fmt.Errorf("the API server sent a %T for Secret %s/%s: %w", object, namespace, name, errdefs.ErrUnavailable)
	}
	return found, nil
}

// Token implements objects.Source.
func (c *Cluster) Token(ctx context.Context, namespace, serviceAccount string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	return patient(ctx, func() (*authenticationv1.TokenRequest, error) {
		return c.lookups.Token(ctx, namespace, serviceAccount, request)
	})
}

// Claim implements objects.Source.
func (c *Cluster) Claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume, error) {
	claim, err := patient(ctx, func() (*corev1.PersistentVolumeClaim, error) {
		return c.lookups.Claims(namespace).Get(ctx, name, metav1.GetOptions{})
	})
	if err != nil {
		return nil, nil, err
	}
	if claim.Status.Phase != corev1.ClaimBound || claim.Spec.VolumeName == "" {
		return nil, nil, fmt.Errorf("PVC %s/%s is not bound: %w", namespace, name, errdefs.ErrFailedPrecondition)
	}
	if claim.DeletionTimestamp != nil {
		return nil, nil, fmt.Errorf("PVC %s/%s is being deleted: %w", namespace, name, errdefs.ErrFailedPrecondition)
	}
	volume, err := patient(ctx, func() (*corev1.PersistentVolume, error) {
		return c.lookups.Volumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	})
	if err != nil {
		return nil, nil, err
	}
	if volume.Spec.ClaimRef == nil || volume.Spec.ClaimRef.UID != claim.UID {
		return nil, nil, fmt.Errorf("PV %s is bound to another claim than PVC %s/%s: %w", volume.Name, namespace, name, errdefs.ErrFailedPrecondition)
	}
	return claim, volume, nil
}

// Services implements objects.Source.
func (c *Cluster) Services() ([]*corev1.Service, error) { return c.shelf.allServices() }

// Node implements objects.Source.
func (c *Cluster) Node() (*corev1.Node, error) { return c.shelf.theNode() }

// RuntimeHandler implements objects.Source.
func (c *Cluster) RuntimeHandler(ctx context.Context, name string) (string, error) {
	if name == "" {
		return "", nil
	}
	c.classesMu.Lock()
	known, ok := c.classes[name]
	c.classesMu.Unlock()
	if ok && time.Since(known.asked) < classAge {
		return known.handler, nil
	}
	found, err := c.lookups.RuntimeClasses().Get(ctx, name, metav1.GetOptions{})
	err = kind(err)
	switch {
	case errors.Is(err, errdefs.ErrUnavailable) && ok: // better than nothing
		return known.handler, nil
	case err != nil:
		return "", fmt.Errorf("RuntimeClass %q: %w", name, err)
	}
	c.classesMu.Lock()
	defer c.classesMu.Unlock()
	for other, k := range c.classes {
		if time.Since(k.asked) > time.Hour {
			delete(c.classes, other)
		}
	}
	c.classes[name] = class{found.Handler, time.Now()}
	return found.Handler, nil
}
