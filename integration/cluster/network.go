package cluster

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Addresses. The network is the rack's own, so every cluster has the same.
const (
	nodeNetworkBits = "/24"
	rackAddress     = "10.98.0.1"
	podNetwork      = "10.244.0.0/16"
	serviceCIDR     = "10.96.0.0/16"
	apiService      = "10.96.0.1"
	dnsService      = "10.96.0.10"
	dnsDomain       = "cluster.local"
	bridgeName      = "rack0"
	apiPort         = "6443"
)

// nodeAddress is that of the i-th node, from 1.
func nodeAddress(i int) string { return net.IPv4(10, 98, 0, byte(10+i)).String() }

// makeBridge is the network that nodes and control plane are on.
func makeBridge() error {
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName}}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("adding the nodes' bridge: %w", err)
	}
	address, err := netlink.ParseAddr(rackAddress + nodeNetworkBits)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(bridge, address); err != nil {
		return fmt.Errorf("adding the address of the nodes' bridge: %w", err)
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("raising the nodes' bridge: %w", err)
	}
	// It is the router between nodes, as a cloud's is; nodes are not told of shorter ways, which would outlive a node.
	for name, value := range map[string]string{"ip_forward": "1", "conf/all/send_redirects": "0", "conf/" + bridgeName + "/send_redirects": "0"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0o644); err != nil {
			return fmt.Errorf("letting the nodes' bridge forward: %w", err)
		}
	}
	return nil
}

func removeBridge() error { return removeLink(bridgeName) }

// attachNode connects the network namespace of a process to the bridge; nodeinit sets up the other end, eth0.
func attachNode(name string, pid int) error {
	bridge, err := netlink.LinkByName(bridgeName)
	if err != nil {
		return fmt.Errorf("connecting %s: finding the bridge: %w", name, err)
	}
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, MasterIndex: bridge.Attrs().Index},
		PeerName:  "eth0", PeerNamespace: netlink.NsPid(pid),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("connecting %s: adding its interface: %w", name, err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return fmt.Errorf("connecting %s: raising its interface: %w", name, err)
	}
	return nil
}

// detachNode removes the node's interface: the kernel would too, some time after the node's last process.
func detachNode(name string) error { return removeLink(name) }

func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if missing := new(netlink.LinkNotFoundError); errors.As(err, missing) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("removing the interface %s: %w", name, err)
	}
	return nil
}

// setRoute makes a node's address the way to its pods.
func setRoute(podCIDR, via string) error {
	_, destination, err := net.ParseCIDR(podCIDR)
	if err != nil {
		return fmt.Errorf("reading a node's pod CIDR: %w", err)
	}
	if err := netlink.RouteReplace(&netlink.Route{Dst: destination, Gw: net.ParseIP(via)}); err != nil {
		return fmt.Errorf("adding the route to %s over %s: %w", podCIDR, via, err)
	}
	return nil
}
