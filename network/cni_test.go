package network

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/shimd/shimd/network/nettest"
)

func pluginLog(t *testing.T, state string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(state, "fake", "log"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(b)
}

func serving(n Network) string {
	return n.(*network).Info().(Info).Serving
}

// eventually waits for what inotify has to tell.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for range 500 {
		if f() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("did not happen: ", what)
}

// Configuration appears and vanishes while sandboxes run; each is detached by what attached it.
func TestConfigurationAppearsAndVanishes(t *testing.T) {
	state := t.TempDir()
	opts := fakeCNI(t, state, fakeConf{})
	opts.PodCIDR = "10.94.0.0/16"
	file := filepath.Join(opts.CNIConfDir, "10-fake.conflist")
	if err := os.RemoveAll(opts.CNIConfDir); err != nil {
		t.Fatal(err)
	}
	n := opened(t, opts)
	if s := serving(n); s != "bridge" {
		t.Fatal("without configuration serves", s)
	}
	mustAttach(t, n, "built-in")
	writeFake(t, opts.CNIConfDir, "10-fake.conflist", state, fakeConf{})
	eventually(t, "CNI serves", func() bool { return serving(n) == "cni" })
	byCNI, _, res := mustAttach(t, n, "plugged")
	if !netip.MustParsePrefix("10.93.0.0/16").Contains(res.IPs[0]) {
		t.Errorf("got %v, want an address of the plugin's", res)
	}
	if err := n.Detach(context.Background(), "built-in", ""); err != nil {
		t.Error(err)
	}
	if log := pluginLog(t, state); strings.Contains(log, "built-in") {
		t.Error("a plugin was told of a sandbox that is not its own:", log)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the bridge serves", func() bool { return serving(n) == "bridge" })
	n.Close()
	n = opened(t, opts)
	if err := n.Detach(context.Background(), "plugged", byCNI.Path); err != nil {
		t.Error(err)
	}
	if log := pluginLog(t, state); !strings.Contains(log, "DEL plugged") {
		t.Error("no DEL with the configuration of then:", log)
	}
}

func TestBrokenConfigurationIsNamed(t *testing.T) {
	state := t.TempDir()
	opts := fakeCNI(t, state, fakeConf{})
	if err := os.Remove(filepath.Join(opts.CNIConfDir, "10-fake.conflist")); err != nil {
		t.Fatal(err)
	}
	writeConf(t, opts.CNIConfDir, "05-broken.conflist", "{")
	n := opened(t, opts)
	err := n.Ready(context.Background())
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "05-broken.conflist") {
		t.Errorf("got %v, want the file's name", err)
	}
	writeFake(t, opts.CNIConfDir, "10-fake.conflist", state, fakeConf{})
	eventually(t, "the good file counts", func() bool { return n.Ready(context.Background()) == nil })
	if i := n.Info().(Info); len(i.CNI.Ignored) != 1 || !strings.Contains(i.CNI.Ignored[0], "05-broken") {
		t.Errorf("ignored: %v", i.CNI.Ignored)
	}
}

// A plugin's name that is a path must not run what lies there.
func TestCVE_2021_20206_PluginNameIsNeverAPath(t *testing.T) {
	state := t.TempDir()
	opts := fakeCNI(t, state, fakeConf{})
	for _, name := range []string{"../bin/fake", "/bin/true", "..", ".", "a/../fake", ""} {
		writeConf(t, opts.CNIConfDir, "10-fake.conflist", `{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"`+name+`"}]}`)
		n := opened(t, opts)
		ns := nettest.NewNamespace(t)
		_, err := n.Attach(context.Background(), Request{ID: "a", NetNSPath: ns.Path})
		if !errdefs.IsUnavailable(err) {
			t.Errorf("%q: %v", name, err)
		}
		n.Close()
	}
	if log := pluginLog(t, state); log != "" {
		t.Error("a plugin ran:", log)
	}
}

