package cluster

import (
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// shelf keeps this node's object, and of each service what the environment of containers is made of.
type shelf struct {
	mu       sync.Mutex
	node     *corev1.Node
	services map[types.NamespacedName]*corev1.Service // nil until listed
	list     []*corev1.Service                        // of services; nil when they changed
}

func (s *shelf) theNode() (*corev1.Node, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.node == nil {
		return nil, fmt.Errorf("the API server has not yet told of this node: %w", errdefs.ErrUnavailable)
	}
	return s.node, nil
}

func (s *shelf) setNode(node *corev1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	node.ManagedFields = nil
	s.node = node
}

func (s *shelf) allServices() ([]*corev1.Service, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.services == nil {
		return nil, fmt.Errorf("services have not yet been read at least once, cannot construct envvars: %w", errdefs.ErrUnavailable)
	}
	if s.list == nil {
		s.list = make([]*corev1.Service, 0, len(s.services))
		for _, service := range s.services {
			s.list = append(s.list, service)
		}
	}
	return s.list, nil
}

func (s *shelf) setService(service *corev1.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.services[serviceName(service)], s.list = essence(service), nil
}

func (s *shelf) removeService(service *corev1.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.services, serviceName(service))
	s.list = nil
}

func (s *shelf) replaceServices(services []*corev1.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.services, s.list = make(map[types.NamespacedName]*corev1.Service, len(services)), nil
	for _, service := range services {
		s.services[serviceName(service)] = essence(service)
	}
}

func serviceName(s *corev1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
}

// essence is the little of a service that is kept: there can be thousands.
func essence(s *corev1.Service) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name},
		Spec:       corev1.ServiceSpec{Type: s.Spec.Type, ClusterIP: s.Spec.ClusterIP, Ports: s.Spec.Ports},
	}
}
