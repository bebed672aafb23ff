package cluster

import (
	"context"
	"log/slog"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/shimd/shimd/node/api"
)

// component is who events come from: the kubelet, to all who look for a node agent's events.
const component = "kubelet"

// recorder writes events, one after the other, equal ones counted together.
type recorder struct {
	events record.EventRecorder
	node   string
}

func newRecorder(ctx context.Context, connection *Connection, node string, log *slog.Logger) *recorder {
	broadcaster := record.NewBroadcaster(record.WithContext(klog.NewContext(ctx, logr.FromSlogHandler(log.Handler()))))
	broadcaster.StartRecordingToSink(events{connection.Events})
	return &recorder{
		events: broadcaster.NewRecorder(connection.scheme, corev1.EventSource{Component: component, Host: node}), node: node,
	}
}

func (r *recorder) pod(pod *corev1.Pod, field, kind, reason, message string) {
	r.events.Event(&corev1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion, FieldPath: field,
	}, kind, reason, message)
}

func (r *recorder) onNode(kind, reason, message string) {
	r.events.Event(&corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: r.node, UID: types.UID(r.node)}, kind, reason, message)
}

// events writes them; the recorder's interface has no contexts, and ends by itself.
type events struct{ server api.Server }

var _ record.EventSink = events{}

func (e events) Create(event *corev1.Event) (*corev1.Event, error) {
	return e.server.Events(event.Namespace).Create(context.Background(), event, metav1.CreateOptions{})
}

func (e events) Update(event *corev1.Event) (*corev1.Event, error) {
	return e.server.Events(event.Namespace).Update(context.Background(), event, metav1.UpdateOptions{})
}

func (e events) Patch(event *corev1.Event, data []byte) (*corev1.Event, error) {
	return e.server.Events(event.Namespace).Patch(context.Background(), event.Name, types.StrategicMergePatchType, data, metav1.PatchOptions{})
}
