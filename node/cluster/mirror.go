package cluster

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

const (
	sourceAnnotation = "kubernetes.io/config.source" // "api" or none: from the API server
	hashAnnotation   = "kubernetes.io/config.hash"
)

// isStatic says whether a pod comes from a file.
func isStatic(pod *corev1.Pod) bool {
	source := pod.Annotations[sourceAnnotation]
	return source != "" && source != "api" && !isMirror(pod)
}

// hashOf names a version of a static pod.
func hashOf(static *corev1.Pod) string {
	return or(static.Annotations[hashAnnotation], string(static.UID))
}

// mirrorOf is the object that shows a static pod. The owner makes the API server's garbage collector take it away with the node, and admission
// (NodeRestriction) wants it.
func mirrorOf(static *corev1.Pod, node *corev1.Node) *corev1.Pod {
	mirror := static.DeepCopy()
	mirror.ResourceVersion, mirror.UID, mirror.Status = "", "", corev1.PodStatus{}
	mirror.CreationTimestamp = metav1.Time{}
	mirror.Annotations = maps.Clone(static.Annotations)
	if mirror.Annotations == nil {
		mirror.Annotations = map[string]string{}
	}
	mirror.Annotations[mirrorAnnotation] = hashOf(static)
	mirror.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: ptr.To(true),
	}}
	return mirror
}

// reflectStatic makes the mirror of a static pod what it must be: of the pod's newest version, and not being deleted; or gone, with the pod.
func (w *writer) reflectStatic(ctx context.Context, name types.NamespacedName) error {
	w.mu.Lock()
	static := w.statics[name]
	w.mu.Unlock()
	if found := w.table.mirror(name); found != nil {
		if static != nil && found.DeletionTimestamp == nil && found.Annotations[mirrorAnnotation] == hashOf(static) {
			w.queue.Add(task{uid: static.UID})
			return nil
		}
		if err := w.remove(ctx, found); err != nil {
			return fmt.Errorf("deleting mirror pod %s: %w", name, err)
		}
		return nil // the watch shows that it is gone, and the new one is made then
	}
	if static == nil {
		return nil
	}
	node, err := w.node()
	if err != nil {
		w.queue.AddAfter(task{mirror: name}, firstRetry)
		return nil //nolint:nilerr // the node is just being registered
	}
	// The watch shows the new object, and that puts it into the table: the answer may come after somebody has deleted it again.
	_, err = w.client.Pods(name.Namespace).Create(ctx, mirrorOf(static, node), metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err): // the watch will show it, or it is a pod of another node's: nothing to do about that
		w.log.Debug("a pod of a static pod's name exists already", "pod", name)
		return nil
	case err != nil:
		return fmt.Errorf("making mirror pod %s: %w", name, kind(err))
	}
	return nil
}

// mirror has a static pod shown.
func (w *writer) mirror(static *corev1.Pod) {
	w.mu.Lock()
	w.statics[nameOf(static)] = static
	w.mu.Unlock()
	w.queue.Add(task{mirror: nameOf(static)})
}

// unmirror ends that.
func (w *writer) unmirror(static *corev1.Pod) {
	w.mu.Lock()
	if now := w.statics[nameOf(static)]; now == nil || now.UID == static.UID {
		delete(w.statics, nameOf(static))
	}
	delete(w.letters, static.UID)
	w.mu.Unlock()
	w.queue.Add(task{mirror: nameOf(static)})
}

// sweep deletes mirror pods of static pods that nobody knows: their files went while no agent ran.
func (w *writer) sweep() {
	for _, mirror := range w.table.mirrors() {
		w.mu.Lock()
		_, known := w.statics[nameOf(mirror)]
		w.mu.Unlock()
		if !known {
			w.queue.Add(task{mirror: nameOf(mirror)})
		}
	}
}
