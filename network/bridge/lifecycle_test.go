package bridge

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/network/attachment"
	"github.com/shimd/shimd/network/nettest"
)

func reopen(t *testing.T, n *Network) *Network {
	t.Helper()
	n.Close()
	m, err := Open(n.opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func elementCount(t *testing.T, n *Network) (count int) {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range n.nft.table.sets {
		es, err := c.GetSetElements(s)
		if err != nil {
			t.Fatal(err)
		}
		if !s.Interval {
			count += len(es)
		}
	}
	return count
}

func TestAttachIsIdempotentAcrossARestart(t *testing.T) {
	n := open(t, Options{})
	ns, ips := served(t, n, "a")
	n = reopen(t, n)
	req := publishing("a", n.sandboxes["a"].Ports...)
	req.NetNSPath = ns.Path
	for range 2 {
		res, err := n.Attach(context.Background(), req)
		if err != nil || len(res.IPs) != 2 || res.IPs[0] != ips[0] || res.IPs[1] != ips[1] {
			t.Fatalf("got %v %v, want %v", res.IPs, err, ips)
		}
	}
	seen, err := nettest.Ask("tcp", "127.0.0.1:8080")
	expect(t, seen, err, n.pools[0].gateway().Addr())
	_, next := attach(t, n, attachment.Request{ID: "b"})
	if next[0] == ips[0] {
		t.Error("a restarted daemon gave an address twice")
	}
}

func TestDetachLeavesNothing(t *testing.T) {
	n := open(t, Options{})
	ns, _ := attach(t, n, attachment.Request{
		ID: "a", Annotations: map[string]string{"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "8M"},
		PortMappings: []attachment.PortMapping{{Protocol: "sctp", ContainerPort: 80, HostPort: 8080}, {Protocol: "udp", ContainerPort: 80, HostPort: 8080}},
	})
	if elementCount(t, n) == 0 {
		t.Fatal("nothing was published")
	}
	link, err := netlink.LinkByName(ifbName(n.vethName("a")))
	if err != nil {
		t.Fatal(err)
	}
	qs, err := netlink.QdiscList(link)
	if err != nil || len(qs) == 0 || qs[0].Type() != "tbf" || qs[0].(*netlink.Tbf).Rate != 1_000_000 {
		t.Errorf("egress is limited by %v %v", qs, err)
	}
	for range 2 {
		if err := n.Detach(context.Background(), "a"); err != nil {
			t.Fatal(err)
		}
	}
	ns.Close()
	if c := elementCount(t, n); c != 0 {
		t.Errorf("%d elements are left in nftables", c)
	}
	if _, err := netlink.LinkByName(ifbName(n.vethName("a"))); err == nil {
		t.Error("the egress device is left")
	}
	if files, _ := os.ReadDir(n.records.Dir); len(files) != 0 {
		t.Error("a record is left")
	}
	if len(n.pools[0].used)+len(n.pools[1].used)+len(n.ports)+len(n.sandboxes) != 0 {
		t.Errorf("left in memory: %v %v %v", n.pools[0].used, n.ports, n.sandboxes)
	}
}

func TestBandwidthStillPassesTraffic(t *testing.T) {
	n := open(t, Options{})
	pod, ips := attach(t, n, attachment.Request{ID: "a", Annotations: map[string]string{"kubernetes.io/ingress-bandwidth": "1M", "kubernetes.io/egress-bandwidth": "1k"}})
	pod.Listen("tcp", ":80")
	seen, err := nettest.Ask("tcp", at(ips[0], 80))
	expect(t, seen, err, n.pools[0].gateway().Addr())
	ns := nettest.NewNamespace(t)
	_, err = n.Attach(context.Background(), attachment.Request{ID: "b", NetNSPath: ns.Path, Annotations: map[string]string{"kubernetes.io/egress-bandwidth": "lots"}})
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("a bandwidth that is none: %v", err)
	}
}

func TestFiftyAtOnce(t *testing.T) {
	n := open(t, Options{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[netip.Addr]bool{}
	for i := range 50 {
		ns := nettest.NewNamespace(t)
		wg.Add(1)
		go func() {
			defer wg.Done()
			res, err := n.Attach(context.Background(), attachment.Request{
				ID: fmt.Sprint("p", i), NetNSPath: ns.Path,
				PortMappings: []attachment.PortMapping{{Protocol: "tcp", ContainerPort: 80, HostPort: uint16(9000 + i)}},
			})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			for _, ip := range res.IPs {
				if seen[ip] {
					t.Error("given twice:", ip)
				}
				seen[ip] = true
			}
		}()
	}
	wg.Wait()
	if c := elementCount(t, n); c != 200 {
		t.Errorf("%d elements, want 200", c)
	}
	for i := range 50 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := n.Detach(context.Background(), fmt.Sprint("p", i)); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	if c := elementCount(t, n); c != 0 {
		t.Errorf("%d elements are left", c)
	}
}

func TestReconcile(t *testing.T) {
	n := open(t, Options{})
	_, ips := served(t, n, "live")
	attach(t, n, publishing("dead", attachment.PortMapping{Protocol: "tcp", ContainerPort: 80, HostPort: 81}))
	lost, _ := attach(t, n, attachment.Request{ID: "lost"}) // its record is gone, its namespace is held
	if err := os.Remove(n.records.Path("lost")); err != nil {
		t.Fatal(err)
	}
	n = reopen(t, n)
	c, _ := nftables.New()
	c.DelTable(n.nft.table.table) // a reload of the machine's firewall while the daemon was down, say
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := n.Reconcile(context.Background(), []string{"live"}); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]bool{"live": true, "dead": false, "lost": false} {
		if _, err := netlink.LinkByName(n.vethName(id)); (err == nil) != want {
			t.Errorf("veth of %s: %v", id, err)
		}
	}
	if _, err := os.Stat(n.records.Path("dead")); err == nil {
		t.Error("the record of what is gone is left")
	}
	seen, err := nettest.Ask("tcp", "127.0.0.1:8080")
	expect(t, seen, err, n.pools[0].gateway().Addr())
	if c := elementCount(t, n); c != 8 {
		t.Errorf("%d elements, want the 8 of the live one", c)
	}
	_, _ = ips, lost
}

func TestRemovedBridgeIsMadeAgain(t *testing.T) {
	n := open(t, Options{})
	attach(t, n, attachment.Request{ID: "a"})
	if err := n.deleteLink(n.opts.BridgeName); err != nil {
		t.Fatal(err)
	}
	pod, ips := attach(t, n, attachment.Request{ID: "b"})
	pod.Listen("tcp", ":80")
	seen, err := nettest.Ask("tcp", at(ips[0], 80))
	expect(t, seen, err, n.pools[0].gateway().Addr())
}

func TestTornRecordsAreSetAside(t *testing.T) {
	n := open(t, Options{})
	attach(t, n, attachment.Request{ID: "good"})
	whole, _ := os.ReadFile(n.records.Path("good"))
	for name, data := range map[string][]byte{"torn.json": whole[:len(whole)/2], "empty.json": nil, "other.json": whole, "half.json.tmp": whole[:9]} {
		if err := os.WriteFile(filepath.Join(n.records.Dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n = reopen(t, n)
	if len(n.sandboxes) != 1 || !n.Has("good") {
		t.Errorf("read %v", n.sandboxes)
	}
	if _, err := os.Stat(filepath.Join(n.records.Dir, "torn.json.broken")); err != nil {
		t.Error(err)
	}
	if err := n.Reconcile(context.Background(), nil); err != nil {
		t.Error(err)
	}
}

func TestExhaustionIsSaid(t *testing.T) {
	n := open(t, Options{PodCIDR: "10.98.0.0/29"})
	for i := range 5 {
		attach(t, n, attachment.Request{ID: fmt.Sprint(i)})
	}
	ns := nettest.NewNamespace(t)
	_, err := n.Attach(context.Background(), attachment.Request{ID: "six", NetNSPath: ns.Path})
	if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "10.98.0.0/29") {
		t.Errorf("got %v", err)
	}
	if err := n.Detach(context.Background(), "3"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Attach(context.Background(), attachment.Request{ID: "six", NetNSPath: ns.Path}); err != nil {
		t.Error(err)
	}
}

func TestSetPodCIDR(t *testing.T) {
	n := open(t, Options{})
	old, oldIPs := attach(t, n, attachment.Request{ID: "old"})
	for _, bad := range []string{"x", "10.0.0.0/8,10.1.0.0/16", "10.0.0.0/31", "127.0.0.0/8", "1.2.3.4/24,fd00::/64,10.0.0.0/24"} {
		if err := n.SetPodCIDR(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := errors.Join(n.SetPodCIDR(""), n.SetPodCIDR("10.97.3.0/24"), n.SetPodCIDR("10.97.3.0/24")); err != nil {
		t.Fatal(err)
	}
	n = reopen(t, n)
	pod, ips := attach(t, n, attachment.Request{ID: "new"})
	if len(ips) != 1 || !netip.MustParsePrefix("10.97.3.0/24").Contains(ips[0]) {
		t.Fatalf("got %v", ips)
	}
	old.Listen("tcp", ":80")
	seen, err := pod.Ask("tcp", at(oldIPs[0], 80))
	expect(t, seen, err, ips[0])
	if err := n.Reconcile(context.Background(), []string{"new"}); err != nil {
		t.Fatal(err)
	}
	s, _ := n.socket()
	defer n.giveBack(s)
	index, _ := s.Index(n.opts.BridgeName)
	have, err := addressesOf(s, index)
	for _, a := range have {
		if !a.Addr().IsLinkLocalUnicast() && a != netip.MustParsePrefix("10.97.3.1/24") {
			t.Errorf("the bridge still has %s %v", a, err)
		}
	}
}

// A kubelet may ask for pods before it has its node's pod CIDR. With AwaitCIDR they wait, for later daemons too.
func TestAwaitCIDR(t *testing.T) {
	n := open(t, Options{AwaitCIDR: true})
	ns := nettest.NewNamespace(t)
	_, err := n.Attach(context.Background(), attachment.Request{ID: "early", NetNSPath: ns.Path})
	if ready := n.Ready(context.Background()); !errdefs.IsUnavailable(err) || !errdefs.IsUnavailable(ready) {
		t.Fatalf("without a CIDR: attached: %v, ready: %v", err, ready)
	}
	if err := n.Detach(context.Background(), "early"); err != nil {
		t.Fatal(err)
	}
	const forward = "/proc/sys/net/ipv4/ip_forward"
	if err := os.WriteFile(forward, []byte("0"), 0o644); err != nil { // of the test's own network namespace
		t.Fatal(err)
	}
	if err := n.SetPodCIDR("10.97.4.0/24"); err != nil {
		t.Fatal(err)
	}
	if on, err := os.ReadFile(forward); err != nil || strings.TrimSpace(string(on)) != "1" {
		t.Errorf("a node without pods does not route: %q, %v", on, err)
	}
	n = reopen(t, n)
	if err := n.Ready(context.Background()); err != nil {
		t.Error(err)
	}
	if _, ips := attach(t, n, attachment.Request{ID: "late"}); len(ips) != 1 || !netip.MustParsePrefix("10.97.4.0/24").Contains(ips[0]) {
		t.Errorf("got %v", ips)
	}
}

func TestDefaultCIDRAvoidsRoutes(t *testing.T) {
	taken := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("10.88.0.0/14"), netip.MustParsePrefix("10.92.7.0/24")}
	got, err := chooseCIDRs(DefaultBridge, taken, true)
	if err != nil || got[0] != netip.MustParsePrefix("10.93.0.0/16") || len(got) != 2 || got[1].Bits() != 64 || !got[1].Addr().IsPrivate() {
		t.Errorf("got %v %v", got, err)
	}
	other, err := chooseCIDRs("shimd12345678", nil, false)
	if err != nil || len(other) != 1 || other[0] == netip.MustParsePrefix("10.88.0.0/16") {
		t.Errorf("got %v %v", other, err)
	}
	if _, err := chooseCIDRs(DefaultBridge, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, true); !errdefs.IsUnavailable(err) {
		t.Errorf("got %v", err)
	}
}

// A pod cannot take over traffic by rogue router advertisements: neither the host nor another pod listens to them.
func TestCVE_2020_10749_RouterAdvertisementsAreIgnored(t *testing.T) {
	n := open(t, Options{})
	pod, _ := attach(t, n, attachment.Request{ID: "quiet"})
	check := func(iface, name, want string) error {
		b, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + iface + "/" + name)
		if err != nil || strings.TrimSpace(string(b)) != want {
			t.Errorf("%s of %s is %q %v, want %s", name, iface, b, err, want)
		}
		return nil
	}
	_ = check(n.opts.BridgeName, "accept_ra", "0")
	_ = check(n.vethName("quiet"), "accept_ra", "0")
	pod.Do(func() error { return check("eth0", "accept_ra", "0") })
}

func TestAttachRefusesWhatIsNoNamespace(t *testing.T) {
	n := open(t, Options{})
	for _, path := range []string{"", "/nonexistent", t.TempDir(), "/etc/passwd"} {
		_, err := n.Attach(context.Background(), attachment.Request{ID: "a", NetNSPath: path})
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", path, err)
		}
	}
	if _, err := n.Attach(context.Background(), attachment.Request{ID: "../a"}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if len(n.sandboxes) != 0 {
		t.Error("a refused sandbox is remembered")
	}
}

// A veth of our name whose peer is elsewhere, as after a crash, must not keep a sandbox from being attached.
func TestStaleVethIsReplaced(t *testing.T) {
	n := open(t, Options{})
	attach(t, n, attachment.Request{ID: "warm"})
	elsewhere := nettest.NewNamespace(t)
	s, _ := n.socket()
	index, _ := s.Index(n.opts.BridgeName)
	if err := s.Do(vethSteps(n.vethName("stale"), index, 1500, macOf(netip.MustParseAddr("10.1.1.1")), elsewhere.File)...); err != nil {
		t.Fatal(err)
	}
	n.giveBack(s)
	pod, ips := attach(t, n, attachment.Request{ID: "stale"})
	pod.Listen("tcp", ":80")
	seen, err := nettest.Ask("tcp", at(ips[0], 80))
	expect(t, seen, err, n.pools[0].gateway().Addr())
}

// threadsAway lists the threads that are not in the network namespace of the one that asks.
func threadsAway(t *testing.T) map[string]bool {
	t.Helper()
	var home, now unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &home); err != nil {
		t.Fatal(err)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	away := map[string]bool{}
	for _, task := range tasks {
		if err := unix.Stat("/proc/self/task/"+task.Name()+"/ns/net", &now); err == nil && now.Ino != home.Ino {
			away[task.Name()] = true
		}
	}
	return away
}

func TestThreadsComeHome(t *testing.T) {
	n := open(t, Options{})
	var spaces []*nettest.Namespace
	for range 20 {
		spaces = append(spaces, nettest.NewNamespace(t)) // these do leave threads away, until they end
	}
	before := threadsAway(t)
	for i, ns := range spaces {
		if _, err := n.Attach(context.Background(), attachment.Request{ID: fmt.Sprint("t", i), NetNSPath: ns.Path}); err != nil {
			t.Fatal(err)
		}
	}
	for thread := range threadsAway(t) {
		if !before[thread] {
			t.Errorf("thread %s is still in another network namespace", thread)
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"ID":"a","NetNSPath":"/n","Addresses":["10.0.0.2/16"],"Gateways":["10.0.0.1"],"Ports":[{"Protocol":"tcp","ContainerPort":1,"HostPort":2}]}`))
	f.Add([]byte(`{"ID":"..","Addresses":["::/0"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRecord(data)
		if err != nil {
			return
		}
		if _, err := bindings(r.Ports, r.Addresses); err != nil && !errdefs.IsInvalidArgument(err) {
			t.Error(err)
		}
		_ = r.result()
		newPool(r.Addresses[0]).take(r.Addresses[0].Addr(), r.ID)
	})
}
