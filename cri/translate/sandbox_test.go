package translate

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/runtime/request"
)

// kubeletSandbox is a request that uses everything, the way that the kubelet fills it in.
func kubeletSandbox() *criv1.RunPodSandboxRequest {
	return &criv1.RunPodSandboxRequest{
		RuntimeHandler: "runc",
		Config: &criv1.PodSandboxConfig{
			Metadata:     &criv1.PodSandboxMetadata{Name: "web-0", Namespace: "prod", Uid: "u1", Attempt: 2},
			Hostname:     "web-0",
			LogDirectory: "/var/log/pods/prod_web-0_u1",
			DnsConfig:    &criv1.DNSConfig{Servers: []string{"10.96.0.10", "fd00::a"}, Searches: []string{"prod.svc.cluster.local"}, Options: []string{"ndots:5"}},
			PortMappings: []*criv1.PortMapping{
				{Protocol: criv1.Protocol_TCP, ContainerPort: 80, HostPort: 8080, HostIp: "127.0.0.1"},
				{Protocol: criv1.Protocol_SCTP, ContainerPort: 90},
			},
			Labels:      map[string]string{"app": "web"},
			Annotations: map[string]string{"note": "a\nb"},
			Linux: &criv1.LinuxPodSandboxConfig{
				CgroupParent: "/kubepods/burstable/podu1",
				SecurityContext: &criv1.LinuxSandboxSecurityContext{
					NamespaceOptions: &criv1.NamespaceOption{
						Pid: criv1.NamespaceMode_CONTAINER,
						UsernsOptions: &criv1.UserNamespace{
							Uids: []*criv1.IDMapping{{HostId: 65536, ContainerId: 0, Length: 65536}},
							Gids: []*criv1.IDMapping{{HostId: 65536, ContainerId: 0, Length: 65536}},
						},
					},
					SelinuxOptions: &criv1.SELinuxOption{User: "u", Role: "r", Type: "t", Level: "s0:c1,c2"},
					RunAsUser:      &criv1.Int64Value{Value: 65535},
					RunAsGroup:     &criv1.Int64Value{Value: 65535},
					Privileged:     true,
					Seccomp:        &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_RuntimeDefault},
				},
				Sysctls:   map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "kernel/shm_rmid_forced": "1"},
				Overhead:  &criv1.LinuxContainerResources{MemoryLimitInBytes: 1 << 20},
				Resources: &criv1.LinuxContainerResources{CpuShares: 100, HugepageLimits: []*criv1.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}}},
			},
		},
	}
}

