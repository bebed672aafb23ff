package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/shimd/shimd/network/nettest"
)

func TestMain(m *testing.M) {
	if os.Getenv("CNI_COMMAND") != "" {
		os.Exit(fakePlugin()) // we are a CNI plugin now: see fakeplugin_test.go
	}
	nettest.Main(m)
}

// A backend opens a network on a state directory; opened again it is the daemon restarted.
type backend struct {
	name string
	open func(t testing.TB, stateDir string) Network
}

func backends(t testing.TB) []backend {
	list := []backend{
		{"bridge", func(t testing.TB, dir string) Network {
			return opened(t, Options{StateDir: dir, PodCIDR: "10.91.0.0/16,fd00:91::/64"})
		}},
		{"CNI with a plugin of the test", func(t testing.TB, dir string) Network {
			return opened(t, fakeCNI(t, dir, fakeConf{}))
		}},
	}
	for _, dir := range []string{os.Getenv("SHIMD_TEST_CNI_BIN"), "/usr/lib/cni", "/opt/cni/bin"} {
		if _, err := os.Stat(filepath.Join(dir, "portmap")); err == nil && dir != "" {
			return append(list, backend{"CNI with bridge, host-local and portmap", func(t testing.TB, state string) Network {
				return opened(t, realCNI(t, state, dir))
			}})
		}
	}
	t.Log("no containernetworking-plugins in /usr/lib/cni, /opt/cni/bin or $SHIMD_TEST_CNI_BIN: the contract runs without them")
	return list
}

