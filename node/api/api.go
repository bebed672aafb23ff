// Package api holds clients of the few kinds of objects that a node agent reads and writes.
//
// Inside: requests and answers, over client-go's REST client. Not inside: what is asked when (packages cluster, register, server).
//
// client-go's own clientset is not used: it links every group of the API with every version, 10 MB of program, all of which ends up in the memory of
// each node. A test holds it out of shimlet.
package api

import (
	"context"
	"fmt"
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"
)

// Reader reads objects of one kind, in one namespace or in all; L is the kind's list.
type Reader[T, L any] interface {
	Get(ctx context.Context, name string, options metav1.GetOptions) (T, error)
	List(ctx context.Context, options metav1.ListOptions) (L, error)
	Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error)
}

// Resource reads and writes objects of one kind. Its methods are those of client-go's typed clients.
type Resource[T, L any] interface {
	Reader[T, L]
	Create(ctx context.Context, object T, options metav1.CreateOptions) (T, error)
	Update(ctx context.Context, object T, options metav1.UpdateOptions) (T, error)
	Patch(ctx context.Context, name string, kind types.PatchType, data []byte, options metav1.PatchOptions, subresources ...string) (T, error)
	Delete(ctx context.Context, name string, options metav1.DeleteOptions) error
}

// Server is the part of the API server that a node agent needs. An empty namespace stands for all.
type Server interface {
	Pods(namespace string) Resource[*corev1.Pod, *corev1.PodList]
	Nodes() Resource[*corev1.Node, *corev1.NodeList]
	Events(namespace string) Resource[*corev1.Event, *corev1.EventList]
	Leases(namespace string) Resource[*coordinationv1.Lease, *coordinationv1.LeaseList]
	SigningRequests() Resource[*certificatesv1.CertificateSigningRequest, *certificatesv1.CertificateSigningRequestList]
	Services(namespace string) Reader[*corev1.Service, *corev1.ServiceList]
	ConfigMaps(namespace string) Reader[*corev1.ConfigMap, *corev1.ConfigMapList]
	Secrets(namespace string) Reader[*corev1.Secret, *corev1.SecretList]
	Claims(namespace string) Reader[*corev1.PersistentVolumeClaim, *corev1.PersistentVolumeClaimList]
	Volumes() Reader[*corev1.PersistentVolume, *corev1.PersistentVolumeList]
	RuntimeClasses() Reader[*nodev1.RuntimeClass, *nodev1.RuntimeClassList]
	// Token makes a service account's token.
	Token(ctx context.Context, namespace, account string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error)
	// ReviewToken asks whose a token is, ReviewAccess whether somebody may do something.
	ReviewToken(ctx context.Context, review *authenticationv1.TokenReview) (*authenticationv1.TokenReview, error)
	ReviewAccess(ctx context.Context, review *authorizationv1.SubjectAccessReview) (*authorizationv1.SubjectAccessReview, error)
}

// Client is a Server by HTTP.
type Client struct {
	core, node, coordination, certificates, authentication, authorization rest.Interface
	codec                                                                 runtime.ParameterCodec
}

var _ Server = (*Client)(nil)

// Scheme knows the kinds of this package.
func Scheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, nodev1.AddToScheme, coordinationv1.AddToScheme, certificatesv1.AddToScheme, authenticationv1.AddToScheme, authorizationv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("collecting the kinds of objects: %w", err)
		}
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	return scheme, nil
}

// New makes clients that share a transport and, as config's QPS and Burst say, one limit.
func New(config *rest.Config, scheme *runtime.Scheme, transport *http.Client) (*Client, error) {
	config = rest.CopyConfig(config)
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	if config.QPS > 0 {
		config.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(config.QPS, config.Burst)
	}
	c := &Client{codec: runtime.NewParameterCodec(scheme)}
	for version, into := range map[schema.GroupVersion]*rest.Interface{
		corev1.SchemeGroupVersion: &c.core, nodev1.SchemeGroupVersion: &c.node, coordinationv1.SchemeGroupVersion: &c.coordination,
		certificatesv1.SchemeGroupVersion: &c.certificates, authenticationv1.SchemeGroupVersion: &c.authentication, authorizationv1.SchemeGroupVersion: &c.authorization,
	} {
		group := rest.CopyConfig(config)
		group.GroupVersion, group.APIPath = &version, "/apis"
		if version.Group == "" {
			group.APIPath = "/api"
		}
		client, err := rest.RESTClientForConfigAndClient(group, transport)
		if err != nil {
			return nil, fmt.Errorf("making a client of %s for %s: %w", config.Host, version, err)
		}
		*into = client
	}
	return c, nil
}

