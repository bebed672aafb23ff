package node

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/shimd/shimd/node/translate"
)

const (
	systemResolvConf = "/etc/resolv.conf"
	// stubResolvConf has the real servers where systemd-resolved put a stub on loopback into the other one, which pods do not reach.
	stubResolvConf = "/run/systemd/resolve/resolv.conf"
	unifiedMarker  = "/sys/fs/cgroup/cgroup.controllers"
)

// describe finds out what configurations depend on.
func describe(config Config) (translate.Node, error) {
	node := translate.Node{
		Name: config.NodeName, IPs: config.NodeIPs, Owner: translate.OwnerFolder(config.Folder), LogDir: config.LogDir, LogLinks: config.LogLinks,
		SeccompDir: filepath.Join(config.RootDir, "seccomp"), DefaultSeccomp: config.SeccompDefault,
		ClusterDNS: config.ClusterDNS, ClusterDomain: config.ClusterDomain,
	}
	if config.Cluster != nil {
		node.Owner = translate.OwnerNode(config.NodeName)
	}
	if len(node.IPs) == 0 {
		node.IPs = []string{ownAddress()}
	}
	var memory unix.Sysinfo_t
	if err := unix.Sysinfo(&memory); err != nil {
		return node, fmt.Errorf("asking for the node's memory: %w", err)
	}
	node.MemoryCapacity = int64(memory.Totalram) * int64(memory.Unit)
	node.Capacity = corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewQuantity(int64(goruntime.NumCPU()), resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(node.MemoryCapacity, resource.BinarySI),
	}
	_, err := os.Stat(unifiedMarker)
	node.CgroupV2 = err == nil
	node.DNS, err = resolver(config.ResolvConf)
	return node, err
}

func resolver(path string) (translate.DNS, error) {
	if path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return translate.DNS{}, fmt.Errorf("reading the resolver configuration for pods: %w", err)
		}
		return translate.ParseDNS(string(text)), nil
	}
	text, err := os.ReadFile(systemResolvConf)
	if err != nil && !os.IsNotExist(err) {
		return translate.DNS{}, fmt.Errorf("reading the node's resolver configuration: %w", err)
	}
	dns := translate.ParseDNS(string(text))
	for _, server := range dns.Servers {
		if !strings.HasPrefix(server, "127.") && server != "::1" {
			return dns, nil
		}
	}
	if text, err := os.ReadFile(stubResolvConf); err == nil {
		return translate.ParseDNS(string(text)), nil
	}
	return dns, nil
}

// ownAddress is where the node's default route leaves from; connecting a datagram socket sends nothing.
func ownAddress() string {
	for _, target := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} { // documentation addresses
		conn, err := net.Dial("udp", target)
		if err != nil {
			continue
		}
		address := conn.LocalAddr().(*net.UDPAddr).IP.String() //nolint:errcheck // a UDP socket's
		conn.Close()
		return address
	}
	return "127.0.0.1"
}
