package bridge

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The one table of a daemon, as nft would write it:
//
//	table inet shimd {
//	  map ports4     { inet_proto . inet_service : ipv4_addr . inet_service }              # likewise for IPv6
//	  map addrports4 { ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }
//	  set published4 { ipv4_addr . inet_proto . inet_service }                             # where ports4 and addrports4 lead
//	  set pods4      { ipv4_addr; interval }                                               # the pod CIDRs
//	  chain guard       { filter prerouting raw;  iifname BRIDGE ip daddr or saddr 127.0.0.0/8 drop }
//	  chain prerouting  { nat prerouting dstnat;  fib daddr type local jump hostports }
//	  chain output      { nat output -100;        ip6 daddr ::1 return; fib daddr type local jump hostports }
//	  chain hostports   { dnat ip to ip daddr . meta l4proto . th dport map @addrports4
//	                      dnat ip to meta l4proto . th dport map @ports4                   # likewise for IPv6 }
//	  chain postrouting { nat postrouting srcnat
//	                      oifname BRIDGE ip saddr 127.0.0.0/8 masquerade
//	                      ct status dnat ip saddr @pods4 ip daddr . meta l4proto . th dport @published4 masquerade
//	                      ip saddr @pods4 ip daddr != @pods4 ip daddr != 224.0.0.0/4 masquerade }
//	}
//
// A pod costs no rule, and one without host ports not even an element.
//
//   - fib daddr type local: only what is addressed to this machine is turned to a pod, not what pods send elsewhere at the same port (CVE-2025-67499).
//   - guard: 127.0.0.1:hostPort works from the machine itself since the bridge has route_localnet. Packets with a loopback address that arrive
//     from a pod would then be taken for the machine's own: they are dropped before connection tracking turns genuine answers, which still have
//     the gateway's address at that point, back to 127.0.0.1 (CVE-2020-8558).
//   - The second rule of postrouting: a pod that reaches itself, or a neighbour on the bridge, through a host port gets its answers by way of the machine.
//     (A Service that leads to the same container port matches too, at the price of the client's address.)
//   - IPv6 has no route_localnet: [::1]:hostPort can't be forwarded.
//   - An accept in a table of one's own overrules no drop in another's: where the machine's own forward chain drops, the operator has to let the bridge through; it is logged.
type table struct {
	table *nftables.Table
	v4    family
	v6    family
	sets  []*nftables.Set
}

// family holds the sets of an address family.
type family struct {
	ports, addrPorts, published, pods *nftables.Set

	nfproto      byte
	addrLen      uint32
	saddr, daddr uint32 // offsets in the network header
}

func newTable(name string) *table {
	t := &table{table: &nftables.Table{Family: nftables.TableFamilyINet, Name: name}}
	id := uint32(0)
	set := func(name string, key nftables.SetDatatype, data *nftables.SetDatatype, interval bool) *nftables.Set {
		id++
		s := &nftables.Set{Table: t.table, Name: name, ID: id, KeyType: key, Interval: interval, Concatenation: !interval}
		if data != nil {
			s.IsMap, s.DataType = true, *data
		}
		t.sets = append(t.sets, s)
		return s
	}
	build := func(digit string, addr nftables.SetDatatype) family {
		target := nftables.MustConcatSetType(addr, nftables.TypeInetService)
		return family{
			ports:     set("ports"+digit, nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService), &target, false),
			addrPorts: set("addrports"+digit, nftables.MustConcatSetType(addr, nftables.TypeInetProto, nftables.TypeInetService), &target, false),
			published: set("published"+digit, nftables.MustConcatSetType(addr, nftables.TypeInetProto, nftables.TypeInetService), nil, false),
			pods:      set("pods"+digit, addr, nil, true),
		}
	}
	t.v4 = build("4", nftables.TypeIPAddr)
	t.v4.nfproto, t.v4.addrLen, t.v4.saddr, t.v4.daddr = unix.NFPROTO_IPV4, 4, 12, 16
	t.v6 = build("6", nftables.TypeIP6Addr)
	t.v6.nfproto, t.v6.addrLen, t.v6.saddr, t.v6.daddr = unix.NFPROTO_IPV6, 16, 8, 24
	return t
}

func (t *table) of(a netip.Addr) *family {
	if a.Is4() {
		return &t.v4
	}
	return &t.v6
}