func of[T, L any](c *Client, client rest.Interface, name, namespace string) *resource[T, L] {
	return &resource[T, L]{client: client, codec: c.codec, name: name, namespace: namespace}
}

// Pods are pods.
func (c *Client) Pods(namespace string) Resource[*corev1.Pod, *corev1.PodList] {
	return of[corev1.Pod, corev1.PodList](c, c.core, "pods", namespace)
}

// Nodes are nodes.
func (c *Client) Nodes() Resource[*corev1.Node, *corev1.NodeList] {
	return of[corev1.Node, corev1.NodeList](c, c.core, "nodes", "")
}

// Events are events of the core group.
func (c *Client) Events(namespace string) Resource[*corev1.Event, *corev1.EventList] {
	return of[corev1.Event, corev1.EventList](c, c.core, "events", namespace)
}

// Leases are leases.
func (c *Client) Leases(namespace string) Resource[*coordinationv1.Lease, *coordinationv1.LeaseList] {
	return of[coordinationv1.Lease, coordinationv1.LeaseList](c, c.coordination, "leases", namespace)
}

// SigningRequests are requests for certificates.
func (c *Client) SigningRequests() Resource[*certificatesv1.CertificateSigningRequest, *certificatesv1.CertificateSigningRequestList] {
	return of[certificatesv1.CertificateSigningRequest, certificatesv1.CertificateSigningRequestList](c, c.certificates, "certificatesigningrequests", "")
}

// Services are services.
func (c *Client) Services(namespace string) Reader[*corev1.Service, *corev1.ServiceList] {
	return of[corev1.Service, corev1.ServiceList](c, c.core, "services", namespace)
}

// ConfigMaps are ConfigMaps.
func (c *Client) ConfigMaps(namespace string) Reader[*corev1.ConfigMap, *corev1.ConfigMapList] {
	return of[corev1.ConfigMap, corev1.ConfigMapList](c, c.core, "configmaps", namespace)
}

// Secrets are Secrets.
func (c *Client) Secrets(namespace string) Reader[*corev1.Secret, *corev1.SecretList] {
	return of[corev1.Secret, corev1.SecretList](c, c.core, "secrets", namespace)
}

// Claims are PersistentVolumeClaims.
func (c *Client) Claims(namespace string) Reader[*corev1.PersistentVolumeClaim, *corev1.PersistentVolumeClaimList] {
	return of[corev1.PersistentVolumeClaim, corev1.PersistentVolumeClaimList](c, c.core, "persistentvolumeclaims", namespace)
}

// Volumes are PersistentVolumes.
func (c *Client) Volumes() Reader[*corev1.PersistentVolume, *corev1.PersistentVolumeList] {
	return of[corev1.PersistentVolume, corev1.PersistentVolumeList](c, c.core, "persistentvolumes", "")
}

// RuntimeClasses are RuntimeClasses.
func (c *Client) RuntimeClasses() Reader[*nodev1.RuntimeClass, *nodev1.RuntimeClassList] {
	return of[nodev1.RuntimeClass, nodev1.RuntimeClassList](c, c.node, "runtimeclasses", "")
}

// Token implements Server.
func (c *Client) Token(ctx context.Context, namespace, account string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	answer := &authenticationv1.TokenRequest{}
	return answer, c.core.Post().Namespace(namespace).Resource("serviceaccounts").Name(account).SubResource("token").Body(request).Do(ctx).Into(answer)
}

// ReviewToken implements Server.
func (c *Client) ReviewToken(ctx context.Context, review *authenticationv1.TokenReview) (*authenticationv1.TokenReview, error) {
	answer := &authenticationv1.TokenReview{}
	return answer, c.authentication.Post().Resource("tokenreviews").Body(review).Do(ctx).Into(answer)
}

// ReviewAccess implements Server.
func (c *Client) ReviewAccess(ctx context.Context, review *authorizationv1.SubjectAccessReview) (*authorizationv1.SubjectAccessReview, error) {
	answer := &authorizationv1.SubjectAccessReview{}
	return answer, c.authorization.Post().Resource("subjectaccessreviews").Body(review).Do(ctx).Into(answer)
}
