package nettest

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
)

// An Outside is a neighbouring machine: a namespace linked to the test's own.
type Outside struct {
	*Namespace
	Addrs []netip.Addr // its own
	Host  []netip.Addr // the test machine's, on the link to it
}

// NewOutside makes a neighbour that knows no route to pods: only masqueraded traffic gets answers.
func NewOutside(t testing.TB) *Outside {
	t.Helper()
	o := &Outside{
		Namespace: NewNamespace(t),
		Addrs:     []netip.Addr{netip.MustParseAddr("203.0.113.2"), netip.MustParseAddr("2001:db8::2")},
		Host:      []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8::1")},
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "uplink0"
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(o.File.Fd()))}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.LinkDel(veth); err != nil {
			t.Error(err)
		}
	})
	configure := func(name string, addrs []netip.Addr, bits []string) error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for i, a := range addrs {
			addr, err := netlink.ParseAddr(a.String() + bits[i])
			if err != nil {
				return err
			}
			addr.Flags = 2 // IFA_F_NODAD
			if err := netlink.AddrAdd(link, addr); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(link)
	}
	bits := []string{"/24", "/64"}
	if err := configure("uplink0", o.Host, bits); err != nil {
		t.Fatal(err)
	}
	o.Do(func() error { return configure("eth0", o.Addrs, bits) })
	return o
}
