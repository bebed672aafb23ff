package bridge

import (
	"context"
	"net/netip"
	"testing"

	"github.com/google/nftables"

	"github.com/shimd/shimd/network/attachment"
	"github.com/shimd/shimd/network/nettest"
)

func TestMain(m *testing.M) { nettest.Main(m) }

func open(t testing.TB, opts Options) *Network {
	t.Helper()
	nettest.Require(t)
	if opts.StateDir == "" {
		opts.StateDir = t.TempDir()
	}
	if opts.BridgeName == "" {
		opts.BridgeName = "shimdt0"
	}
	if opts.TableName == "" {
		opts.TableName = "shimdt"
	}
	if opts.PodCIDR == "" && !opts.AwaitCIDR {
		opts.PodCIDR = "10.99.0.0/16,fd00:99::/64"
	}
	opts.Masquerade = true
	n, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = n.deleteLink(opts.BridgeName)
		n.Close()
		c, _ := nftables.New()
		c.AddTable(n.nft.table.table)
		c.DelTable(n.nft.table.table)
		_ = c.Flush()
	})
	return n
}

func attach(t testing.TB, n *Network, req attachment.Request) (*nettest.Namespace, []netip.Addr) {
	t.Helper()
	ns := nettest.NewNamespace(t)
	req.NetNSPath = ns.Path
	res, err := n.Attach(context.Background(), req)
	if err != nil {
		t.Fatal(err)
	}
	return ns, res.IPs
}

func at(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }

func expect(t testing.TB, seen string, err error, from netip.Addr) {
	t.Helper()
	if err != nil {
		t.Error(err)
		return
	}
	if ap, err := netip.ParseAddrPort(seen); err != nil || from.IsValid() && ap.Addr() != from {
		t.Errorf("the server saw %s, want %s", seen, from)
	}
}

func TestPodsReachEachOtherAndTheHost(t *testing.T) {
	n := open(t, Options{})
	a, ipsA := attach(t, n, attachment.Request{ID: "a"})
	b, ipsB := attach(t, n, attachment.Request{ID: "b"})
	for i := range 2 {
		b.Listen("tcp", at(ipsB[i], 80))
		seen, err := a.Ask("tcp", at(ipsB[i], 80))
		expect(t, seen, err, ipsA[i])
		seen, err = nettest.Ask("tcp", at(ipsB[i], 80))
		expect(t, seen, err, n.pools[i].gateway().Addr())
	}
	seen, err := a.Ask("tcp", "127.0.0.1:1")
	if err == nil {
		t.Error("something answered on a pod's loopback:", seen)
	}
}
