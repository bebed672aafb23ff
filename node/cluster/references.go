package cluster

import (
	corev1 "k8s.io/api/core/v1"
)

// reference names a ConfigMap or Secret.
type reference struct {
	secret          bool
	namespace, name string
}

// references lists what a pod refers to, each once. What a PersistentVolume of its refers to is not followed.
func references(pod *corev1.Pod) map[reference]struct{} {
	found := map[reference]struct{}{}
	add := func(secret bool, name string) {
		if name != "" {
			found[reference{secret, pod.Namespace, name}] = struct{}{}
		}
	}
	for _, s := range pod.Spec.ImagePullSecrets {
		add(true, s.Name)
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		environment(c.EnvFrom, c.Env, add)
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		environment(c.EnvFrom, c.Env, add)
	}
	for i := range pod.Spec.EphemeralContainers {
		c := &pod.Spec.EphemeralContainers[i]
		environment(c.EnvFrom, c.Env, add)
	}
	for i := range pod.Spec.Volumes {
		inVolume(&pod.Spec.Volumes[i], add)
	}
	return found
}

func environment(from []corev1.EnvFromSource, env []corev1.EnvVar, add func(bool, string)) {
	for _, e := range from {
		if e.ConfigMapRef != nil {
			add(false, e.ConfigMapRef.Name)
		}
		if e.SecretRef != nil {
			add(true, e.SecretRef.Name)
		}
	}
	for _, e := range env {
		if e.ValueFrom == nil {
			continue
		}
		if e.ValueFrom.ConfigMapKeyRef != nil {
			add(false, e.ValueFrom.ConfigMapKeyRef.Name)
		}
		if e.ValueFrom.SecretKeyRef != nil {
			add(true, e.ValueFrom.SecretKeyRef.Name)
		}
	}
}

func inVolume(v *corev1.Volume, add func(bool, string)) {
	if v.ConfigMap != nil {
		add(false, v.ConfigMap.Name)
	}
	if v.Secret != nil {
		add(true, v.Secret.SecretName)
	}
	if v.CSI != nil && v.CSI.NodePublishSecretRef != nil {
		add(true, v.CSI.NodePublishSecretRef.Name)
	}
	if v.Projected == nil {
		return
	}
	for _, s := range v.Projected.Sources {
		if s.ConfigMap != nil {
			add(false, s.ConfigMap.Name)
		}
		if s.Secret != nil {
			add(true, s.Secret.Name)
		}
	}
}
