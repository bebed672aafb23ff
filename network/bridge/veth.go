package bridge

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/network/rtnl"
)

const podInterface = "eth0"

// vethName is the host's end of a sandbox's veth. It says whose it is, so that what a crash left can be found without a record.
func (n *Network) vethName(id string) string {
	sum := sha256.Sum256([]byte(n.opts.BridgeName + "/" + id))
	return "veth" + hex.EncodeToString(sum[:5])
}

// macOf derives a pod's hardware address from its address. An address that is used again then has the same one, so that no neighbour's
// table is out of date.
func macOf(a netip.Addr) net.HardwareAddr {
	if a.Is4() {
		b := a.As4()
		return net.HardwareAddr{0x0a, 0x58, b[0], b[1], b[2], b[3]}
	}
	b := a.As16()
	sum := sha256.Sum256(b[:])
	return net.HardwareAddr{0x0a, 0x58, sum[0], sum[1], sum[2], sum[3]}
}

// vethSteps create a veth whose host end is a port of the bridge and whose peer is eth0 in the sandbox's namespace. IFF_UP on the peer would
// fail here: its namespace brings it up. Slave and address family settings are honoured only for a link that exists, and
// that before it is up, hence so many messages.
func vethSteps(name string, bridge, mtu int, mac net.HardwareAddr, ns *os.File) []rtnl.Step {
	create := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	create.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	create.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	create.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))))
	create.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridge))))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(podInterface))
	peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu)))
	peer.AddRtAttr(unix.IFLA_ADDRESS, mac)
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(ns.Fd())))
	create.AddData(info)

	// Hairpin: with br_netfilter a pod's packet to its own host port is turned around inside the bridge.
	port := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	port.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	port.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	slave := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	slave.AddRtAttr(nl.IFLA_INFO_SLAVE_KIND, nl.NonZeroTerminated("bridge"))
	slave.AddRtAttr(nl.IFLA_INFO_SLAVE_DATA, nil).AddRtAttr(nl.IFLA_BRPORT_MODE, []byte{1})
	port.AddData(slave)

	up := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Flags, msg.Change = unix.IFF_UP, unix.IFF_UP
	up.AddData(msg)
	up.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	return []rtnl.Step{
		{What: "creating veth " + name, Request: create},
		{What: "making veth " + name + " a port of the bridge", Request: port},
		noLinkLocal(name),
		{What: "bringing veth " + name + " up", Request: up},
	}
}

// noLinkLocal keeps IPv6 from giving a bridge's port an address: nothing speaks IP there, and it would cost timers and packets with every pod.
func noLinkLocal(name string) rtnl.Step {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	spec.AddRtAttr(unix.AF_INET6, nil).AddRtAttr(unix.IFLA_INET6_ADDR_GEN_MODE, []byte{nl.IN6_ADDR_GEN_MODE_NONE})
	req.AddData(spec)
	return rtnl.Step{What: "keeping addresses off " + name, Request: req, Allow: []unix.Errno{unix.EAFNOSUPPORT}} // a kernel without IPv6
}

// podSteps set up the inside of a sandbox. All of them may be done again.
func podSteps(index int, r *record) []rtnl.Step {
	steps := []rtnl.Step{rtnl.LoopbackUp(), {What: "bringing eth0 up", Request: linkUp(index)}}
	for _, a := range r.Addresses {
		steps = append(steps, addressStep(index, a))
	}
	for _, gw := range r.Gateways {
		steps = append(steps, defaultRouteStep(index, gw))
	}
	return steps
}

func linkUp(index int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	msg.Flags, msg.Change = unix.IFF_UP, unix.IFF_UP
	req.AddData(msg)
	return req
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func addressStep(index int, p netip.Prefix) rtnl.Step {
	req := nl.NewNetlinkRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	msg := nl.NewIfAddrmsg(familyOf(p.Addr()))
	msg.Index, msg.Prefixlen = uint32(index), uint8(p.Bits())
	if p.Addr().Is6() {
		msg.Flags = unix.IFA_F_NODAD // ours alone to give; detection would take a second
	}
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, p.Addr().AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, p.Addr().AsSlice()))
	if p.Addr().Is4() {
		b := p.Masked().Addr().As4()
		for i := p.Bits(); i < 32; i++ {
			b[i/8] |= 0x80 >> (i % 8)
		}
		req.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, b[:]))
	}
	return rtnl.Step{What: "adding address " + p.String(), Request: req, Allow: []unix.Errno{unix.EEXIST}}
}

func defaultRouteStep(index int, gw netip.Addr) rtnl.Step {
	req := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	msg := nl.NewRtMsg()
	msg.Family = uint8(familyOf(gw))
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.RTA_GATEWAY, gw.AsSlice()))
	req.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
	return rtnl.Step{What: fmt.Sprintf("adding the default route through %s", gw), Request: req, Allow: []unix.Errno{unix.EEXIST}}
}

func deleteLinkStep(name string) rtnl.Step {
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, 0)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	return rtnl.Step{What: "deleting interface " + name, Request: req, Allow: []unix.Errno{unix.ENODEV}}
}

// ignoreRouterAdvertisements keeps the kernel from taking a default route out of a packet that a neighbour made up (CVE-2020-10749).
func ignoreRouterAdvertisements(iface string) error {
	return writeIPv6(iface, "accept_ra", "0")
}

// quietIPv6 is for interfaces that have addresses. They ignore router advertisements, in a sandbox too, where a neighbouring pod might
// send them; and their link-local address works at once, without the second that duplicate address detection takes.
func quietIPv6(iface string) error {
	if err := ignoreRouterAdvertisements(iface); err != nil {
		return err
	}
	return writeIPv6(iface, "accept_dad", "0")
}

func writeIPv6(iface, name, value string) error {
	err := writeSysctl("/proc/sys/net/ipv6/conf/"+iface+"/"+name, value)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a kernel without IPv6, or an interface that is gone, which the next step will say
	}
	return err
}
