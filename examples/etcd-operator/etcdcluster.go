package main

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// groupVersion is what crd.yaml defines.
func groupVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: "example.com", Version: "v1"}
}

// EtcdCluster is a number of etcd members that hold the same data.
type EtcdCluster struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   EtcdClusterSpec   `json:"spec"`
	Status EtcdClusterStatus `json:"status,omitempty"`
}

// EtcdClusterSpec is what the user writes.
type EtcdClusterSpec struct {
	Size  int    `json:"size"`
	Image string `json:"image"`
}

// EtcdClusterStatus is what the operator saw last.
type EtcdClusterStatus struct {
	// Started is set before the first member is made and never unset: when all members are gone, so is the data, and an empty cluster must
	// not stand in for it.
	Started bool   `json:"started,omitempty"`
	Members int    `json:"members"` // of the etcd cluster
	Ready   int    `json:"ready"`   // of them, those that answer
	Message string `json:"message,omitempty"`
}

// DeepCopyObject makes EtcdCluster an object of the API machinery.
func (c *EtcdCluster) DeepCopyObject() runtime.Object {
	copied := *c
	copied.ObjectMeta = *c.ObjectMeta.DeepCopy()
	return &copied
}

// EtcdClusterList is what listing answers.
type EtcdClusterList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []EtcdCluster `json:"items"`
}

// DeepCopyObject makes EtcdClusterList an object of the API machinery.
func (l *EtcdClusterList) DeepCopyObject() runtime.Object {
	copied := *l
	copied.ListMeta = *l.ListMeta.DeepCopy()
	copied.Items = make([]EtcdCluster, len(l.Items))
	for i := range l.Items {
		copied.Items[i] = *l.Items[i].DeepCopyObject().(*EtcdCluster)
	}
	return &copied
}

func addEtcdCluster(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(groupVersion(), &EtcdCluster{}, &EtcdClusterList{})
	metav1.AddToGroupVersion(scheme, groupVersion())
	return nil
}
