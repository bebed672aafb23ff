package bridge

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/network/rtnl"
)

// chooseCIDRs picks the CIDRs of a network that nobody gave any: the first 10.x.0.0/16 from 10.88 on that overlaps none of the taken routes,
// and with IPv6 a /64 of the unique local range. The bridge's name shifts the first try, so that daemons side by side do not meet.
func chooseCIDRs(bridge string, taken []netip.Prefix, ipv6 bool) ([]netip.Prefix, error) {
	sum := sha256.Sum256([]byte(bridge))
	first := 0
	if bridge != DefaultBridge {
		first = 1 + int(sum[0])%150
	}
	const low, count = 88, 160
	for i := range count {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(low + (first+i)%count), 0, 0}), 16)
		if overlaps(p, taken) {
			continue
		}
		out := []netip.Prefix{p}
		if ipv6 {
			a := [16]byte{0: 0xfd}
			copy(a[1:8], sum[1:8])
			out = append(out, netip.PrefixFrom(netip.AddrFrom16(a), 64))
		}
		return out, nil
	}
	return nil, fmt.Errorf("choosing a pod CIDR: every 10.88.0.0/16 to 10.247.0.0/16 overlaps a route of this machine; configure pod_cidr: %w", errdefs.ErrUnavailable)
}

func overlaps(p netip.Prefix, taken []netip.Prefix) bool {
	for _, t := range taken {
		if t.Bits() > 0 && t.Overlaps(p) {
			return true
		}
	}
	return false
}

// routed lists the destinations of all routes in the main table but the default ones, except those through the interface with index except.
func routed(s *rtnl.Socket, except int) (out []netip.Prefix, err error) {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, 0)
		req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family)}})
		err = s.Dump(req, func(data []byte) {
			if len(data) < unix.SizeofRtMsg {
				return
			}
			msg := nl.DeserializeRtMsg(data)
			attrs, err := nl.ParseRouteAttr(data[unix.SizeofRtMsg:])
			if err != nil || msg.Table != unix.RT_TABLE_MAIN {
				return
			}
			var dst netip.Addr
			oif := 0
			for _, a := range attrs {
				switch a.Attr.Type {
				case unix.RTA_DST:
					dst, _ = netip.AddrFromSlice(a.Value)
				case unix.RTA_OIF:
					oif = int(nl.NativeEndian().Uint32(a.Value))
				}
			}
			if dst.IsValid() && (except == 0 || oif != except) {
				out = append(out, netip.PrefixFrom(dst, int(msg.Dst_len)))
			}
		})
		if err != nil {
			return nil, fmt.Errorf("listing the machine's routes: %w", err)
		}
	}
	return out, nil
}

// ipv6Enabled says whether interfaces of this machine may have IPv6 addresses.
func ipv6Enabled() bool {
	b, err := os.ReadFile("/proc/sys/net/ipv6/conf/all/disable_ipv6")
	return err == nil && strings.TrimSpace(string(b)) == "0"
}