func TestSandbox(t *testing.T) {
	got, err := Sandbox(kubeletSandbox())
	if err != nil {
		t.Fatal(err)
	}
	ids := []request.IDMapping{{HostID: 65536, ContainerID: 0, Length: 65536}}
	want := request.Sandbox{
		Metadata:     request.SandboxMetadata{Name: "web-0", Namespace: "prod", UID: "u1", Attempt: 2},
		Hostname:     "web-0",
		LogDirectory: "/var/log/pods/prod_web-0_u1",
		DNS:          &request.DNSConfig{Servers: []string{"10.96.0.10", "fd00::a"}, Searches: []string{"prod.svc.cluster.local"}, Options: []string{"ndots:5"}},
		PortMappings: []request.PortMapping{
			{Protocol: "tcp", ContainerPort: 80, HostPort: 8080, HostIP: "127.0.0.1"},
			{Protocol: "sctp", ContainerPort: 90},
		},
		Labels:       map[string]string{"app": "web"},
		Annotations:  map[string]string{"note": "a\nb"},
		CgroupParent: "/kubepods/burstable/podu1",
		Sysctls:      map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "kernel.shm_rmid_forced": "1"},
		Namespaces: request.Namespaces{Network: request.NamespacePod, PID: request.NamespaceContainer, IPC: request.NamespacePod,
			User: &request.UserNamespace{UIDs: ids, GIDs: ids}},
		SELinux:        request.SELinuxLabel{User: "u", Role: "r", Type: "t", Level: "s0:c1,c2"},
		Privileged:     true,
		Overhead:       &request.Resources{MemoryLimit: 1 << 20},
		Resources:      &request.Resources{CPUShares: 100, HugepageLimits: []request.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}}},
		RuntimeHandler: "runc",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSmallestSandbox(t *testing.T) {
	got, err := Sandbox(&criv1.RunPodSandboxRequest{Config: &criv1.PodSandboxConfig{Metadata: &criv1.PodSandboxMetadata{Name: "a", Namespace: "b", Uid: "c"}}})
	if err != nil {
		t.Fatal(err)
	}
	want := request.Sandbox{
		Metadata:   request.SandboxMetadata{Name: "a", Namespace: "b", UID: "c"},
		Namespaces: request.Namespaces{Network: request.NamespacePod, PID: request.NamespacePod, IPC: request.NamespacePod},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestHostNetworkHasNoPortMappings(t *testing.T) {
	req := kubeletSandbox()
	req.Config.Linux.Sysctls = nil
	req.Config.Linux.SecurityContext.NamespaceOptions = &criv1.NamespaceOption{Network: criv1.NamespaceMode_NODE}
	got, err := Sandbox(req)
	if err != nil || got.PortMappings != nil {
		t.Errorf("ports are %v, %v", got.PortMappings, err)
	}
}

// wantRefusal expects an error of kind ErrInvalidArgument that names the field.
func wantRefusal(t *testing.T, err error, field string) {
	t.Helper()
	switch {
	case err == nil:
		t.Errorf("accepted, want a refusal of %s", field)
	case !errdefs.IsInvalidArgument(err):
		t.Errorf("error %v is not of kind invalid argument", err)
	case !strings.Contains(err.Error(), field+":") && !strings.Contains(err.Error(), field+" ("):
		t.Errorf("error %q does not name %s", err, field)
	}
}

func TestSandboxRefusals(t *testing.T) {
	type cfg = criv1.PodSandboxConfig
	const sec = "config.linux.security_context"
	val := func(n int64) *criv1.Int64Value { return &criv1.Int64Value{Value: n} }
	security := func(c *cfg) *criv1.LinuxSandboxSecurityContext { return c.Linux.SecurityContext }
	ns := func(c *cfg) *criv1.NamespaceOption { return c.Linux.SecurityContext.NamespaceOptions }
	for _, c := range []struct {
		field string
		spoil func(*cfg)
	}{
		{"config.metadata", func(c *cfg) { c.Metadata = nil }},
		{"config.metadata.name", func(c *cfg) { c.Metadata.Name = "" }},
		{"config.metadata.name", func(c *cfg) { c.Metadata.Name = "a\nb" }},
		{"config.metadata.uid", func(c *cfg) { c.Metadata.Uid = "" }},
		{"config.metadata.namespace", func(c *cfg) { c.Metadata.Namespace = "" }},
		{"config.hostname", func(c *cfg) { c.Hostname = strings.Repeat("x", 65) }},
		{"config.hostname", func(c *cfg) { c.Hostname = "a\n6.6.6.6 bank.example" }},
		{"config.hostname", func(c *cfg) { c.Hostname = "a b" }},
		{"config.log_directory", func(c *cfg) { c.LogDirectory = "logs" }},
		{"config.log_directory", func(c *cfg) { c.LogDirectory = "/var/log/../../etc" }},
		{"config.log_directory", func(c *cfg) { c.LogDirectory = "/" + strings.Repeat("x", 4096) }},
		{"config.dns_config.servers[0]", func(c *cfg) { c.DnsConfig.Servers[0] = "dns.example" }},
		{"config.dns_config.servers[1]", func(c *cfg) { c.DnsConfig.Servers[1] = "fe80::1%a\nsearch evil" }},
		{"config.dns_config.searches[0]", func(c *cfg) { c.DnsConfig.Searches[0] = "a\nnameserver 6.6.6.6" }},
		{"config.dns_config.options[0]", func(c *cfg) { c.DnsConfig.Options[0] = "a b" }},
		{"config.dns_config.options[0]", func(c *cfg) { c.DnsConfig.Options[0] = "" }},
		{"config.port_mappings[0].protocol", func(c *cfg) { c.PortMappings[0].Protocol = 9 }},
		{"config.port_mappings[0].container_port", func(c *cfg) { c.PortMappings[0].ContainerPort = 0 }},
		{"config.port_mappings[0].container_port", func(c *cfg) { c.PortMappings[0].ContainerPort = 65536 }},
		{"config.port_mappings[1].host_port", func(c *cfg) { c.PortMappings[1].HostPort = -1 }},
		{"config.port_mappings[0].host_ip", func(c *cfg) { c.PortMappings[0].HostIp = "localhost" }},
		{"config.linux.cgroup_parent", func(c *cfg) { c.Linux.CgroupParent = "/kubepods/../system.slice" }},
		{"config.linux.cgroup_parent", func(c *cfg) { c.Linux.CgroupParent = "/a\nb" }},
		{"config.linux.overhead.memory_limit_in_bytes", func(c *cfg) { c.Linux.Overhead.MemoryLimitInBytes = -1 }},
		{"config.linux.resources.cpu_shares", func(c *cfg) { c.Linux.Resources.CpuShares = -1 }},
		{sec + ".namespace_options.network", func(c *cfg) { ns(c).Network = criv1.NamespaceMode_CONTAINER }},
		{sec + ".namespace_options.network", func(c *cfg) { ns(c).Network = 7 }},
		{sec + ".namespace_options.ipc", func(c *cfg) { ns(c).Ipc = criv1.NamespaceMode_TARGET }},
		{sec + ".namespace_options.pid", func(c *cfg) { ns(c).Pid = criv1.NamespaceMode_TARGET }},
		{sec + ".namespace_options.pid", func(c *cfg) { ns(c).Pid = 7 }},
		{sec + ".namespace_options.target_id", func(c *cfg) { ns(c).TargetId = "x" }},
		{sec + ".namespace_options.network", func(c *cfg) { ns(c).Network = criv1.NamespaceMode_NODE }}, // with a user namespace
		{sec + ".namespace_options.pid", func(c *cfg) { ns(c).Pid = criv1.NamespaceMode_NODE }},
		{sec + ".namespace_options.ipc", func(c *cfg) { ns(c).Ipc = criv1.NamespaceMode_NODE }},
		{sec + ".namespace_options.userns_options.mode", func(c *cfg) { ns(c).UsernsOptions.Mode = criv1.NamespaceMode_CONTAINER }},
		{sec + ".namespace_options.userns_options.mode", func(c *cfg) { ns(c).UsernsOptions.Mode = criv1.NamespaceMode_TARGET }},
		{sec + ".namespace_options.userns_options", func(c *cfg) { ns(c).UsernsOptions.Mode = criv1.NamespaceMode_NODE }},
		{sec + ".namespace_options.userns_options.uids", func(c *cfg) { ns(c).UsernsOptions.Uids = nil }},
		{sec + ".namespace_options.userns_options.gids", func(c *cfg) { ns(c).UsernsOptions.Gids = nil }},
		{sec + ".namespace_options.userns_options.uids", func(c *cfg) { ns(c).UsernsOptions.Uids[0].ContainerId = 1 }},
		{sec + ".namespace_options.userns_options.gids", func(c *cfg) { ns(c).UsernsOptions.Gids[0].ContainerId = 1 }},
		{sec + ".namespace_options.userns_options.uids[0].length", func(c *cfg) { ns(c).UsernsOptions.Uids[0].Length = 0 }},
		{sec + ".namespace_options.userns_options.uids[0].host_id", func(c *cfg) { ns(c).UsernsOptions.Uids[0].HostId = 1<<32 - 10 }},
		{sec + ".namespace_options.userns_options.uids", func(c *cfg) {
			ns(c).UsernsOptions.Uids = append(ns(c).UsernsOptions.Uids, &criv1.IDMapping{HostId: 200000, ContainerId: 5, Length: 1})
		}},
		{sec + ".namespace_options.userns_options.gids", func(c *cfg) {
			ns(c).UsernsOptions.Gids = append(ns(c).UsernsOptions.Gids, &criv1.IDMapping{HostId: 65537, ContainerId: 70000, Length: 1})
		}},
		{sec + ".selinux_options.type", func(c *cfg) { security(c).SelinuxOptions.Type = "a:b" }},
		{sec + ".selinux_options.level", func(c *cfg) { security(c).SelinuxOptions.Level = "s0\n" }},
		{sec + ".run_as_user", func(c *cfg) { security(c).RunAsUser = val(-1) }},
		{sec + ".run_as_group", func(c *cfg) { security(c).RunAsUser = nil }},
		{sec + ".supplemental_groups[0]", func(c *cfg) { security(c).SupplementalGroups = []int64{-1} }},
		{sec + ".supplemental_groups_policy", func(c *cfg) { security(c).SupplementalGroupsPolicy = 5 }},
		{sec + ".seccomp.profile_type", func(c *cfg) { security(c).Seccomp.ProfileType = 5 }},
		{sec + ".seccomp_profile_path", func(c *cfg) { security(c).Seccomp, security(c).SeccompProfilePath = nil, "strange" }}, //nolint:staticcheck // deprecated, and still honoured
		{sec + ".apparmor.localhost_ref", func(c *cfg) {
			security(c).Apparmor = &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Localhost}
		}},
		{"config.windows", func(c *cfg) { c.Windows = &criv1.WindowsPodSandboxConfig{} }},
	} {
		t.Run(c.field, func(t *testing.T) {
			req := proto.CloneOf(kubeletSandbox())
			c.spoil(req.Config)
			_, err := Sandbox(req)
			wantRefusal(t, err, c.field)
		})
	}
	_, err := Sandbox(&criv1.RunPodSandboxRequest{})
	wantRefusal(t, err, "config")
	_, err = Sandbox(&criv1.RunPodSandboxRequest{RuntimeHandler: "a b", Config: kubeletSandbox().Config})
	wantRefusal(t, err, "runtime_handler")
}

func TestAllRefusalsAreToldAtOnce(t *testing.T) {
	req := kubeletSandbox()
	req.Config.Hostname, req.Config.LogDirectory = "a b", "logs"
	_, err := Sandbox(req)
	wantRefusal(t, err, "config.hostname")
	wantRefusal(t, err, "config.log_directory")
}

func sysctl(name, value string, ns *criv1.NamespaceOption) error {
	req := kubeletSandbox()
	req.Config.Linux.Sysctls = map[string]string{name: value}
	req.Config.Linux.SecurityContext.NamespaceOptions = ns
	_, err := Sandbox(req)
	return err
}

func TestCVE_2022_0811_SysctlSmugglesNothing(t *testing.T) {
	for _, name := range []string{
		"kernel.core_pattern", "vm.overcommit_memory", "fs.file-max", "kernel.shm_rmid_forced+kernel.core_pattern", "kernel.shm_rmid_forced=1",
		"net.ipv4.ip_forward\nkernel.core_pattern", "net/../kernel/core_pattern", "net.ipv4../../kernel.core_pattern", "net", "", ".", "/net/core/x", "NET.ipv4.x",
		"net.", "kernel.shmfoo", "kernel/core_pattern", "net..x", "user.max_user_namespaces", "kernel.hostname",
	} {
		wantRefusal(t, sysctl(name, "1", nil), key("config.linux.sysctls", name))
	}
	for _, value := range []string{"1\nkernel.core_pattern=|/x", "1\x00", "1\r2"} {
		wantRefusal(t, sysctl("net.ipv4.ip_forward", value, nil), key("config.linux.sysctls", "net.ipv4.ip_forward"))
	}
	// All spellings of one are one: the second cannot hide behind the first.
	req := kubeletSandbox()
	req.Config.Linux.Sysctls = map[string]string{"net.ipv4.ip_forward": "1", "net/ipv4/ip_forward": "0"}
	_, err := Sandbox(req)
	wantRefusal(t, err, key("config.linux.sysctls", "net/ipv4/ip_forward"))
	if err := sysctl("net.ipv4.ip_local_port_range", "1024 65000", nil); err != nil {
		t.Error(err)
	}
}

func TestCVE_2022_0532_HostNamespacesKeepTheirSysctls(t *testing.T) {
	hostNetwork := &criv1.NamespaceOption{Network: criv1.NamespaceMode_NODE}
	hostIPC := &criv1.NamespaceOption{Ipc: criv1.NamespaceMode_NODE}
	for name, c := range map[string]struct{ refuse, allow *criv1.NamespaceOption }{
		"net.ipv4.ip_forward":    {hostNetwork, hostIPC},
		"net/ipv4/ip_forward":    {hostNetwork, hostIPC},
		"kernel.domainname":      {hostNetwork, hostIPC},
		"kernel.shmmax":          {hostIPC, hostNetwork},
		"kernel.shm_rmid_forced": {hostIPC, hostNetwork},
		"kernel.msgmax":          {hostIPC, hostNetwork},
		"kernel.sem":             {hostIPC, hostNetwork},
		"fs.mqueue.msg_max":      {hostIPC, hostNetwork},
	} {
		wantRefusal(t, sysctl(name, "1", c.refuse), key("config.linux.sysctls", name))
		if err := sysctl(name, "1", c.allow); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDotted(t *testing.T) {
	for in, want := range map[string]string{
		"net.ipv4.ip_forward": "net.ipv4.ip_forward", "net/ipv4/ip_forward": "net.ipv4.ip_forward",
		"net/ipv4/conf/eth0.100/forwarding": "net.ipv4.conf.eth0/100.forwarding", "net.ipv4.conf.eth0/100.forwarding": "net.ipv4.conf.eth0/100.forwarding", "x": "x",
	} {
		if got := dotted(in); got != want {
			t.Errorf("dotted(%q) = %q, want %q", in, got, want)
		}
	}
}
