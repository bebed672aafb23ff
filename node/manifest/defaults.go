package manifest

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// setDefaults fills in what an API server would, for the fields that are honoured here (pkg/apis/core/v1/defaults.go of Kubernetes).
func setDefaults(pod *corev1.Pod) {
	if pod.Namespace == "" {
		pod.Namespace = corev1.NamespaceDefault
	}
	spec := &pod.Spec
	setString(&spec.RestartPolicy, corev1.RestartPolicyAlways)
	setString(&spec.DNSPolicy, corev1.DNSClusterFirst)
	setPointer(&spec.TerminationGracePeriodSeconds, corev1.DefaultTerminationGracePeriodSeconds)
	if spec.SecurityContext == nil {
		spec.SecurityContext = &corev1.PodSecurityContext{}
	}
	for i := range spec.InitContainers {
		setContainerDefaults(&spec.InitContainers[i], spec.HostNetwork)
	}
	for i := range spec.Containers {
		setContainerDefaults(&spec.Containers[i], spec.HostNetwork)
	}
	for i := range spec.Volumes {
		volume := &spec.Volumes[i]
		if volume.VolumeSource == (corev1.VolumeSource{}) {
			volume.EmptyDir = &corev1.EmptyDirVolumeSource{}
		}
		if volume.HostPath != nil {
			setPointer(&volume.HostPath.Type, corev1.HostPathUnset)
		}
	}
}

func setContainerDefaults(c *corev1.Container, hostNetwork bool) {
	setString(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	setString(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	if c.ImagePullPolicy == "" {
		c.ImagePullPolicy = defaultPullPolicy(c.Image)
	}
	for i := range c.Ports {
		setString(&c.Ports[i].Protocol, corev1.ProtocolTCP)
		if hostNetwork && c.Ports[i].HostPort == 0 {
			c.Ports[i].HostPort = c.Ports[i].ContainerPort
		}
	}
	for i := range c.Env {
		if from := c.Env[i].ValueFrom; from != nil && from.FieldRef != nil {
			setString(&from.FieldRef.APIVersion, "v1")
		}
	}
	for name, limit := range c.Resources.Limits {
		if _, ok := c.Resources.Requests[name]; !ok {
			if c.Resources.Requests == nil {
				c.Resources.Requests = corev1.ResourceList{}
			}
			c.Resources.Requests[name] = limit.DeepCopy()
		}
	}
	for _, probe := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		setProbeDefaults(probe)
	}
	if c.Lifecycle != nil {
		for _, hook := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if hook != nil {
				setHTTPDefaults(hook.HTTPGet)
			}
		}
	}
}

func setProbeDefaults(probe *corev1.Probe) {
	if probe == nil {
		return
	}
	setNumber(&probe.TimeoutSeconds, 1)
	setNumber(&probe.PeriodSeconds, 10)
	setNumber(&probe.SuccessThreshold, 1)
	setNumber(&probe.FailureThreshold, 3)
	setHTTPDefaults(probe.HTTPGet)
	if probe.GRPC != nil {
		setPointer(&probe.GRPC.Service, "")
	}
}

func setHTTPDefaults(get *corev1.HTTPGetAction) {
	if get != nil {
		setString(&get.Path, "/")
		setString(&get.Scheme, corev1.URISchemeHTTP)
	}
}

// defaultPullPolicy is Always for what may change under its name: the tag "latest", written or implied.
func defaultPullPolicy(image string) corev1.PullPolicy {
	if strings.Contains(image, "@") {
		return corev1.PullIfNotPresent
	}
	name := image[strings.LastIndexByte(image, '/')+1:]
	_, tag, tagged := strings.Cut(name, ":")
	if !tagged || tag == "latest" {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}

func setString[T ~string](field *T, value T) {
	if *field == "" {
		*field = value
	}
}

func setNumber(field *int32, value int32) {
	if *field == 0 {
		*field = value
	}
}

func setPointer[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}
