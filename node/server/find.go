package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/node/translate"
)

// asked answers the pod that a path names, or has told the client that there is none. A UID in the path has to be the pod's; a static pod is asked for
// with its mirror pod's UID, which is another one.
func (s *Server) asked(w http.ResponseWriter, r *http.Request) *corev1.Pod {
	pod, ok := s.Pods.Pod(r.PathValue("namespace"), r.PathValue("pod"))
	if !ok {
		plainError(w, http.StatusNotFound, "pod does not exist")
		return nil
	}
	source, set := pod.Annotations[translate.AnnotationSource]
	static := set && source != "api"
	if uid := types.UID(r.PathValue("uid")); uid != "" && uid != pod.UID && !static {
		plainError(w, http.StatusNotFound, "pod not found")
		return nil
	}
	return pod
}

// running answers the ID of a pod's container that runs; an empty one: none of that name does.
func (s *Server) running(ctx context.Context, pod *corev1.Pod, container string) (string, error) {
	answer, err := s.Runtime.ListContainers(ctx, &criv1.ListContainersRequest{Filter: &criv1.ContainerFilter{
		State:         &criv1.ContainerStateValue{State: criv1.ContainerState_CONTAINER_RUNNING},
		LabelSelector: map[string]string{translate.LabelPodUID: string(pod.UID), translate.LabelContainerName: container},
	}})
	if err != nil {
		return "", fmt.Errorf("looking for container %s: %w", container, err)
	}
	if len(answer.Containers) == 0 {
		return "", nil
	}
	return answer.Containers[0].Id, nil
}

// sandbox answers the ID of a pod's sandbox that is ready; an empty one: it has none.
func (s *Server) sandbox(ctx context.Context, pod *corev1.Pod) (string, error) {
	answer, err := s.Runtime.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{Filter: &criv1.PodSandboxFilter{
		State:         &criv1.PodSandboxStateValue{State: criv1.PodSandboxState_SANDBOX_READY},
		LabelSelector: map[string]string{translate.LabelPodUID: string(pod.UID)},
	}})
	if err != nil {
		return "", fmt.Errorf("looking for the sandbox of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	if len(answer.Items) == 0 {
		return "", nil
	}
	return answer.Items[0].Id, nil
}

// names says whether a pod has a container of that name, of any kind, and whether that has a terminal.
func names(pod *corev1.Pod, container string) (found, tty bool) {
	for _, c := range pod.Spec.Containers {
		if c.Name == container {
			return true, c.TTY
		}
	}
	for _, c := range pod.Spec.InitContainers {
		if c.Name == container {
			return true, c.TTY
		}
	}
	for _, c := range pod.Spec.EphemeralContainers {
		if c.Name == container {
			return true, c.TTY
		}
	}
	return false, false
}

// runtimeError answers what the runtime said to a client, with the code that the kubelet takes for it.
func runtimeError(w http.ResponseWriter, err error) {
	var carrier interface{ GRPCStatus() *status.Status }
	code := codes.Unknown
	if errors.As(err, &carrier) {
		code = carrier.GRPCStatus().Code()
	}
	switch code {
	case codes.NotFound:
		plainError(w, http.StatusNotFound, err.Error())
	case codes.ResourceExhausted:
		w.Header().Set("Retry-After", "60")
		plainError(w, http.StatusTooManyRequests, err.Error())
	default:
		plainError(w, http.StatusInternalServerError, err.Error())
	}
}

// runningPods lists what the runtime runs, whether or not it should: tests compare it with /pods.
func (s *Server) runningPods(w http.ResponseWriter, r *http.Request) {
	answer, err := s.Runtime.ListContainers(r.Context(), &criv1.ListContainersRequest{Filter: &criv1.ContainerFilter{
		State: &criv1.ContainerStateValue{State: criv1.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		runtimeError(w, err)
		return
	}
	found := map[string]*corev1.Pod{}
	var list []*corev1.Pod
	for _, c := range answer.Containers {
		uid := c.Labels[translate.LabelPodUID]
		if uid == "" {
			continue // not a pod's
		}
		pod := found[uid]
		if pod == nil {
			pod = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
				UID: types.UID(uid), Name: c.Labels[translate.LabelPodName], Namespace: c.Labels[translate.LabelPodNamespace],
			}}
			found[uid] = pod
			list = append(list, pod)
		}
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: c.GetMetadata().GetName(), Image: c.GetImage().GetImage()})
	}
	s.podList(w, list)
}