func TestPluginsThatMisbehave(t *testing.T) {
	for mode, says := range map[string]string{"huge": "more than", "nonsense": "interface 7", "fail": "on fire"} {
		t.Run(mode, func(t *testing.T) {
			state := t.TempDir()
			n := opened(t, fakeCNI(t, state, fakeConf{Mode: mode}))
			ns := nettest.NewNamespace(t)
			_, err := n.Attach(context.Background(), Request{ID: "a", NetNSPath: ns.Path})
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("got %v", err)
			}
			if err := n.Detach(context.Background(), "a", ns.Path); err != nil {
				t.Error(err)
			}
			if log := pluginLog(t, state); !strings.Contains(log, "DEL a") {
				t.Error("what failed half-way was not undone:", log)
			}
		})
	}
	t.Run("notready", func(t *testing.T) {
		n := opened(t, fakeCNI(t, t.TempDir(), fakeConf{Mode: "notready"}))
		if err := n.Ready(context.Background()); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "on fire") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("missing", func(t *testing.T) {
		opts := fakeCNI(t, t.TempDir(), fakeConf{})
		opts.CNIBinDirs = []string{t.TempDir()}
		n := opened(t, opts)
		if err := n.Ready(context.Background()); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), `"fake"`) {
			t.Errorf("got %v", err)
		}
	})
}

// A plugin that hangs is killed at the deadline, together with the children that hold its output open.
func TestHungPluginIsKilled(t *testing.T) {
	state := t.TempDir()
	n := opened(t, fakeCNI(t, state, fakeConf{Mode: "hang"}))
	ns := nettest.NewNamespace(t)
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	_, err := n.Attach(ctx, Request{ID: "a", NetNSPath: ns.Path})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	_, after, _ := strings.Cut(pluginLog(t, state), "child ")
	pid := 0
	for _, c := range strings.TrimSpace(strings.SplitN(after, "\n", 2)[0]) {
		pid = pid*10 + int(c-'0')
	}
	if pid == 0 {
		t.Skip("the plugin was killed before it had a child")
	}
	eventually(t, "the plugin's child is dead", func() bool {
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		return err != nil || strings.Contains(string(b), ") Z ")
	})
	if err := n.Detach(ctx, "a", ns.Path); err != nil { // ctx is over: DEL has a deadline of its own
		t.Error(err)
	}
}

func TestPluginsAreToldAboutThePod(t *testing.T) {
	state := t.TempDir()
	n := opened(t, fakeCNI(t, state, fakeConf{}))
	ns := nettest.NewNamespace(t)
	if _, err := n.Attach(context.Background(), Request{
		ID: "sandbox1", NetNSPath: ns.Path, Name: "web-0", Namespace: "prod", UID: "u-1", CgroupParent: "/kubepods/pod1",
		Annotations: map[string]string{"kubernetes.io/ingress-bandwidth": "10M", "x": "y"},
		DNS:         &DNS{Servers: []string{"192.0.2.53"}}, PortMappings: []PortMapping{{Protocol: "tcp", ContainerPort: 80, HostPort: 8081}},
	}); err != nil {
		t.Fatal(err)
	}
	log := pluginLog(t, state)
	for _, want := range []string{
		"IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=sandbox1;K8S_POD_UID=u-1",
		`"ingressRate":10000000`, `"servers":["192.0.2.53"]`, `"cgroupPath":"/kubepods/pod1"`, `"hostPort":8081`, `"x":"y"`,
	} {
		if !strings.Contains(log, want) {
			t.Errorf("the plugin was not told %s: %s", want, log)
		}
	}
	if err := n.Reconcile(context.Background(), nil); err != nil {
		t.Error(err)
	}
	if log := pluginLog(t, state); !strings.Contains(log, "DEL sandbox1") || !strings.Contains(log, "GC ") {
		t.Error("Reconcile told the plugin nothing:", log)
	}
}
