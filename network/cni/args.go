package cni

import (
	"math"

	"github.com/containernetworking/cni/libcni"

	"github.com/shimd/shimd/network/attachment"
)

// The shapes of capability arguments, as in CNI's CONVENTIONS.md.
type (
	portMapping struct {
		HostPort      int32  `json:"hostPort"`
		ContainerPort int32  `json:"containerPort"`
		Protocol      string `json:"protocol"`
		HostIP        string `json:"hostIP,omitempty"`
	}
	bandwidth struct {
		IngressRate  uint64 `json:"ingressRate,omitempty"`
		IngressBurst uint64 `json:"ingressBurst,omitempty"`
		EgressRate   uint64 `json:"egressRate,omitempty"`
		EgressBurst  uint64 `json:"egressBurst,omitempty"`
	}
	dns struct {
		Servers  []string `json:"servers,omitempty"`
		Searches []string `json:"searches,omitempty"`
		Options  []string `json:"options,omitempty"`
	}
)

// podInterface is the name of the interface that is the pod's.
const podInterface = "eth0"

// runtimeConf says what plugins are told about a sandbox. It is pure. Which capabilities a plugin gets, libcni decides by the plugin's configuration.
func runtimeConf(req attachment.Request) (*libcni.RuntimeConf, error) {
	rt := &libcni.RuntimeConf{
		ContainerID: req.ID,
		NetNS:       req.NetNSPath,
		IfName:      podInterface,
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", req.Namespace},
			{"K8S_POD_NAME", req.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", req.ID},
			{"K8S_POD_UID", req.UID},
		},
		CapabilityArgs: map[string]any{},
	}
	var ports []portMapping
	for _, p := range req.PortMappings {
		if p.HostPort == 0 {
			continue
		}
		m := portMapping{HostPort: int32(p.HostPort), ContainerPort: int32(p.ContainerPort), Protocol: p.Protocol}
		if p.HostIP.IsValid() {
			m.HostIP = p.HostIP.String()
		}
		ports = append(ports, m)
	}
	if len(ports) > 0 {
		rt.CapabilityArgs["portMappings"] = ports
	}
	limits, err := attachment.BandwidthOf(req.Annotations)
	if err != nil {
		return nil, err
	}
	if limits != (attachment.Bandwidth{}) {
		b := bandwidth{IngressRate: limits.Ingress, EgressRate: limits.Egress}
		if b.IngressRate > 0 {
			b.IngressBurst = math.MaxUint32 // as containerd and CRI-O say; the plugin turns bits into bytes
		}
		if b.EgressRate > 0 {
			b.EgressBurst = math.MaxUint32
		}
		rt.CapabilityArgs["bandwidth"] = b
	}
	if d := req.DNS; d != nil {
		rt.CapabilityArgs["dns"] = dns{d.Servers, d.Searches, d.Options}
	}
	if req.CgroupParent != "" {
		rt.CapabilityArgs["cgroupPath"] = req.CgroupParent
	}
	if len(req.Annotations) > 0 {
		rt.CapabilityArgs["io.kubernetes.cri.pod-annotations"] = req.Annotations
	}
	return rt, nil
}

// hostPorts lists what a sandbox wants of the host, to find conflicts that plugins don't: portmap lets the last one win.
func hostPorts(ports []attachment.PortMapping) (out []portMapping) {
	for _, p := range ports {
		if p.HostPort == 0 {
			continue
		}
		addr := ""
		if p.HostIP.IsValid() && !p.HostIP.IsUnspecified() {
			addr = p.HostIP.Unmap().String()
		}
		out = append(out, portMapping{HostPort: int32(p.HostPort), Protocol: p.Protocol, HostIP: addr})
	}
	return out
}

func conflict(a, b portMapping) bool {
	return a.HostPort == b.HostPort && a.Protocol == b.Protocol && (a.HostIP == b.HostIP || a.HostIP == "" || b.HostIP == "")
}
