package translate

import (
	"maps"
	"net/netip"
	"slices"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/runtime/request"
)

// hostNameMax is the longest host name the kernel takes (__NEW_UTS_LEN).
const hostNameMax = 64

// Sandbox translates RunPodSandbox.
func Sandbox(req *criv1.RunPodSandboxRequest) (request.Sandbox, error) {
	c := &check{}
	cfg := req.GetConfig()
	if cfg == nil {
		c.refuse("config", "is required")
		return request.Sandbox{}, c.err()
	}
	linux := cfg.GetLinux()
	sec := linux.GetSecurityContext()
	const ctx = "config.linux.security_context"

	out := request.Sandbox{
		Metadata:       c.sandboxMetadata("config.metadata", cfg.GetMetadata()),
		Hostname:       c.hostname("config.hostname", cfg.GetHostname()),
		LogDirectory:   c.logDirectory("config.log_directory", cfg.GetLogDirectory()),
		DNS:            c.dns("config.dns_config", cfg.GetDnsConfig()),
		Labels:         maps.Clone(cfg.GetLabels()),
		Annotations:    maps.Clone(cfg.GetAnnotations()),
		CgroupParent:   c.cgroupParent("config.linux.cgroup_parent", linux.GetCgroupParent()),
		Namespaces:     c.namespaces(ctx+".namespace_options", sec.GetNamespaceOptions(), false),
		SELinux:        c.selinux(ctx+".selinux_options", sec.GetSelinuxOptions()),
		Privileged:     sec.GetPrivileged(),
		Overhead:       c.resources("config.linux.overhead", linux.GetOverhead()),
		Resources:      c.resources("config.linux.resources", linux.GetResources()),
		RuntimeHandler: req.GetRuntimeHandler(),
	}
	out.Sysctls = c.sysctls("config.linux.sysctls", linux.GetSysctls(), out.Namespaces)
	out.PortMappings = c.portMappings("config.port_mappings", cfg.GetPortMappings())
	if out.Namespaces.Network == request.NamespaceNode {
		out.PortMappings = nil // its ports are the host's already
	}
	c.sandboxProcess(ctx, sec)
	if cfg.GetWindows() != nil {
		c.refuse("config.windows", "this is a Linux runtime")
	}
	c.word("runtime_handler", req.GetRuntimeHandler())
	return out, c.err()
}

func (c *check) sandboxMetadata(field string, m *criv1.PodSandboxMetadata) request.SandboxMetadata {
	if m == nil {
		c.refuse(field, "is required")
		return request.SandboxMetadata{}
	}
	for _, part := range []struct{ name, value string }{{".name", m.GetName()}, {".namespace", m.GetNamespace()}, {".uid", m.GetUid()}} {
		c.required(field+part.name, part.value)
		c.line(field+part.name, part.value)
	}
	return request.SandboxMetadata{Name: m.GetName(), Namespace: m.GetNamespace(), UID: m.GetUid(), Attempt: m.GetAttempt()}
}

func (c *check) hostname(field, name string) string {
	if len(name) > hostNameMax {
		c.refuse(field, "is longer than %d bytes", hostNameMax)
	}
	// It is written to /etc/hosts: a newline would add a line there.
	c.word(field, name)
	return name
}

func (c *check) logDirectory(field, dir string) string {
	if dir == "" {
		return ""
	}
	c.absolute(field, dir)
	if hasDotDot(dir) {
		c.refuse(field, "%q contains \"..\"", dir)
	}
	return dir
}

func (c *check) cgroupParent(field, parent string) string {
	if hasDotDot(parent) {
		c.refuse(field, "%q contains \"..\"", parent)
	}
	c.word(field, parent)
	return parent
}

// dns refuses what would add lines to resolv.conf.
func (c *check) dns(field string, d *criv1.DNSConfig) *request.DNSConfig {
	if d == nil {
		return nil
	}
	for i, server := range d.GetServers() {
		if _, err := netip.ParseAddr(server); err != nil {
			c.refuse(item(field+".servers", i), "%q is not an IP address", server)
		}
		c.word(item(field+".servers", i), server)
	}
	for i, search := range d.GetSearches() {
		c.required(item(field+".searches", i), search)
		c.word(item(field+".searches", i), search)
	}
	for i, option := range d.GetOptions() {
		c.required(item(field+".options", i), option)
		c.word(item(field+".options", i), option)
	}
	return &request.DNSConfig{Servers: slices.Clone(d.GetServers()), Searches: slices.Clone(d.GetSearches()), Options: slices.Clone(d.GetOptions())}
}

func (c *check) portMappings(field string, in []*criv1.PortMapping) []request.PortMapping {
	var out []request.PortMapping
	for i, m := range in {
		f := item(field, i)
		pm := request.PortMapping{ContainerPort: m.GetContainerPort(), HostPort: m.GetHostPort(), HostIP: m.GetHostIp()}
		switch m.GetProtocol() {
		case criv1.Protocol_TCP:
			pm.Protocol = "tcp"
		case criv1.Protocol_UDP:
			pm.Protocol = "udp"
		case criv1.Protocol_SCTP:
			pm.Protocol = "sctp"
		default:
			c.refuse(f+".protocol", "unknown value %d", m.GetProtocol())
		}
		lowest := int64(0)
		if pm.HostPort != 0 {
			lowest = 1 // a published port needs somewhere to go
		}
		c.between(f+".container_port", int64(pm.ContainerPort), lowest, 65535)
		c.between(f+".host_port", int64(pm.HostPort), 0, 65535)
		if pm.HostIP != "" {
			if _, err := netip.ParseAddr(pm.HostIP); err != nil {
				c.refuse(f+".host_ip", "%q is not an IP address", pm.HostIP)
			}
		}
		out = append(out, pm)
	}
	return out
}

// sandboxProcess checks the fields that describe a sandbox's own process. There is none here (or one that only waits), so they
// have nothing to act on; what contradicts itself is refused all the same.
func (c *check) sandboxProcess(ctx string, sec *criv1.LinuxSandboxSecurityContext) {
	c.id(ctx+".run_as_user", sec.GetRunAsUser())
	c.id(ctx+".run_as_group", sec.GetRunAsGroup())
	if sec.GetRunAsGroup() != nil && sec.GetRunAsUser() == nil {
		c.refuse(ctx+".run_as_group", "needs run_as_user")
	}
	c.groups(ctx+".supplemental_groups", sec.GetSupplementalGroups())
	c.groupsPolicy(ctx+".supplemental_groups_policy", sec.GetSupplementalGroupsPolicy())
	c.profile(ctx+".seccomp", sec.GetSeccomp(), ctx+".seccomp_profile_path", sec.GetSeccompProfilePath(), true) //nolint:staticcheck // deprecated, and still honoured
	c.profile(ctx+".apparmor", sec.GetApparmor(), "", "", false)
}
