package bridge

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/network/attachment"
	"github.com/shimd/shimd/network/nettest"
)

func publishing(id string, ports ...attachment.PortMapping) attachment.Request {
	return attachment.Request{ID: id, PortMappings: ports}
}

// served attaches a pod that serves tcp and udp at port 80 and is published at 8080.
func served(t *testing.T, n *Network, id string) (*nettest.Namespace, []netip.Addr) {
	t.Helper()
	ns, ips := attach(t, n, publishing(id,
		attachment.PortMapping{Protocol: "tcp", ContainerPort: 80, HostPort: 8080},
		attachment.PortMapping{Protocol: "udp", ContainerPort: 80, HostPort: 8080}))
	ns.Listen("tcp", ":80")
	for _, ip := range ips { // one socket for all addresses would answer from another one
		ns.Listen("udp", at(ip, 80))
	}
	return ns, ips
}

func TestHostPorts(t *testing.T) {
	n := open(t, Options{})
	out := nettest.NewOutside(t)
	pod, ips := served(t, n, "server")
	other, _ := attach(t, n, attachment.Request{ID: "other"})
	for _, proto := range []string{"tcp", "udp"} {
		for i, host := range out.Host {
			gateway := n.pools[i].gateway().Addr()
			t.Run(proto+" from the node by its address "+host.String(), func(t *testing.T) {
				seen, err := nettest.Ask(proto, at(host, 8080))
				expect(t, seen, err, netip.Addr{})
			})
			t.Run(proto+" from outside to "+host.String(), func(t *testing.T) {
				seen, err := out.Ask(proto, at(host, 8080))
				expect(t, seen, err, out.Addrs[i]) // the client's address is kept
			})
			t.Run(proto+" from the pod itself by "+host.String(), func(t *testing.T) {
				seen, err := pod.Ask(proto, at(host, 8080))
				expect(t, seen, err, gateway)
			})
			t.Run(proto+" from its neighbour by "+host.String(), func(t *testing.T) {
				seen, err := other.Ask(proto, at(host, 8080))
				expect(t, seen, err, gateway)
			})
			t.Run(proto+" from the pod itself by the gateway "+gateway.String(), func(t *testing.T) {
				seen, err := pod.Ask(proto, at(gateway, 8080))
				expect(t, seen, err, gateway)
			})
		}
		t.Run(proto+" from the node by 127.0.0.1", func(t *testing.T) {
			seen, err := nettest.Ask(proto, "127.0.0.1:8080")
			expect(t, seen, err, n.pools[0].gateway().Addr())
		})
	}
	if err := n.Detach(context.Background(), "server"); err != nil {
		t.Fatal(err)
	}
	if seen, err := nettest.Ask("tcp", "127.0.0.1:8080"); err == nil {
		t.Errorf("still published after Detach: the server saw %s", seen)
	}
	_ = ips
}

func TestMasquerade(t *testing.T) {
	n := open(t, Options{})
	out := nettest.NewOutside(t)
	pod, _ := attach(t, n, attachment.Request{ID: "a"})
	for i, a := range out.Addrs {
		for _, proto := range []string{"tcp", "udp"} {
			out.Listen(proto, at(a, 80))
			seen, err := pod.Ask(proto, at(a, 80))
			expect(t, seen, err, out.Host[i])
		}
	}
}

// A host port captures only what is addressed to this machine: not what pods or the machine send elsewhere at the same port.
func TestCVE_2025_67499_HostPortCapturesOnlyLocalAddresses(t *testing.T) {
	n := open(t, Options{})
	out := nettest.NewOutside(t)
	served(t, n, "server")
	client, _ := attach(t, n, attachment.Request{ID: "client"})
	for i, a := range out.Addrs {
		out.Listen("tcp", at(a, 8080))
		seen, err := client.Ask("tcp", at(a, 8080))
		expect(t, seen, err, out.Host[i]) // as only the outside machine sees it, masqueraded
		seen, err = nettest.Ask("tcp", at(a, 8080))
		expect(t, seen, err, out.Host[i])
	}
}

