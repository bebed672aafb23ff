package manifest

import (
	"fmt"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Port is the number that a probe's or a hook's port stands for: a number, or the name of one of the container's ports.
func Port(port intstr.IntOrString, c *corev1.Container) (int, error) {
	number := port.IntValue()
	if port.Type == intstr.String {
		number = 0
		for _, p := range c.Ports {
			if p.Name == port.StrVal {
				number = int(p.ContainerPort)
			}
		}
	}
	if len(validation.IsValidPortNum(number)) > 0 {
		return 0, fmt.Errorf("%q is neither a port number nor the name of a port of container %s: %w", port.String(), c.Name, errdefs.ErrInvalidArgument)
	}
	return number, nil
}

// Addresses is what is known of where a pod runs once it has a sandbox.
type Addresses struct {
	Node    string
	NodeIPs []string
	PodIPs  []string
}

// FieldRef is the value of a downward API path. An error is of the kind errdefs.ErrInvalidArgument.
func FieldRef(pod *corev1.Pod, where Addresses, path string) (string, error) {
	if key, ok := subscript(path, "metadata.labels"); ok {
		return pod.Labels[key], nil
	}
	if key, ok := subscript(path, "metadata.annotations"); ok {
		return pod.Annotations[key], nil
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "spec.nodeName":
		return where.Node, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.podIP":
		return first(where.PodIPs), nil
	case "status.podIPs":
		return join(where.PodIPs), nil
	case "status.hostIP":
		return first(where.NodeIPs), nil
	case "status.hostIPs":
		return join(where.NodeIPs), nil
	}
	return "", fmt.Errorf("fieldRef %q is not supported here: %w", path, errdefs.ErrInvalidArgument)
}

// KnownFieldRef says whether FieldRef knows a path.
func KnownFieldRef(path string) bool {
	_, err := FieldRef(&corev1.Pod{}, Addresses{}, path)
	return err == nil
}

// subscript takes KEY out of path['KEY'].
func subscript(path, prefix string) (string, bool) {
	start, end := prefix+"['", "']"
	if len(path) <= len(start)+len(end) || path[:len(start)] != start || path[len(path)-len(end):] != end {
		return "", false
	}
	return path[len(start) : len(path)-len(end)], true
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

func join(list []string) string {
	text := ""
	for i, item := range list {
		if i > 0 {
			text += ","
		}
		text += item
	}
	return text
}
