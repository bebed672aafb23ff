package bridge

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/network/rtnl"
)

// ensure makes what all sandboxes share (bridge, gateway addresses, sysctls, nftables table) if it is not there, and answers the
// bridge's index. The usual case, that nobody removed the bridge since the last time, costs one system call.
func (n *Network) ensure(ctx context.Context, s *rtnl.Socket) (int, error) {
	if want := n.bridgeIndex.Load(); want != 0 {
		if index, err := s.Index(n.opts.BridgeName); err == nil && int64(index) == want {
			return index, nil
		}
	}
	n.setup.Lock()
	defer n.setup.Unlock()
	if want := n.bridgeIndex.Load(); want != 0 {
		if index, err := s.Index(n.opts.BridgeName); err == nil && int64(index) == want {
			return index, nil
		}
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	n.mu.Lock()
	generation, gateways := n.generation, n.gateways()
	n.mu.Unlock()
	index, err := n.makeBridge(s, gateways)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.setupError = err; err != nil {
		n.setupError = fmt.Errorf("setting up bridge %s: %w", n.opts.BridgeName, err)
		return 0, n.setupError
	}
	if n.generation == generation { // else the CIDRs changed meanwhile, and the next one has to look again
		n.bridgeIndex.Store(int64(index))
	}
	return index, nil
}

// makeBridge is the slow path of ensure. The order matters: the guard for 127.0.0.0/8 stands before route_localnet is set (CVE-2020-8558), and the
// bridge ignores router advertisements before it is up (CVE-2020-10749).
func (n *Network) makeBridge(s *rtnl.Socket, gateways []netip.Prefix) (int, error) {
	index, err := s.Index(n.opts.BridgeName)
	if err != nil {
		if err := s.Do(n.bridgeStep(gateways[0].Addr())); err != nil {
			return 0, err
		}
		if index, err = s.Index(n.opts.BridgeName); err != nil {
			return 0, err
		}
		n.log.Info("made the pod bridge", "bridge", n.opts.BridgeName, "gateways", gateways)
	} else if _, err := os.Stat("/sys/class/net/" + n.opts.BridgeName + "/bridge"); err != nil && sysfsIsOurs(n.opts.BridgeName, index) {
		return 0, fmt.Errorf("an interface of this name exists and is no bridge: %w", errdefs.ErrUnavailable)
	}
	has4, has6 := families(gateways)
	if err := quietIPv6(n.opts.BridgeName); err != nil {
		return 0, err
	}
	if has6 && ipv6Enabled() { // "default" may disable it for new interfaces
		if err := n.requireSysctl("/proc/sys/net/ipv6/conf/"+n.opts.BridgeName+"/disable_ipv6", "0"); err != nil {
			return 0, err
		}
	}
	if err := n.syncGateways(s, index, gateways); err != nil {
		return 0, err
	}
	if err := s.Do(rtnl.Step{What: "bringing it up", Request: linkUp(index)}); err != nil {
		return 0, err
	}
	if err := n.enableForwarding(has4, has6); err != nil {
		return 0, err
	}
	if err := n.installTable(); err != nil {
		return 0, err
	}
	n.warnOfDrops()
	if has4 {
		return index, n.requireSysctl("/proc/sys/net/ipv4/conf/"+n.opts.BridgeName+"/route_localnet", "1")
	}
	return index, nil
}

// sysfsIsOurs says whether the mounted sysfs shows the network namespace that we are in: it shows the one it was mounted from.
func sysfsIsOurs(name string, index int) bool {
	b, err := os.ReadFile("/sys/class/net/" + name + "/ifindex")
	return err == nil && strings.TrimSpace(string(b)) == fmt.Sprint(index)
}

func (n *Network) bridgeStep(gateway netip.Addr) rtnl.Step {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(n.opts.BridgeName)))
	// An address of its own: else it would take its lowest port's, and change under the pods' feet with every pod.
	req.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, macOf(gateway)))
	req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(n.mtu))))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	req.AddData(info)
	return rtnl.Step{What: "creating it", Request: req, Allow: []unix.Errno{unix.EEXIST}}
}

