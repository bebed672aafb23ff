// Package apitest makes a client-go fake clientset an api.Server, for tests. Programs do not import it: it links the whole clientset.
package apitest

import (
	"context"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/shimd/shimd/node/api"
)

// Server is an api.Server of a clientset.
type Server struct{ Clientset kubernetes.Interface }

var _ api.Server = Server{}

// IsWatchListSemanticsUnSupported says what the fake says to client-go's reflectors: it can't stream lists.
func (Server) IsWatchListSemanticsUnSupported() bool { return true }

// Pods are the clientset's, as all that follow.
func (s Server) Pods(namespace string) api.Resource[*corev1.Pod, *corev1.PodList] {
	return s.Clientset.CoreV1().Pods(namespace)
}

// Nodes are nodes.
func (s Server) Nodes() api.Resource[*corev1.Node, *corev1.NodeList] {
	return s.Clientset.CoreV1().Nodes()
}

// Events are events.
func (s Server) Events(namespace string) api.Resource[*corev1.Event, *corev1.EventList] {
	return s.Clientset.CoreV1().Events(namespace)
}

// Leases are leases.
func (s Server) Leases(namespace string) api.Resource[*coordinationv1.Lease, *coordinationv1.LeaseList] {
	return s.Clientset.CoordinationV1().Leases(namespace)
}

// SigningRequests are requests for certificates.
func (s Server) SigningRequests() api.Resource[*certificatesv1.CertificateSigningRequest, *certificatesv1.CertificateSigningRequestList] {
	return s.Clientset.CertificatesV1().CertificateSigningRequests()
}

// Services are services.
func (s Server) Services(namespace string) api.Reader[*corev1.Service, *corev1.ServiceList] {
	return s.Clientset.CoreV1().Services(namespace)
}

// ConfigMaps are ConfigMaps.
func (s Server) ConfigMaps(namespace string) api.Reader[*corev1.ConfigMap, *corev1.ConfigMapList] {
	return s.Clientset.CoreV1().ConfigMaps(namespace)
}

// Secrets are Secrets.
func (s Server) Secrets(namespace string) api.Reader[*corev1.Secret, *corev1.SecretList] {
	return s.Clientset.CoreV1().Secrets(namespace)
}

// Claims are claims.
func (s Server) Claims(namespace string) api.Reader[*corev1.PersistentVolumeClaim, *corev1.PersistentVolumeClaimList] {
	return s.Clientset.CoreV1().PersistentVolumeClaims(namespace)
}

// Volumes are volumes.
func (s Server) Volumes() api.Reader[*corev1.PersistentVolume, *corev1.PersistentVolumeList] {
	return s.Clientset.CoreV1().PersistentVolumes()
}

// RuntimeClasses are RuntimeClasses.
func (s Server) RuntimeClasses() api.Reader[*nodev1.RuntimeClass, *nodev1.RuntimeClassList] {
	return s.Clientset.NodeV1().RuntimeClasses()
}

// Token makes a token.
func (s Server) Token(ctx context.Context, namespace, account string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	return s.Clientset.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, request, metav1.CreateOptions{})
}

// ReviewToken reviews a token.
func (s Server) ReviewToken(ctx context.Context, review *authenticationv1.TokenReview) (*authenticationv1.TokenReview, error) {
	return s.Clientset.AuthenticationV1().TokenReviews().Create(ctx, review, metav1.CreateOptions{})
}

// ReviewAccess reviews access.
func (s Server) ReviewAccess(ctx context.Context, review *authorizationv1.SubjectAccessReview) (*authorizationv1.SubjectAccessReview, error) {
	return s.Clientset.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
}
