package translate

import (
	"maps"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Node is what configurations depend on beside the pod.
type Node struct {
	Name           string
	IPs            []string // for pods in the node's network
	Folder         string   // that the agent serves
	LogDir         string   // e.g. /var/log/pods
	SeccompDir     string   // where Localhost profiles are
	DefaultSeccomp bool     // RuntimeDefault for who asks for nothing, instead of Unconfined
	MemoryCapacity int64    // bytes
	CgroupV2       bool
	DNS            DNS // the node's resolver
}

// Sandbox is the configuration of a pod's sandbox. file is the pod file's name.
func Sandbox(node Node, pod *corev1.Pod, file string, attempt uint32) *criv1.PodSandboxConfig {
	config := &criv1.PodSandboxConfig{
		Metadata:     &criv1.PodSandboxMetadata{Name: pod.Name, Uid: string(pod.UID), Namespace: pod.Namespace, Attempt: attempt},
		LogDirectory: LogDirectory(node.LogDir, pod),
		DnsConfig:    podDNS(node.DNS, pod),
		Labels:       map[string]string{},
		Annotations:  map[string]string{},
		Linux: &criv1.LinuxPodSandboxConfig{
			SecurityContext: sandboxSecurity(node, pod),
			Sysctls:         map[string]string{},
			Overhead:        &criv1.LinuxContainerResources{},
			Resources:       podResources(pod),
		},
	}
	if !pod.Spec.HostNetwork { // else the node's own name, which the runtime knows
		config.Hostname = Hostname(node, pod)
	}
	maps.Copy(config.Labels, pod.Labels)
	maps.Copy(config.Labels, podLabels(node, pod))
	maps.Copy(config.Annotations, pod.Annotations)
	maps.Copy(config.Annotations, map[string]string{AnnotationSource: "file", AnnotationConfigHash: string(pod.UID), AnnotationFile: file})
	for _, sysctl := range pod.Spec.SecurityContext.Sysctls {
		config.Linux.Sysctls[sysctl.Name] = sysctl.Value
	}
	if !pod.Spec.HostNetwork {
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				config.PortMappings = append(config.PortMappings, portMappings(&list[i])...)
			}
		}
	}
	return config
}

func podLabels(node Node, pod *corev1.Pod) map[string]string {
	return map[string]string{
		LabelPodName: pod.Name, LabelPodNamespace: pod.Namespace, LabelPodUID: string(pod.UID), LabelFolder: node.Folder,
	}
}

// portMappings: ports without a host port are of no concern to the runtime, but the kubelet sends them, and so plugins may see them.
func portMappings(c *corev1.Container) []*criv1.PortMapping {
	var found []*criv1.PortMapping
	for _, port := range c.Ports {
		found = append(found, &criv1.PortMapping{
			Protocol:      criv1.Protocol(criv1.Protocol_value[string(port.Protocol)]),
			ContainerPort: port.ContainerPort, HostPort: port.HostPort, HostIp: port.HostIP,
		})
	}
	return found
}

// maxHostname is what sethostname(2) takes less one, as the kubelet cuts it.
const maxHostname = 63

// Hostname is the name that a pod sees as its host's.
func Hostname(node Node, pod *corev1.Pod) string {
	name := pod.Name
	switch {
	case pod.Spec.HostNetwork:
		return node.Name
	case pod.Spec.Hostname != "":
		name = pod.Spec.Hostname
	}
	if len(name) > maxHostname {
		name = name[:maxHostname]
		for name[len(name)-1] == '-' || name[len(name)-1] == '.' {
			name = name[:len(name)-1]
		}
	}
	return name
}

func namespaces(pod *corev1.Pod) *criv1.NamespaceOption {
	option := &criv1.NamespaceOption{Network: criv1.NamespaceMode_POD, Pid: criv1.NamespaceMode_CONTAINER, Ipc: criv1.NamespaceMode_POD}
	if pod.Spec.HostNetwork {
		option.Network = criv1.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		option.Ipc = criv1.NamespaceMode_NODE
	}
	switch {
	case pod.Spec.HostPID:
		option.Pid = criv1.NamespaceMode_NODE
	case pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace:
		option.Pid = criv1.NamespaceMode_POD
	}
	return option
}

func restartCount(attempt uint32) string { return strconv.FormatUint(uint64(attempt), 10) }
