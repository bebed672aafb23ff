package node

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/node/util/sysctl"

	"github.com/shimd/shimd/node/plan"
)

// safeSysctls are felt by nobody but the pod that sets them: the kubelet's list (pkg/kubelet/sysctl/safe_sysctls.go).
var safeSysctls = []string{
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start",
	"net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
	"net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}

// checkUnsafeSysctls refuses a configuration that would let a pod change the whole node.
func checkUnsafeSysctls(allowed []string) error {
	for _, pattern := range allowed {
		if namespace, _, _ := sysctl.GetNamespace(pattern); namespace == sysctl.UnknownNamespace {
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
	for _, wanted := range pod.Spec.SecurityContext.Sysctls {
		name := sysctl.NormalizeName(wanted.Name)
		namespace := allowingSysctl(name, safeSysctls, allowed)
		switch {
		case namespace == sysctl.UnknownNamespace:
			return refuse("%q not allowlisted", name)
		case namespace == sysctl.NetNamespace && pod.Spec.HostNetwork, namespace == sysctl.IPCNamespace && pod.Spec.HostIPC:
			return refuse("%q not allowed with host %s enabled", name, namespace)
		}
	}
	return nil
}

// allowingSysctl is the namespace that the first pattern that fits a name stands for; sysctl.UnknownNamespace if none fits.
func allowingSysctl(name string, lists ...[]string) sysctl.Namespace {
	for _, pattern := range slices.Concat(lists...) {
		namespace, allowed, prefix := sysctl.GetNamespace(pattern)
		if name == allowed || (prefix && strings.HasPrefix(name, allowed)) {
			return namespace
		}
	}
	return sysctl.UnknownNamespace
}