// The bridge has route_localnet for 127.0.0.1:hostPort; a pod still must not reach what listens on the node's loopback.
func TestCVE_2020_8558_NeighboursDoNotReachLoopback(t *testing.T) {
	n := open(t, Options{})
	served(t, n, "server")
	c, err := net.ListenPacket("udp", "127.0.0.1:7070")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	attacker, ips := attach(t, n, attachment.Request{ID: "attacker"})
	gateway := n.pools[0].gateway().Addr()
	send := func(dst netip.Addr, port uint16) {
		attacker.Do(func() error {
			if seen, err := nettest.Ask("udp", at(gateway, 9)); err == nil { // learn the gateway's hardware address
				return errors.New("unexpected answer " + seen)
			}
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			eth0, err := net.InterfaceByName("eth0")
			if err != nil {
				return err
			}
			sa := &unix.SockaddrLinklayer{Protocol: 0x0008, Ifindex: eth0.Index, Halen: 6}
			copy(sa.Addr[:], macOf(gateway))
			return unix.Sendto(fd, udpPacket(ips[0], dst, port), 0, sa)
		})
	}
	// The packet is a good one: to the gateway's own address it arrives.
	g, err := net.ListenPacket("udp", at(gateway, 7070))
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	buf := make([]byte, 100)
	send(gateway, 7070)
	_ = g.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, _, err := g.ReadFrom(buf); err != nil {
		t.Fatal("the packet made by hand does not arrive anywhere:", err)
	}
	send(netip.MustParseAddr("127.0.0.1"), 7070)
	send(gateway, 7070) // when this one is here, the other would have been
	_ = g.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, _, err := g.ReadFrom(buf); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, from, err := c.ReadFrom(buf); err == nil {
		t.Errorf("a pod's packet from %s reached 127.0.0.1", from)
	}
}

func udpPacket(src, dst netip.Addr, port uint16) []byte {
	p := make([]byte, 28)
	p[0], p[3], p[8], p[9] = 0x45, 28, 64, unix.IPPROTO_UDP
	copy(p[12:], src.AsSlice())
	copy(p[16:], dst.AsSlice())
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(p[i])<<8 | uint32(p[i+1])
	}
	sum = ^(sum&0xffff + sum>>16)
	p[10], p[11] = byte(sum>>8), byte(sum)
	p[20], p[21], p[22], p[23], p[25] = 0x10, 0x10, byte(port>>8), byte(port), 8
	return p
}

func TestHostIP(t *testing.T) {
	n := open(t, Options{})
	out := nettest.NewOutside(t)
	pod, _ := attach(t, n, publishing("a", attachment.PortMapping{Protocol: "tcp", ContainerPort: 80, HostPort: 8080, HostIP: out.Host[0]}))
	pod.Listen("tcp", ":80")
	b, _ := attach(t, n, publishing("b", attachment.PortMapping{Protocol: "tcp", ContainerPort: 81, HostPort: 8080, HostIP: netip.MustParseAddr("127.0.0.1")}))
	b.Listen("tcp", ":81")
	seen, err := out.Ask("tcp", at(out.Host[0], 8080))
	expect(t, seen, err, out.Addrs[0])
	seen, err = nettest.Ask("tcp", "127.0.0.1:8080")
	expect(t, seen, err, n.pools[0].gateway().Addr())
	if seen, err := out.Ask("tcp", at(out.Host[1], 8080)); err == nil {
		t.Errorf("published at an address that was not asked for; the server saw %s", seen)
	}
}

func TestHostPortConflicts(t *testing.T) {
	any4, one, two := netip.Addr{}, netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.9")
	tcp := func(port uint16, ip netip.Addr) attachment.PortMapping {
		return attachment.PortMapping{Protocol: "tcp", ContainerPort: 80, HostPort: port, HostIP: ip}
	}
	for _, c := range []struct {
		name     string
		a, b     attachment.PortMapping
		conflict bool
	}{
		{"same", tcp(80, any4), tcp(80, any4), true},
		{"other port", tcp(80, any4), tcp(81, any4), false},
		{"one address and all", tcp(80, one), tcp(80, any4), true},
		{"all and one address", tcp(80, any4), tcp(80, one), true},
		{"two addresses", tcp(80, one), tcp(80, two), false},
		{"other protocol", tcp(80, any4), attachment.PortMapping{Protocol: "sctp", ContainerPort: 80, HostPort: 80}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := open(t, Options{})
			attach(t, n, publishing("first", c.a))
			ns := nettest.NewNamespace(t)
			req := publishing("second", c.b)
			req.NetNSPath = ns.Path
			_, err := n.Attach(context.Background(), req)
			if !c.conflict {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), "first") {
				t.Errorf("got %v, want ErrAlreadyExists that names the other", err)
			}
			if len(n.pools[0].used) != 1 || len(n.sandboxes) != 1 {
				t.Errorf("something was kept of the refused sandbox: %v", n.pools[0].used)
			}
			if err := n.Detach(context.Background(), "first"); err != nil {
				t.Fatal(err)
			}
			if _, err := n.Attach(context.Background(), req); err != nil {
				t.Error("after the first was detached:", err)
			}
		})
	}
}

