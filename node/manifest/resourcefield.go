package manifest

import (
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
)

// ResourceFieldRef is the value of a resourceFieldRef: of the container that it names or, where it names none, of the given one. A container
// without a limit may take what the node has, so its limit is what allocatable answers; that is asked only then. An error of the pod's is of
// the kind errdefs.ErrInvalidArgument.
func ResourceFieldRef(pod *corev1.Pod, ref *corev1.ResourceFieldSelector, container string, allocatable func() (corev1.ResourceList, error)) (string, error) {
	if ref.ContainerName != "" {
		container = ref.ContainerName
	}
	c := namedContainer(pod, container)
	if c == nil {
		return "", fmt.Errorf("resourceFieldRef %s: there is no container %q: %w", ref.Resource, container, errdefs.ErrInvalidArgument)
	}
	kind, name, _ := strings.Cut(ref.Resource, ".")
	list, resourceName := c.Resources.Requests, corev1.ResourceName(name)
	huge := strings.HasPrefix(name, corev1.ResourceHugePagesPrefix)
	known := huge || resourceName == corev1.ResourceCPU || resourceName == corev1.ResourceMemory || resourceName == corev1.ResourceEphemeralStorage
	if !known || kind != "limits" && kind != "requests" {
		return "", fmt.Errorf("resourceFieldRef %q is not a resource of a container: %w", ref.Resource, errdefs.ErrInvalidArgument)
	}
	if kind == "limits" {
		list = c.Resources.Limits
	}
	value := list[resourceName]
	if kind == "limits" && value.IsZero() && !huge { // huge pages are never lent
		all, err := allocatable()
		if err != nil {
			return "", fmt.Errorf("resourceFieldRef %s: container %s has no limit, and what the node has is not known: %w", ref.Resource, container, err)
		}
		value = all[resourceName]
	}
	return divide(value, ref.Divisor, resourceName == corev1.ResourceCPU), nil
}

func namedContainer(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// divide rounds up, as documented.
func divide(value, divisor resource.Quantity, milli bool) string {
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	a, b := value.Value(), divisor.Value()
	if milli {
		a, b = value.MilliValue(), divisor.MilliValue()
	}
	return strconv.FormatInt(int64(math.Ceil(float64(a)/float64(b))), 10)
}

// VolumeFieldRef is the value of a downward API path as the file of a volume: metadata alone, labels and annotations also as a whole.
func VolumeFieldRef(pod *corev1.Pod, path string) (string, error) {
	if key, ok := subscript(path, "metadata.labels"); ok && len(validation.IsQualifiedName(key)) == 0 {
		return pod.Labels[key], nil
	}
	if key, ok := subscript(path, "metadata.annotations"); ok && len(validation.IsQualifiedName(strings.ToLower(key))) == 0 {
		return pod.Annotations[key], nil
	}
	switch path {
	case "metadata.labels":
		return lines(pod.Labels), nil
	case "metadata.annotations":
		return lines(pod.Annotations), nil
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	}
	return "", fmt.Errorf("fieldRef %q is not a field that a volume can show: %w", path, errdefs.ErrInvalidArgument)
}

// lines are a map's pairs, key="value", sorted.
func lines(pairs map[string]string) string {
	found := make([]string, 0, len(pairs))
	for key, value := range pairs {
		found = append(found, key+"="+strconv.Quote(value))
	}
	sort.Strings(found)
	return strings.Join(found, "\n")
}
