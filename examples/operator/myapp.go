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

// MyApp is a web application: an image, how many of it, and the port that it listens on.
type MyApp struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   MyAppSpec   `json:"spec"`
	Status MyAppStatus `json:"status,omitempty"`
}

// MyAppSpec is what the user writes. crd.yaml has the defaults and limits.
type MyAppSpec struct {
	Image    string `json:"image"`
	Replicas int32  `json:"replicas"`
	Port     int32  `json:"port"`
}

// MyAppStatus is what the operator saw last.
type MyAppStatus struct {
	Ready   int32  `json:"ready"`
	Address string `json:"address,omitempty"`
}

// DeepCopyObject makes MyApp an object of the API machinery.
func (m *MyApp) DeepCopyObject() runtime.Object {
	copied := *m
	copied.ObjectMeta = *m.ObjectMeta.DeepCopy()
	return &copied
}

// MyAppList is what listing answers.
type MyAppList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []MyApp `json:"items"`
}

// DeepCopyObject makes MyAppList an object of the API machinery.
func (l *MyAppList) DeepCopyObject() runtime.Object {
	copied := *l
	copied.ListMeta = *l.ListMeta.DeepCopy()
	copied.Items = make([]MyApp, len(l.Items))
	for i := range l.Items {
		copied.Items[i] = *l.Items[i].DeepCopyObject().(*MyApp)
	}
	return &copied
}

func addMyApp(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(groupVersion(), &MyApp{}, &MyAppList{})
	metav1.AddToGroupVersion(scheme, groupVersion())
	return nil
}
