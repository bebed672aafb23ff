package node

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/node/plan"
)

// safeSysctls are felt by nobody but the pod that sets them: the kubelet's list (pkg/kubelet/sysctl/safe_sysctls.go).
var safeSysctls = []string{
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start",
	"net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
	"net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}

// sysctlNamespace says which namespace keeps a sysctl, or all that begin so, from the rest of the node: "net", "ipc", or "" for none.
func sysctlNamespace(name string) string {
	switch {
	case strings.HasPrefix(name, "net."):
		return "net"
	case name == "kernel.sem", strings.HasPrefix(name, "kernel.shm"), strings.HasPrefix(name, "kernel.msg"), strings.HasPrefix(name, "fs.mqueue."):
		return "ipc"
	}
	return ""
}

// normalSysctl is a name with dots between its parts. Where its first separator is a slash, dots belong to the parts (net/ipv4/conf/eth0.1/forwarding).
func normalSysctl(name string) string {
	first := strings.IndexAny(name, "./")
	if first < 0 || name[first] == '.' {
		return name
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, name)
}

// checkUnsafeSysctls refuses a configuration that would let a pod change the whole node.
func checkUnsafeSysctls(allowed []string) error {
	for _, pattern := range allowed {
		if sysctlNamespace(normalSysctl(pattern)) == "" {
			return fmt.Errorf("allowedUnsafeSysctls: no namespace keeps %q to one pod; take it out, or name sysctls below net., kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.: %w",
				pattern, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// admitSysctls refuses what another pod, or the node, could feel, unless the node's configuration allows it. The words are the kubelet's.
func admitSysctls(pod *corev1.Pod, allowed []string) *plan.Verdict {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	refuse := func(format string, args ...any) *plan.Verdict {
		return &plan.Verdict{Reason: "SysctlForbidden", Message: "forbidden sysctl: " + fmt.Sprintf(format, args...)}
	}
	for _, sysctl := range pod.Spec.SecurityContext.Sysctls {
		name := normalSysctl(sysctl.Name)
		ok := slices.Contains(safeSysctls, name) || slices.ContainsFunc(allowed, func(pattern string) bool {
			prefix, wild := strings.CutSuffix(normalSysctl(pattern), "*")
			return prefix == name || (wild && strings.HasPrefix(name, prefix))
		})
		namespace := sysctlNamespace(name)
		switch {
		case !ok:
			return refuse("%q not allowlisted", name)
		case namespace == "net" && pod.Spec.HostNetwork, namespace == "ipc" && pod.Spec.HostIPC:
			return refuse("%q not allowed with host %s enabled", name, namespace)
		}
	}
	return nil
}
