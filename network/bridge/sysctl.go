package bridge

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

func writeSysctl(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("setting %s to %s: %w", path, value, err)
	}
	_, err = f.WriteString(value)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("setting %s to %s: %w", path, value, err)
	}
	return nil
}

// requireSysctl sets what is not set yet and tells about it: it is never set back, since others may have come to rely on it.
func (n *Network) requireSysctl(path, value string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading %s: %w: %w", path, err, errdefs.ErrUnavailable)
	}
	if strings.TrimSpace(string(b)) == value {
		return nil
	}
	if err := writeSysctl(path, value); err != nil {
		return fmt.Errorf("%w: pods need it; set it by sysctl.d if the daemon may not: %w", err, errdefs.ErrUnavailable)
	}
	n.log.Info("set a sysctl that pods need", "path", path, "value", value, "was", strings.TrimSpace(string(b)))
	n.mu.Lock()
	n.sysctls[path] = value
	n.mu.Unlock()
	return nil
}

// families says which kinds of address are among prefixes.
func families(prefixes []netip.Prefix) (ipv4, ipv6 bool) {
	for _, prefix := range prefixes {
		ipv4, ipv6 = ipv4 || prefix.Addr().Is4(), ipv6 || prefix.Addr().Is6()
	}
	return ipv4, ipv6
}

// enableForwarding lets the machine route for pods.
//
// Turning IPv6 forwarding on makes the kernel ignore router advertisements where accept_ra is 1, and the machine would lose its own default
// route when it expires. So interfaces that listen to them are told to go on (2) first.
func (n *Network) enableForwarding(ipv4, ipv6 bool) error {
	if ipv4 {
		if err := n.requireSysctl("/proc/sys/net/ipv4/ip_forward", "1"); err != nil {
			return err
		}
	}
	const forwarding = "/proc/sys/net/ipv6/conf/all/forwarding"
	if b, err := os.ReadFile(forwarding); !ipv6 || err == nil && strings.TrimSpace(string(b)) == "1" {
		return nil
	}
	paths, _ := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra")
	for _, path := range paths {
		iface := filepath.Base(filepath.Dir(path))
		if iface == "all" || iface == "default" || iface == "lo" || iface == n.opts.BridgeName || strings.HasPrefix(iface, "veth") {
			continue
		}
		if b, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(b)) != "1" {
			continue
		}
		if err := n.requireSysctl(path, "2"); err != nil {
			return err
		}
	}
	return n.requireSysctl(forwarding, "1")
}
