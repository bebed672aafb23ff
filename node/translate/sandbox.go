package translate

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Node is what configurations depend on beside the pod.
type Node struct {
	Name           string
	IPs            []string // for pods in the node's network
	Owner          string   // whose pods they are: OwnerFolder or OwnerNode
	LogDir         string   // e.g. /var/log/pods
	LogLinks       string   // where links to logs are made, by the names of pods and containers; empty: nowhere
	SeccompDir     string   // where Localhost profiles are
	DefaultSeccomp bool     // RuntimeDefault for who asks for nothing, instead of Unconfined
	MemoryCapacity int64    // bytes
	Capacity       corev1.ResourceList
	CgroupV2       bool
	DNS            DNS      // the node's resolver
	ClusterDNS     []string // servers of the cluster
	ClusterDomain  string
}

// OwnerFolder is the owner of pods of an agent without an API server.
func OwnerFolder(folder string) string { return folder }

// OwnerNode is the owner of pods of a node of a cluster.
func OwnerNode(name string) string { return "node:" + name }

// Place is what was prepared for a sandbox.
type Place struct {
	File         string // the pod file's name; empty: it comes from the API server
	Attempt      uint32
	CgroupParent string // empty: the runtime's
	UserNS       *criv1.UserNamespace
}

// Sandbox is the configuration of a pod's sandbox. An error is of the kind errdefs.ErrInvalidArgument.
func Sandbox(node Node, pod *corev1.Pod, place Place) (*criv1.PodSandboxConfig, error) {
	config := &criv1.PodSandboxConfig{
		Metadata:     &criv1.PodSandboxMetadata{Name: pod.Name, Uid: string(pod.UID), Namespace: pod.Namespace, Attempt: place.Attempt},
		LogDirectory: LogDirectory(node.LogDir, pod),
		DnsConfig:    podDNS(node, pod),
		Labels:       map[string]string{},
		Annotations:  map[string]string{},
		Linux: &criv1.LinuxPodSandboxConfig{
			CgroupParent:    place.CgroupParent,
			SecurityContext: sandboxSecurity(node, pod, place.UserNS),
			Sysctls:         map[string]string{},
			Overhead:        overhead(pod),
			Resources:       podResources(pod),
		},
	}
	if !pod.Spec.HostNetwork { // else the node's own name, which the runtime knows
		var err error
		if config.Hostname, err = SandboxHostname(node, pod); err != nil {
			return nil, err
		}
	}
	maps.Copy(config.Labels, pod.Labels)
	maps.Copy(config.Labels, podLabels(node, pod))
	maps.Copy(config.Annotations, pod.Annotations)
	if place.File != "" {
		maps.Copy(config.Annotations, map[string]string{AnnotationSource: "file", AnnotationConfigHash: string(pod.UID), AnnotationFile: place.File})
	} else {
		config.Annotations[AnnotationSource] = "api"
	}
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
	return config, nil
}

func podLabels(node Node, pod *corev1.Pod) map[string]string {
	return map[string]string{
		LabelPodName: pod.Name, LabelPodNamespace: pod.Namespace, LabelPodUID: string(pod.UID), LabelOwner: node.Owner,
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

// maxHostname is what sethostname(2) takes less one, as the kubelet cuts it; maxFQDN is what it takes.
const (
	maxHostname = 63
	maxFQDN     = 64
)

// Hostname is the name that a pod sees as its host's, and the domain that goes with it.
func Hostname(node Node, pod *corev1.Pod) (name, domain string) {
	name = pod.Name
	switch {
	case pod.Spec.HostNetwork:
		return node.Name, ""
	case pod.Spec.HostnameOverride != nil:
		return shortHostname(*pod.Spec.HostnameOverride), ""
	case pod.Spec.Hostname != "":
		name = pod.Spec.Hostname
	}
	if pod.Spec.Subdomain != "" {
		domain = pod.Spec.Subdomain + "." + pod.Namespace + ".svc." + node.ClusterDomain
	}
	return shortHostname(name), domain
}

func shortHostname(name string) string {
	if len(name) <= maxHostname {
		return name
	}
	return strings.TrimRight(name[:maxHostname], "-.")
}

// SandboxHostname is the name that the kernel is told: with the domain, where the pod asks for that.
func SandboxHostname(node Node, pod *corev1.Pod) (string, error) {
	name, domain := Hostname(node, pod)
	if domain == "" || pod.Spec.SetHostnameAsFQDN == nil || !*pod.Spec.SetHostnameAsFQDN {
		return name, nil
	}
	full := name + "." + domain
	if len(full) > maxFQDN {
		return "", fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (%d characters is the max, %d characters requested): %w",
			full, maxFQDN, len(full), errdefs.ErrInvalidArgument)
	}
	return full, nil
}

func namespaces(pod *corev1.Pod, users *criv1.UserNamespace) *criv1.NamespaceOption {
	option := &criv1.NamespaceOption{Network: criv1.NamespaceMode_POD, Pid: criv1.NamespaceMode_CONTAINER, Ipc: criv1.NamespaceMode_POD, UsernsOptions: users}
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
