package bridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/network/attachment"
)

func protocolNumber(name string) (byte, error) {
	switch name {
	case "tcp":
		return unix.IPPROTO_TCP, nil
	case "udp":
		return unix.IPPROTO_UDP, nil
	case "sctp":
		return unix.IPPROTO_SCTP, nil
	}
	return 0, fmt.Errorf("protocol %q: must be tcp, udp or sctp: %w", name, errdefs.ErrInvalidArgument)
}

// A claim is one host port in one address family; addr is the unspecified address for all local ones.
type claim struct {
	proto byte
	port  uint16
	addr  netip.Addr
}

func (c claim) key() claimKey { return claimKey{c.proto, c.port, c.addr.Is4()} }

type claimKey struct {
	proto byte
	port  uint16
	ipv4  bool
}

// A binding is a claim and the pod's port that it leads to.
type binding struct {
	claim
	target netip.AddrPort
}

// bindings turns a sandbox's port mappings into one for each host port and address family. Host port 0 publishes nothing. A
// mapping of a family that the sandbox has no address of is left out, as the CNI portmap plugin does.
func bindings(ports []attachment.PortMapping, addrs []netip.Prefix) ([]binding, error) {
	var out []binding
	seen := map[claim]netip.AddrPort{}
	for _, p := range ports {
		proto, err := protocolNumber(p.Protocol)
		if err != nil {
			return nil, fmt.Errorf("host port %d: %w", p.HostPort, err)
		}
		if p.HostPort == 0 {
			continue
		}
		if p.ContainerPort == 0 {
			return nil, fmt.Errorf("host port %d/%s: container port must be 1 to 65535: %w", p.HostPort, p.Protocol, errdefs.ErrInvalidArgument)
		}
		hostIP := p.HostIP.Unmap()
		if hostIP == netip.IPv6Loopback() {
			return nil, fmt.Errorf("host port %d/%s: the kernel can't forward [::1] to a pod; use 127.0.0.1: %w", p.HostPort, p.Protocol, errdefs.ErrInvalidArgument)
		}
		for _, a := range addrs {
			addr := hostIP
			switch {
			case !addr.IsValid() && a.Addr().Is4():
				addr = netip.IPv4Unspecified()
			case !addr.IsValid():
				addr = netip.IPv6Unspecified()
			case addr.Is4() != a.Addr().Is4():
				continue
			}
			b := binding{claim{proto, p.HostPort, addr.WithZone("")}, netip.AddrPortFrom(a.Addr(), p.ContainerPort)}
			before, dup := seen[b.claim]
			if dup && before != b.target {
				return nil, fmt.Errorf("host port %d/%s: mapped to container ports %d and %d at once: %w", p.HostPort, p.Protocol, before.Port(), p.ContainerPort, errdefs.ErrInvalidArgument)
			}
			if !dup {
				seen[b.claim] = b.target
				out = append(out, b)
			}
		}
	}
	return out, nil
}

// owners knows who has which host port. The same port at different addresses may have different owners, but all
// addresses together are one claim on each of them.
type owners map[claimKey]map[netip.Addr]string

func (o owners) conflict(id string, bs []binding) error {
	for _, b := range bs {
		for addr, owner := range o[b.key()] {
			if owner != id && (addr == b.addr || addr.IsUnspecified() || b.addr.IsUnspecified()) {
				return fmt.Errorf("host port %s is in use by sandbox %s: %w", netip.AddrPortFrom(b.addr, b.port), owner, errdefs.ErrAlreadyExists)
			}
		}
	}
	return nil
}

func (o owners) take(id string, bs []binding) {
	for _, b := range bs {
		if o[b.key()] == nil {
			o[b.key()] = map[netip.Addr]string{}
		}
		o[b.key()][b.addr] = id
	}
}

func (o owners) release(id string, bs []binding) {
	for _, b := range bs {
		if m := o[b.key()]; m[b.addr] == id {
			if delete(m, b.addr); len(m) == 0 {
				delete(o, b.key())
			}
		}
	}
}

// An element belongs into a set of the table.
type element struct {
	set *nftables.Set
	nftables.SetElement
}

// elements are a sandbox's part of the table.
func (t *table) elements(bs []binding) []element {
	var out []element
	for _, b := range bs {
		f := t.of(b.addr)
		set, key := f.ports, concat(nil, b.proto, b.port)
		if !b.addr.IsUnspecified() {
			set, key = f.addrPorts, concat(b.addr.AsSlice(), b.proto, b.port)
		}
		ip := b.target.Addr().AsSlice()
		out = append(out, element{set, nftables.SetElement{Key: key, Val: word(ip, b.target.Port())}})
		pub := element{f.published, nftables.SetElement{Key: concat(ip, b.proto, b.target.Port())}}
		if !containsKey(out, pub) {
			out = append(out, pub)
		}
	}
	return out
}

