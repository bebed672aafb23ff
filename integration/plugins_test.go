package integration

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/integration/daemon"
)

// With a CNI configuration the plugins make the network, and take it away.
func TestCNI(t *testing.T) {
	const plugins = "/usr/lib/cni" // where Debian's containernetworking-plugins puts them
	if _, err := os.Stat(filepath.Join(plugins, "bridge")); err != nil {
		t.Skipf("CNI plugins are not installed: %v", err)
	}
	needRoot(t)
	conf, data := t.TempDir(), t.TempDir()
	text := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "testnet", "plugins": [
		{"type": "bridge", "bridge": "testcni0", "isGateway": true,
		 "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.98.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}`, data)
	if err := os.WriteFile(filepath.Join(conf, "10-test.conflist"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	_, client := start(t, daemon.Config{More: fmt.Sprintf("[network]\ncni_conf_dir = %q\ncni_bin_dirs = [%q]\n", conf, plugins)})
	// The bridge is the plugin's, which never removes it.
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "link", "del", "testcni0").CombinedOutput(); err != nil {
			t.Errorf("removing the plugin's bridge: %v: %s", err, out)
		}
	})
	p := runPod(t, client, "plugged")
	status, err := client.PodSandboxStatus(t.Context(), &criv1.PodSandboxStatusRequest{PodSandboxId: p.id})
	if err != nil {
		t.Fatal(err)
	}
	address, err := netip.ParseAddr(status.Status.GetNetwork().GetIp())
	if err != nil || !netip.MustParsePrefix("10.98.0.0/24").Contains(address) {
		t.Errorf("the pod's address is %v (%v)", address, err)
	}
	if err := client.Remove(t.Context(), p.id); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(data, "testnet", "10.98.*"))
	if err != nil || len(left) != 0 {
		t.Errorf("addresses are not given back: %v (%v)", left, err)
	}
}