// install gathers a transaction that puts the whole table in place of whatever has its name: connections go on, packets never see half of it.
func (t *table) install(c *nftables.Conn, bridge string, masquerade bool, pods []netip.Prefix, elements []element) error {
	c.AddTable(t.table)
	c.DelTable(t.table)
	c.AddTable(t.table)
	for _, s := range t.sets {
		if err := c.AddSet(s, nil); err != nil {
			return fmt.Errorf("preparing nftables set %s: %w", s.Name, err)
		}
	}
	for _, p := range pods {
		first, end := p.Masked().Addr(), lastOf(p).Next()
		e := []nftables.SetElement{{Key: first.AsSlice()}}
		if end.IsValid() {
			e = append(e, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
		if err := c.SetAddElements(t.of(first).pods, e); err != nil {
			return fmt.Errorf("preparing pod CIDR %s for nftables: %w", p, err)
		}
	}
	if err := add(c, elements); err != nil {
		return err
	}
	t.addRules(c, bridge, masquerade)
	return nil
}

func (t *table) chain(c *nftables.Conn, name string, kind nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
	ch := &nftables.Chain{Name: name, Table: t.table}
	if hook != nil {
		ch.Type, ch.Hooknum, ch.Priority = kind, hook, &priority
	}
	return c.AddChain(ch)
}

func (t *table) addRules(c *nftables.Conn, bridge string, masquerade bool) {
	guard := t.chain(c, "guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw)
	hostports := t.chain(c, "hostports", "", nil, 0)
	prerouting := t.chain(c, "prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest)
	output := t.chain(c, "output", nftables.ChainTypeNAT, nftables.ChainHookOutput, *nftables.ChainPriorityNATDest)
	postrouting := t.chain(c, "postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource)
	rule := func(ch *nftables.Chain, parts ...[]expr.Any) {
		var all []expr.Any
		for _, p := range parts {
			all = append(all, p...)
		}
		c.AddRule(&nftables.Rule{Table: t.table, Chain: ch, Exprs: all})
	}
	v4, v6 := &t.v4, &t.v6
	drop := []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	for _, offset := range []uint32{v4.daddr, v4.saddr} {
		rule(guard, ifname(expr.MetaKeyIIFNAME, bridge), v4.proto(), loopback4(offset), drop)
	}
	rule(output, v6.proto(), payloadIs(v6.daddr, netip.IPv6Loopback().AsSlice()), []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}})
	for _, ch := range []*nftables.Chain{prerouting, output} {
		rule(ch, daddrLocal(), []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: hostports.Name}})
	}
	for _, f := range []*family{v4, v6} {
		rule(hostports, f.proto(), f.loadAddrPort(), f.dnat(f.addrPorts))
		rule(hostports, f.proto(), loadPort(1, 9), f.dnat(f.ports))
	}
	masq := []expr.Any{&expr.Masq{}}
	rule(postrouting, ifname(expr.MetaKeyOIFNAME, bridge), v4.proto(), loopback4(v4.saddr), masq)
	for _, f := range []*family{v4, v6} {
		rule(postrouting, f.proto(), statusDNAT(), f.inPods(f.saddr, false), f.loadAddrPort(), []expr.Any{lookup(f.published, 0, false)}, masq)
	}
	if masquerade {
		random := []expr.Any{&expr.Masq{FullyRandom: true}}
		rule(postrouting, v4.proto(), v4.inPods(v4.saddr, false), v4.inPods(v4.daddr, true), firstByteNot(v4.daddr, 0xf0, 0xe0), random)
		rule(postrouting, v6.proto(), v6.inPods(v6.saddr, false), v6.inPods(v6.daddr, true), firstByteNot(v6.daddr, 0xff, 0xff), random)
	}
}

func (f *family) proto() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f.nfproto}}}
}

func network(register, offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

// loadPort loads protocol and destination port into registers that follow each other as in a concatenated key.
func loadPort(proto, port uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: proto},
		&expr.Payload{DestRegister: port, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// loadAddrPort loads daddr . l4proto . dport. Registers 8 to 23 are of 4 bytes, 1 is 8 to 11.
func (f *family) loadAddrPort() []expr.Any {
	after := 8 + f.addrLen/4
	return append([]expr.Any{network(1, f.daddr, f.addrLen)}, loadPort(after, after+1)...)
}

func lookup(s *nftables.Set, dest uint32, invert bool) expr.Any {
	l := &expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID, Invert: invert}
	if s.IsMap {
		l.DestRegister, l.IsDestRegSet = dest, true
	}
	return l
}

func (f *family) dnat(m *nftables.Set) []expr.Any {
	return []expr.Any{lookup(m, 1, false), &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.nfproto), RegAddrMin: 1, RegProtoMin: 8 + f.addrLen/4}}
}

func (f *family) inPods(offset uint32, invert bool) []expr.Any {
	return []expr.Any{network(1, offset, f.addrLen), lookup(f.pods, 0, invert)}
}

func payloadIs(offset uint32, value []byte) []expr.Any {
	return []expr.Any{network(1, offset, uint32(len(value))), &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value}}
}

func loopback4(offset uint32) []expr.Any { return payloadIs(offset, []byte{127}) }

func firstByteNot(offset uint32, mask, value byte) []expr.Any {
	return []expr.Any{
		network(1, offset, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{mask}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{value}},
	}
}

func ifname(key expr.MetaKey, name string) []expr.Any {
	data := make([]byte, unix.IFNAMSIZ)
	copy(data, name)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data}}
}

func daddrLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

func statusDNAT() []expr.Any {
	const dstNAT = 1 << 5 // IPS_DST_NAT
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(dstNAT), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