// syncGateways gives the bridge the gateways that current CIDRs and sandboxes of former CIDRs need, and takes away others.
func (n *Network) syncGateways(s *rtnl.Socket, index int, want []netip.Prefix) error {
	have, err := addressesOf(s, index)
	if err != nil {
		return err
	}
	var steps []rtnl.Step
	for _, p := range want {
		if p.Addr().Is6() && !ipv6Enabled() {
			return fmt.Errorf("pod CIDR %s: IPv6 is disabled on this machine: %w", p.Masked(), errdefs.ErrUnavailable)
		}
		if !slices.Contains(have, p) {
			steps = append(steps, addressStep(index, p))
		}
	}
	for _, p := range have {
		if slices.Contains(want, p) || p.Addr().IsLinkLocalUnicast() {
			continue
		}
		st := addressStep(index, p)
		st.Request.Type, st.Request.Flags = unix.RTM_DELADDR, unix.NLM_F_REQUEST
		st.What, st.Allow = "removing address "+p.String(), []unix.Errno{unix.EADDRNOTAVAIL}
		steps = append(steps, st)
	}
	return s.Do(steps...)
}

func addressesOf(s *rtnl.Socket, index int) (out []netip.Prefix, err error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETADDR, 0)
	req.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
	err = s.Dump(req, func(data []byte) {
		if len(data) < unix.SizeofIfAddrmsg {
			return
		}
		msg := nl.DeserializeIfAddrmsg(data)
		attrs, err := nl.ParseRouteAttr(data[unix.SizeofIfAddrmsg:])
		if err != nil || int(msg.Index) != index {
			return
		}
		var a netip.Addr
		for _, at := range attrs {
			if at.Attr.Type == unix.IFA_LOCAL || at.Attr.Type == unix.IFA_ADDRESS && !a.IsValid() {
				a, _ = netip.AddrFromSlice(at.Value)
			}
		}
		if a.IsValid() {
			out = append(out, netip.PrefixFrom(a, int(msg.Prefixlen)))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	return out, nil
}

// uplinkMTU is the smallest MTU among the interfaces of default routes: pods behind a tunnel or a small cloud MTU must not send larger packets.
func uplinkMTU() int {
	mtu := 1500
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Dst: nil}, netlink.RT_FILTER_DST)
	if err != nil {
		return mtu
	}
	for _, r := range routes {
		link, err := netlink.LinkByIndex(r.LinkIndex)
		if err == nil && link.Attrs().MTU >= 1280 && link.Attrs().MTU < mtu {
			mtu = link.Attrs().MTU
		}
	}
	return mtu
}

// gateways lists the addresses that the bridge must have. n.mu is held.
func (n *Network) gateways() (out []netip.Prefix) {
	for _, p := range n.pools {
		out = append(out, p.gateway())
	}
	for _, r := range n.sandboxes {
		for i, a := range r.Addresses {
			if gw := netip.PrefixFrom(r.Gateways[i], a.Bits()); !slices.Contains(out, gw) {
				out = append(out, gw)
			}
		}
	}
	return out
}

// portsOf lists the names of a bridge's ports.
func portsOf(s *rtnl.Socket, bridge int) (names []string, err error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridge))))
	err = s.Dump(req, func(data []byte) {
		if len(data) < unix.SizeofIfInfomsg {
			return
		}
		attrs, err := nl.ParseRouteAttr(data[unix.SizeofIfInfomsg:])
		if err != nil {
			return
		}
		name, master := "", 0
		for _, a := range attrs {
			switch a.Attr.Type {
			case unix.IFLA_IFNAME:
				name = unix.ByteSliceToString(a.Value)
			case unix.IFLA_MASTER:
				master = int(nl.NativeEndian().Uint32(a.Value))
			}
		}
		if master == bridge {
			names = append(names, name)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listing the bridge's ports: %w", err)
	}
	return names, nil
}
