// Package objects says what the node agent looks up for its pods: ConfigMaps, Secrets, tokens, claims, services, the node itself.
//
// Inside: the one interface, with its contract, and what stands in for it without an API server. Not inside: asking the API server (package
// cluster), and making volumes or environments of the answers (packages volume and translate).
package objects

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
)

// Source answers what pods refer to. All methods may be called by many goroutines. What they answer is shared: it must not be changed.
//
// Errors have a kind: errdefs.ErrNotFound (the API server says that there is none), ErrPermissionDenied, ErrUnavailable (it does not answer, and
// nothing is known from before), ErrNotImplemented (there is no API server).
type Source interface {
	// ConfigMap answers the newest version known. The object is watched from the first call on, until no pod on the node refers to it any more;
	// later calls cost nothing. When the API server is away the last version is answered.
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	// Secret does the same for a Secret.
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	// Token asks for a service account's token. Not cached here: who asks keeps it, and asks again when 80 % of its life or 24 hours are over.
	Token(ctx context.Context, namespace, serviceAccount string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error)
	// Claim answers a claim and the volume that it is bound to; ErrFailedPrecondition as long as it is not bound. Not cached.
	Claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume, error)
	// Services are all services of the cluster, for the environment of containers. ErrUnavailable until they have been listed once.
	Services() ([]*corev1.Service, error)
	// Node is this node's object, as the API server last told it. ErrUnavailable until it has.
	Node() (*corev1.Node, error)
	// RuntimeHandler is the CRI handler of a RuntimeClass; "" is the default's.
	RuntimeHandler(ctx context.Context, class string) (string, error)
}

// Offline is the Source of an agent without an API server: all that it is asked is not implemented, and says so.
type Offline struct{}

var _ Source = Offline{}

func unavailable(kind, namespace, name string) error {
	return fmt.Errorf("looking up %s %s/%s: shimlet runs without an API server (--kubeconfig): %w", kind, namespace, name, errdefs.ErrNotImplemented)
}

// ConfigMap answers ErrNotImplemented, as all others do.
func (Offline) ConfigMap(_ context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	return nil, unavailable("ConfigMap", namespace, name)
}

// Secret answers ErrNotImplemented.
func (Offline) Secret(_ context.Context, namespace, name string) (*corev1.Secret, error) {
	return nil, unavailable("Secret", namespace, name)
}

// Token answers ErrNotImplemented.
func (Offline) Token(_ context.Context, namespace, serviceAccount string, _ *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	return nil, unavailable("a token of service account", namespace, serviceAccount)
}

// Claim answers ErrNotImplemented.
func (Offline) Claim(_ context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume, error) {
	return nil, nil, unavailable("PersistentVolumeClaim", namespace, name)
}

// Services answers none: there are no variables for services without a cluster.
func (Offline) Services() ([]*corev1.Service, error) { return nil, nil }

// Node answers ErrNotImplemented.
func (Offline) Node() (*corev1.Node, error) { return nil, unavailable("Node", "", "") }

// RuntimeHandler answers ErrNotImplemented for all but the default.
func (Offline) RuntimeHandler(_ context.Context, class string) (string, error) {
	if class == "" {
		return "", nil
	}
	return "", unavailable("RuntimeClass", "", class)
}
