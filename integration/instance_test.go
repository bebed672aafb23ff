package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/integration/criclient"
	"github.com/shimd/shimd/integration/daemon"
)

func TestSecondInstanceIsRefused(t *testing.T) {
	d, client := start(t, daemon.Config{})
	out, err := d.Command(t.Context()).CombinedOutput()
	if err == nil {
		t.Fatal("a second shimd with the same state directory ran and ended well")
	}
	if !strings.Contains(string(out), d.State()) {
		t.Errorf("the error does not name the state directory:\n%s", out)
	}
	if _, err := client.Version(t.Context(), &criv1.VersionRequest{}); err != nil {
		t.Errorf("the first one no longer answers: %v", err)
	}
}

func TestSeveralInstancesSideBySide(t *testing.T) {
	d, one := start(t, daemon.Config{})
	_, two := start(t, daemon.Config{More: "[network]\npod_cidr = \"10.97.0.0/24\"\n"})
	running := map[*criclient.Client][]string{}
	for _, client := range []*criclient.Client{one, two} {
		image := pull(t, client)
		p := runPod(t, client, "neighbour")
		id := p.start(t, client, criclient.Container("main", image, "sleep", "1000"))
		running[client] = append(running[client], id)
		if out, code, err := client.Exec(t.Context(), id, "hostname"); err != nil || code != 0 || out != "neighbour\n" {
			t.Errorf("%q, %d, %v", out, code, err)
		}
	}
	// One that starts again takes nothing of its neighbour's for a leftover of its own.
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, client := range []*criclient.Client{one, two} {
		for _, id := range running[client] {
			if out, code, err := client.Exec(t.Context(), id, "hostname"); err != nil || code != 0 || out != "neighbour\n" {
				t.Errorf("after a restart of the first: %q, %d, %v", out, code, err)
			}
		}
		pods, err := client.ListPodSandbox(t.Context(), &criv1.ListPodSandboxRequest{})
		if err != nil || len(pods.Items) != 1 {
			t.Errorf("one pod each, but: %v, %v", pods, err)
		}
		if err := client.RemoveAll(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestConfigurationThatMakesNoSense(t *testing.T) {
	for name, c := range map[string]struct{ text, names string }{
		"unknown key":       {"[image]\nconfig_paht = \"/x\"\n", "config_paht"},
		"unknown driver":    {"[cgroup]\ndriver = \"magic\"\n", "driver"},
		"not an address":    {"[metrics]\naddress = \"nowhere\"\n", "address"},
		"not a CIDR":        {"[network]\npod_cidr = \"10.0.0.0\"\n", "pod_cidr"},
		"not TOML":          {"[image\n", "shimd.toml"},
		"runtime, no path":  {"[runtimes.other]\n", "path"},
		"a relative folder": {"[network]\ncni_conf_dir = \"net.d\"\n", "cni_conf_dir"},
	} {
		t.Run(name, func(t *testing.T) {
			d := prepare(t, daemon.Config{})
			if err := os.WriteFile(filepath.Join(filepath.Dir(d.LogFile()), "shimd.toml"), []byte(c.text), 0o644); err != nil {
				t.Fatal(err)
			}
			out, err := d.Command(t.Context()).CombinedOutput()
			if err == nil {
				t.Fatal("shimd ran and ended well")
			}
			if !strings.Contains(string(out), c.names) {
				t.Errorf("the error does not name %s:\n%s", c.names, out)
			}
			// Cleaning up reads the configuration too.
			if err := os.WriteFile(filepath.Join(filepath.Dir(d.LogFile()), "shimd.toml"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestPermissions(t *testing.T) {
	d, _ := start(t, daemon.Config{})
	socket, err := os.Stat(strings.TrimPrefix(d.Endpoint(), "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	if socket.Mode().Perm() != 0o660 {
		t.Errorf("the socket has mode %v", socket.Mode())
	}
	for _, dir := range []string{d.Root(), d.State()} {
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode().Perm(); mode != 0o700 && mode != 0o711 {
			t.Errorf("%s has mode %v", dir, mode)
		}
	}
}