func containsKey(list []element, e element) bool {
	for _, l := range list {
		if l.set == e.set && string(l.Key) == string(e.Key) {
			return true
		}
	}
	return false
}

// concat builds a concatenated key: every field fills whole words of 4 bytes.
func concat(addr []byte, proto byte, port uint16) []byte {
	return word(append(append([]byte{}, addr...), proto, 0, 0, 0), port)
}

func word(b []byte, port uint16) []byte {
	return append(binary.BigEndian.AppendUint16(append([]byte{}, b...), port), 0, 0)
}

// elementsPerMessage keeps a message's list of elements, of at most 100 bytes each, under the 64 KiB that a netlink attribute can be.
const elementsPerMessage = 400

func bySet(elements []element, f func(*nftables.Set, []nftables.SetElement) error) error {
	groups := map[*nftables.Set][]nftables.SetElement{}
	for _, e := range elements {
		groups[e.set] = append(groups[e.set], e.SetElement)
	}
	for set, es := range groups {
		for chunk := range slices.Chunk(es, elementsPerMessage) {
			if err := f(set, chunk); err != nil {
				return fmt.Errorf("preparing elements of nftables set %s: %w", set.Name, err)
			}
		}
	}
	return nil
}

func add(c *nftables.Conn, elements []element) error { return bySet(elements, c.SetAddElements) }

// publish opens the host ports of a sandbox whose record and claims stand already.
func (n *Network) publish(bs []binding) error {
	if len(bs) == 0 {
		return nil
	}
	n.nft.Lock()
	err := n.transact(func(c *nftables.Conn) error { return add(c, n.nft.table.elements(bs)) })
	n.nft.Unlock()
	if errors.Is(err, unix.ENOENT) { // somebody flushed the ruleset: all of it is ours to restore
		err = n.installTable()
	}
	if err != nil {
		return fmt.Errorf("publishing host ports by nftables: %w", err)
	}
	return flushUDP(bs, true)
}

// unpublish closes them. The caller has taken the sandbox out of n.records.
func (n *Network) unpublish(bs []binding) error {
	if len(bs) == 0 {
		return nil
	}
	n.nft.Lock()
	err := n.transact(func(c *nftables.Conn) error { return bySet(n.nft.table.elements(bs), c.SetDeleteElements) })
	n.nft.Unlock()
	if errors.Is(err, unix.ENOENT) {
		// They were never published, or the table is gone. A transaction is whole or not at all, so nothing of them is there.
		err = n.restoreTable()
	}
	if err != nil {
		return fmt.Errorf("closing host ports in nftables: %w", err)
	}
	return flushUDP(bs, false)
}

// staleUDP matches the tracked UDP connections that a change of host ports makes wrong. UDP has no end: a client that goes on sending
// from the same port would be led to the old place for ever.
type staleUDP struct {
	bindings []binding
	local    []netip.Addr // when publishing: what went to the machine itself until now
}

func (s staleUDP) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	dst, _ := netip.AddrFromSlice(flow.Forward.DstIP)
	from, _ := netip.AddrFromSlice(flow.Reverse.SrcIP)
	dst, from = dst.Unmap(), from.Unmap()
	for _, b := range s.bindings {
		if b.proto != unix.IPPROTO_UDP || flow.Forward.DstPort != b.port || dst.Is4() != b.addr.Is4() || !b.addr.IsUnspecified() && dst != b.addr {
			continue
		}
		if from == b.target.Addr() {
			return true
		}
		for _, l := range s.local {
			if l == dst {
				return true
			}
		}
	}
	return false
}

func flushUDP(bs []binding, publishing bool) error {
	families := map[netlink.InetFamily]bool{}
	for _, b := range bs {
		if b.proto == unix.IPPROTO_UDP {
			families[netlink.InetFamily(familyOf(b.addr))] = true
		}
	}
	if len(families) == 0 {
		return nil
	}
	filter := staleUDP{bindings: bs}
	if publishing {
		addrs, err := net.InterfaceAddrs()
		if err != nil {
			return fmt.Errorf("listing the machine's addresses: %w", err)
		}
		for _, a := range addrs {
			if ipn, ok := a.(*net.IPNet); ok {
				ip, _ := netip.AddrFromSlice(ipn.IP)
				filter.local = append(filter.local, ip.Unmap())
			}
		}
	}
	for family := range families {
		// An interrupted dump has missed at most what began meanwhile, by the new rules.
		_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, filter)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("forgetting tracked UDP connections of host ports: %w", err)
		}
	}
	return nil
}
