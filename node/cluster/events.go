package cluster

import (
	"context"
	"log/slog"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
)

// component is who events come from: the kubelet, to all who look for a node agent's events.
const component = "kubelet"

// recorder writes events, one after the other, equal ones counted together.
type recorder struct {
	events record.EventRecorder
	node   string
}

func newRecorder(ctx context.Context, client typedcorev1.EventsGetter, node string, log *slog.Logger) *recorder {
	broadcaster := record.NewBroadcaster(record.WithContext(klog.NewContext(ctx, logr.FromSlogHandler(log.Handler()))))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.Events("")})
	return &recorder{
		events: broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component, Host: node}), node: node,
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
