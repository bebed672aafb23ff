package bridge

import (
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
)

func TestPoolHandsOutEveryAddressOnceAndInTurn(t *testing.T) {
	for cidr, want := range map[string]int{"10.1.2.0/29": 5, "10.1.2.0/30": 1, "fd00::/125": 6, "fd00::/126": 2} {
		p := newPool(netip.MustParsePrefix(cidr))
		seen := map[netip.Addr]bool{}
		var first netip.Addr
		for i := range want {
			a, err := p.allocate("x")
			if err != nil || seen[a] || !p.prefix.Contains(a) || a == p.gateway().Addr() {
				t.Fatalf("%s: %s %v after %v", cidr, a, err, seen)
			}
			if seen[a] = true; i == 0 {
				first = a
			}
		}
		if want != p.capacity() {
			t.Errorf("%s: capacity %d, want %d", cidr, p.capacity(), want)
		}
		if _, err := p.allocate("x"); !errdefs.IsResourceExhausted(err) {
			t.Errorf("%s: %v", cidr, err)
		}
		p.release(first, "somebody else")
		if _, err := p.allocate("x"); err == nil {
			t.Errorf("%s: released by one who did not have it", cidr)
		}
		p.release(first, "x")
		if a, err := p.allocate("y"); err != nil || a != first {
			t.Errorf("%s: %s %v", cidr, a, err)
		}
	}
}

func TestPoolReusesTheLastReleasedLast(t *testing.T) {
	p := newPool(netip.MustParsePrefix("10.0.0.0/24"))
	a, _ := p.allocate("a")
	p.release(a, "a")
	for range p.capacity() - 1 {
		if b, err := p.allocate("b"); err != nil || b == a {
			t.Fatalf("%s came back at once (%v)", b, err)
		}
	}
	if b, err := p.allocate("b"); err != nil || b != a {
		t.Error(b, err)
	}
}

func TestMACsAreLocalUnicast(t *testing.T) {
	for _, a := range []string{"10.88.0.2", "fd00::2"} {
		mac := macOf(netip.MustParseAddr(a))
		if len(mac) != 6 || mac[0]&1 != 0 || mac[0]&2 == 0 {
			t.Errorf("%s: %s", a, mac)
		}
	}
}

func FuzzParseCIDRs(f *testing.F) {
	for _, s := range []string{"10.0.0.0/16,fd00::/64", "::ffff:1.2.3.4/112", "1.2.3.4/30", "fe80::/64"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		cidrs, err := parseCIDRs(s)
		if err != nil {
			return
		}
		for _, c := range cidrs {
			p := newPool(c)
			if a, err := p.allocate("x"); err != nil || !c.Contains(a) || a == p.gateway().Addr() {
				t.Errorf("%s: %s %v", c, a, err)
			}
		}
	})
}
