package eviction

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	podresources "k8s.io/component-helpers/resource"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Limited says whether a pod has a limit of its own on what it keeps on the node's disk: only then that has to be measured.
func Limited(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if limit := emptyDirLimit(&pod.Spec.Volumes[i]); limit != nil {
			return true
		}
	}
	for i := range pod.Spec.Containers {
		if limit := pod.Spec.Containers[i].Resources.Limits[corev1.ResourceEphemeralStorage]; limit.Sign() > 0 {
			return true
		}
	}
	_, ok := podresources.PodLimits(pod, podresources.PodResourcesOptions{})[corev1.ResourceEphemeralStorage]
	return ok
}

func emptyDirLimit(v *corev1.Volume) *resource.Quantity {
	if v.EmptyDir == nil || v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.Sign() <= 0 {
		return nil
	}
	return v.EmptyDir.SizeLimit
}

// OverLimit says which of its own limits a pod exceeds, as the kubelet's message; "": none. What counts against a container's limit is its log
// and, unless images have a file system of their own, what it wrote.
func OverLimit(pod *corev1.Pod, stats *statsv1alpha1.PodStats, dedicatedImageFs bool) string {
	if stats == nil {
		return ""
	}
	used := map[string]int64{}
	for i := range stats.VolumeStats {
		used[stats.VolumeStats[i].Name] = value(stats.VolumeStats[i].UsedBytes)
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if limit := emptyDirLimit(v); limit != nil && used[v.Name] > limit.Value() {
			return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, limit.String())
		}
	}
	limits := podresources.PodLimits(pod, podresources.PodResourcesOptions{})
	if limit, ok := limits[corev1.ResourceEphemeralStorage]; ok && stats.EphemeralStorage != nil && value(stats.EphemeralStorage.UsedBytes) > limit.Value() {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", limit.String())
	}
	for i := range stats.Containers {
		c := &stats.Containers[i]
		sum := int64(0)
		if c.Logs != nil {
			sum += value(c.Logs.UsedBytes)
		}
		if c.Rootfs != nil && !dedicatedImageFs {
			sum += value(c.Rootfs.UsedBytes)
		}
		limit, ok := storageLimit(pod, c.Name)
		if ok && sum > limit.Value() {
			return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, limit.String())
		}
	}
	return ""
}

func storageLimit(pod *corev1.Pod, container string) (resource.Quantity, bool) {
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name == container {
			limit := pod.Spec.Containers[i].Resources.Limits[corev1.ResourceEphemeralStorage]
			return limit, limit.Sign() > 0
		}
	}
	return resource.Quantity{}, false
}