// Somebody who flushes the whole ruleset takes host ports, masquerading and the guard away: they come back at once.
func TestFlushedRulesetIsRestored(t *testing.T) {
	n := open(t, Options{})
	served(t, n, "server")
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		c.FlushRuleset()
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
		for try := 0; ; try++ {
			if _, err := c.ListTableOfFamily(n.opts.TableName, nftables.TableFamilyINet); err == nil {
				break
			}
			if try == 500 {
				t.Fatal("the table was not put back")
			}
			time.Sleep(10 * time.Millisecond)
		}
		seen, err := nettest.Ask("tcp", "127.0.0.1:8080")
		expect(t, seen, err, n.pools[0].gateway().Addr())
	}
	c.FlushRuleset()
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	attach(t, n, publishing("other", attachment.PortMapping{Protocol: "tcp", ContainerPort: 80, HostPort: 8081})) // whoever is first
	seen, err := nettest.Ask("tcp", "127.0.0.1:8080")
	expect(t, seen, err, n.pools[0].gateway().Addr())
}

func TestManyHostPortsFit(t *testing.T) {
	n := open(t, Options{})
	req := attachment.Request{ID: "a"}
	for i := range 3000 {
		req.PortMappings = append(req.PortMappings, attachment.PortMapping{Protocol: "tcp", ContainerPort: uint16(i + 1), HostPort: uint16(20000 + i)})
	}
	attach(t, n, req)
	if err := n.installTable(); err != nil {
		t.Fatal(err)
	}
	if c := elementCount(t, n); c != 12000 {
		t.Errorf("%d elements, want 12000", c)
	}
	if err := n.Detach(context.Background(), "a"); err != nil {
		t.Fatal(err)
	}
	if c := elementCount(t, n); c != 0 {
		t.Errorf("%d elements are left", c)
	}
}

// A client that goes on sending from one port must reach the new pod, not a place remembered for its connection.
func TestUDPConnectionsAreForgotten(t *testing.T) {
	n := open(t, Options{})
	out := nettest.NewOutside(t)
	mapping := attachment.PortMapping{Protocol: "udp", ContainerPort: 80, HostPort: 5353}
	var conn *net.UDPConn
	ask := func() (string, error) {
		buf := make([]byte, 100)
		if _, err := conn.Write([]byte("?")); err != nil {
			return "", err
		}
		_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
		k, err := conn.Read(buf)
		return string(buf[:k]), err
	}
	out.Do(func() (err error) {
		conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(out.Host[0], 5353)))
		return err
	})
	defer conn.Close()
	_, _ = ask() // remembered as going to the machine itself
	for _, id := range []string{"first", "second"} {
		pod, ips := attach(t, n, publishing(id, mapping))
		pod.Listen("udp", at(ips[0], 80))
		_, err := ask()
		if errors.Is(err, unix.ECONNREFUSED) { // the answer to what was sent before
			_, err = ask()
		}
		if err != nil {
			t.Errorf("%s pod: %v", id, err)
		}
		if err := n.Detach(context.Background(), id); err != nil {
			t.Fatal(err)
		}
		pod.Close()
	}
}

func TestBindingsRefuseNonsense(t *testing.T) {
	addrs := []netip.Prefix{netip.MustParsePrefix("10.1.0.2/16"), netip.MustParsePrefix("fd00::2/64")}
	for name, ports := range map[string][]attachment.PortMapping{
		"protocol":      {{Protocol: "icmp", ContainerPort: 1, HostPort: 1}},
		"no container":  {{Protocol: "tcp", HostPort: 1}},
		"twice":         {{Protocol: "tcp", ContainerPort: 1, HostPort: 1}, {Protocol: "tcp", ContainerPort: 2, HostPort: 1}},
		"IPv6 loopback": {{Protocol: "tcp", ContainerPort: 1, HostPort: 1, HostIP: netip.IPv6Loopback()}},
	} {
		if _, err := bindings(ports, addrs); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	bs, err := bindings([]attachment.PortMapping{{Protocol: "tcp", ContainerPort: 80}, {Protocol: "tcp", ContainerPort: 80, HostPort: 8}, {Protocol: "tcp", ContainerPort: 80, HostPort: 8}}, addrs)
	if err != nil || len(bs) != 2 {
		t.Errorf("got %v %v, want one binding for each family", bs, err)
	}
}
