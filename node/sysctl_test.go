package node

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
)

func TestAdmitSysctls(t *testing.T) {
	allowed := []string{"kernel.shm*", "net.core.somaxconn"}
	for name, c := range map[string]struct {
		sysctl string
		spec   corev1.PodSpec
		want   string
	}{
		"safe":                  {sysctl: "net.ipv4.tcp_syncookies"},
		"safe, with slashes":    {sysctl: "net/ipv4/tcp_syncookies"},
		"allowed":               {sysctl: "net.core.somaxconn"},
		"allowed by pattern":    {sysctl: "kernel.shmmax"},
		"not allowed":           {sysctl: "kernel.msgmax", want: `forbidden sysctl: "kernel.msgmax" not allowlisted`},
		"longer than allowed":   {sysctl: "net.core.somaxconn2", want: `forbidden sysctl: "net.core.somaxconn2" not allowlisted`},
		"dots within a name":    {sysctl: "net/ipv4/conf/eth0.1/forwarding", want: `forbidden sysctl: "net.ipv4.conf.eth0/1.forwarding" not allowlisted`},
		"on the node's network": {sysctl: "net.core.somaxconn", spec: corev1.PodSpec{HostNetwork: true}, want: `forbidden sysctl: "net.core.somaxconn" not allowed with host Net enabled`},
		"in the node's IPC":     {sysctl: "kernel.shm_rmid_forced", spec: corev1.PodSpec{HostIPC: true}, want: `forbidden sysctl: "kernel.shm_rmid_forced" not allowed with host IPC enabled`},
		"the other namespace":   {sysctl: "kernel.shmall", spec: corev1.PodSpec{HostNetwork: true}},
	} {
		c.spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: c.sysctl, Value: "1"}}}
		got := admitSysctls(&corev1.Pod{Spec: c.spec}, allowed)
		switch {
		case got == nil && c.want != "", got != nil && (got.Message != c.want || got.Reason != "SysctlForbidden"):
			t.Errorf("%s: %+v, want %q", name, got, c.want)
		}
	}
	if admitSysctls(&corev1.Pod{}, nil) != nil {
		t.Error("a pod without a security context is refused")
	}
}

func TestCheckUnsafeSysctls(t *testing.T) {
	if err := checkUnsafeSysctls([]string{"kernel.msg*", "net/core/somaxconn", "kernel.sem", "fs.mqueue.*"}); err != nil {
		t.Error(err)
	}
	for _, whole := range []string{"kernel.*", "vm.swappiness", "*", "net*"} {
		if err := checkUnsafeSysctls([]string{whole}); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: %v", whole, err)
		}
	}
}