func opened(t testing.TB, opts Options) Network {
	t.Helper()
	nettest.Require(t)
	n, err := Open(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// realCNI configures the reference plugins, as a user of containerd would.
func realCNI(t testing.TB, state, bin string) Options {
	conf := filepath.Join(state, "net.d")
	text := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"real","plugins":[
		{"type":"bridge","bridge":"real0","isGateway":true,"ipMasq":true,"hairpinMode":true,
		 "ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.92.0.0/16"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
		{"type":"portmap","capabilities":{"portMappings":true},"snat":true}]}`, filepath.Join(state, "ipam"))
	writeConf(t, conf, "10-real.conflist", text)
	return Options{StateDir: filepath.Join(state, "shimd"), CNIConfDir: conf, CNIBinDirs: []string{bin}}
}

func writeConf(t testing.TB, dir, name, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// TestContract is what every backend must do: the doc comments of Network, as a test.
func TestContract(t *testing.T) {
	for _, b := range backends(t) {
		t.Run(b.name, func(t *testing.T) {
			for _, c := range []struct {
				name string
				test func(*testing.T, backend)
			}{
				{"attaches and serves", contractServes},
				{"is idempotent", contractIdempotent},
				{"refuses a host port in use", contractConflict},
				{"detaches what lost its namespace", contractNamespaceGone},
				{"keeps its sandboxes over a restart", contractRestart},
				{"many at once", contractParallel},
				{"refuses what cannot be", contractRefuses},
			} {
				t.Run(c.name, func(t *testing.T) { c.test(t, b) })
			}
		})
	}
}

func mustAttach(t *testing.T, n Network, id string, ports ...PortMapping) (*nettest.Namespace, Request, Result) {
	t.Helper()
	ns := nettest.NewNamespace(t)
	req := Request{ID: id, NetNSPath: ns.Path, Name: "pod-" + id, Namespace: "default", UID: "uid-" + id, PortMappings: ports}
	res, err := n.Attach(context.Background(), req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Detach(context.Background(), id, ns.Path); err != nil {
			t.Error(err)
		}
	})
	if len(res.IPs) == 0 || !res.IPs[0].IsValid() {
		t.Fatalf("no address: %v", res)
	}
	return ns, req, res
}

func contractServes(t *testing.T, b backend) {
	n := b.open(t, t.TempDir())
	if err := n.Ready(context.Background()); err != nil {
		t.Fatal(err)
	}
	server, _, res := mustAttach(t, n, "server", PortMapping{Protocol: "tcp", ContainerPort: 80, HostPort: 8088})
	client, _, clientRes := mustAttach(t, n, "client")
	server.Listen("tcp", ":80")
	client.Listen("tcp", "127.0.0.1:90")
	for _, ip := range res.IPs {
		seen, err := client.Ask("tcp", netip.AddrPortFrom(ip, 80).String())
		if err != nil {
			t.Error("from pod to pod:", err)
		} else if from := netip.MustParseAddrPort(seen).Addr().Unmap(); !slices.Contains(clientRes.IPs, from) {
			t.Errorf("the server saw %s, the client has %s", from, clientRes.IPs)
		}
	}
	if _, err := client.Ask("tcp", "127.0.0.1:90"); err != nil {
		t.Error("the pod's loopback:", err)
	}
	if _, err := nettest.Ask("tcp", "127.0.0.1:8088"); err != nil {
		t.Error("host port:", err)
	}
	stats, err := Interfaces(server.File)
	if err != nil || len(stats) < 2 || stats[0].Name != "lo" {
		t.Fatalf("counters: %v %v", stats, err)
	}
	i := slices.IndexFunc(stats, func(s InterfaceStats) bool { return s.Name == "eth0" })
	if i < 0 || stats[i].RxBytes == 0 || stats[i].TxPackets == 0 {
		t.Errorf("counters of eth0: %v", stats)
	}
	if _, err := json.Marshal(n.Info()); err != nil {
		t.Error(err)
	}
}

func contractIdempotent(t *testing.T, b backend) {
	n := b.open(t, t.TempDir())
	if err := n.Detach(context.Background(), "unknown", "/nonexistent"); err != nil {
		t.Error("detaching what never was:", err)
	}
	ns, req, res := mustAttach(t, n, "a", PortMapping{Protocol: "udp", ContainerPort: 80, HostPort: 8088})
	again, err := n.Attach(context.Background(), req)
	if err != nil || !slices.Equal(again.IPs, res.IPs) {
		t.Errorf("attached again: %v %v, before %v", again, err, res)
	}
	for range 2 {
		if err := n.Detach(context.Background(), "a", ns.Path); err != nil {
			t.Error(err)
		}
	}
}

func contractConflict(t *testing.T, b backend) {
	n := b.open(t, t.TempDir())
	port := PortMapping{Protocol: "tcp", ContainerPort: 80, HostPort: 8088}
	first, _, _ := mustAttach(t, n, "first", port)
	ns := nettest.NewNamespace(t)
	req := Request{ID: "second", NetNSPath: ns.Path, PortMappings: []PortMapping{port}}
	if _, err := n.Attach(context.Background(), req); !errdefs.IsAlreadyExists(err) {
		t.Errorf("got %v", err)
	}
	if err := errors.Join(n.Detach(context.Background(), "second", ns.Path), n.Detach(context.Background(), "first", first.Path)); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Attach(context.Background(), req); err != nil {
		t.Error("after the first was detached:", err)
	}
	if err := n.Detach(context.Background(), "second", ns.Path); err != nil {
		t.Error(err)
	}
}

func contractNamespaceGone(t *testing.T, b backend) {
	n := b.open(t, t.TempDir())
	ns, _, _ := mustAttach(t, n, "a", PortMapping{Protocol: "tcp", ContainerPort: 80, HostPort: 8088})
	ns.Close()
	if err := n.Detach(context.Background(), "a", ns.Path); err != nil {
		t.Error(err)
	}
	mustAttach(t, n, "b", PortMapping{Protocol: "tcp", ContainerPort: 80, HostPort: 8088})
}

func contractRestart(t *testing.T, b backend) {
	dir := t.TempDir()
	n := b.open(t, dir)
	_, req, res := mustAttach(t, n, "kept")
	dead, _, _ := mustAttach(t, n, "dead")
	n.Close()
	n = b.open(t, dir)
	if err := n.Reconcile(context.Background(), []string{"kept"}); err != nil {
		t.Fatal(err)
	}
	again, err := n.Attach(context.Background(), req)
	if err != nil || !slices.Equal(again.IPs, res.IPs) {
		t.Errorf("after a restart: %v %v, before %v", again, err, res)
	}
	_, _, other := mustAttach(t, n, "new")
	if other.IPs[0] == res.IPs[0] {
		t.Error("an address was given twice")
	}
	if err := errors.Join(n.Detach(context.Background(), "dead", dead.Path), n.Detach(context.Background(), "kept", req.NetNSPath)); err != nil {
		t.Error(err)
	}
}

func contractParallel(t *testing.T, b backend) {
	n := b.open(t, t.TempDir())
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[netip.Addr]string{}
	for i := range 8 {
		ns, id := nettest.NewNamespace(t), fmt.Sprint("p", i)
		wg.Add(1)
		go func() {
			defer wg.Done()
			res, err := n.Attach(context.Background(), Request{ID: id, NetNSPath: ns.Path})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			if other := seen[res.IPs[0]]; other != "" {
				t.Errorf("%s and %s got %s", other, id, res.IPs[0])
			}
			seen[res.IPs[0]] = id
			mu.Unlock()
			if err := n.Detach(context.Background(), id, ns.Path); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
}

func contractRefuses(t *testing.T, b backend) {
	n := b.open(t, t.TempDir())
	ns := nettest.NewNamespace(t)
	for name, req := range map[string]Request{
		"path":      {ID: "a", NetNSPath: "/nonexistent"},
		"ID":        {ID: "../../etc", NetNSPath: ns.Path},
		"bandwidth": {ID: "b", NetNSPath: ns.Path, Annotations: map[string]string{"kubernetes.io/ingress-bandwidth": "-1"}},
	} {
		if _, err := n.Attach(context.Background(), req); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: got %v", name, err)
		}
		if err := n.Detach(context.Background(), req.ID, req.NetNSPath); err != nil {
			t.Errorf("undoing %s: %v", name, err)
		}
	}
	for _, cidr := range []string{"nonsense", "10.0.0.0/33"} {
		if err := n.SetPodCIDR(cidr); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: got %v", cidr, err)
		}
	}
	// A client that gave up: whatever the answer, it can be undone.
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	_, _ = n.Attach(gone, Request{ID: "c", NetNSPath: ns.Path})
	if err := n.Detach(gone, "c", ns.Path); err != nil {
		t.Error(err)
	}
}

// lock keeps processes of the fake plugin apart.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
}
