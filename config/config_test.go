package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDefaultsAreSound(t *testing.T) {
	cfg, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.Check(); err != nil {
		t.Fatal(err)
	}
}

func TestFileLiesOverTheDefaults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	write(t, path, "[network]\npod_cidr = \"10.1.0.0/24\"\n[runtimes.runc]\npath = \"/usr/sbin/runc\"\n")
	cfg, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Network.PodCIDR != "10.1.0.0/24" || cfg.Runtimes["runc"].Path != "/usr/sbin/runc" {
		t.Errorf("the file's values are not there: %+v", cfg)
	}
	if !cfg.Network.Masquerade || cfg.State != "/run/shimd" {
		t.Errorf("defaults were lost: %+v", cfg)
	}
}

func TestEveryMistakeIsToldByItsKey(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{`root = "relative"`, "root: "},
		{`state = "/var/lib/shimd"`, "state: "},
		{`listen = "tcp://1.2.3.4:5"`, "listen: "},
		{`log_level = "loud"`, "log_level: "},
		{"[cgroup]\ndriver = \"both\"", "cgroup.driver: "},
		{"[network]\npod_cidr = \"10.0.0.0/99\"", "network.pod_cidr: "},
		{"[network]\npod_cidr = \"client,10.0.0.0/9\"", "network.pod_cidr: "},
		{"[network]\nmtu = -1", "network.mtu: "},
		{"[metrics]\naddress = \"9090\"", "metrics.address: "},
		{"[runtimes.Run_C]\npath = \"/x\"", "runtimes.Run_C: "},
		{"[runtimes.runc]\npath = \"runc\"", "runtimes.runc.path: "},
		{"[debug]\nfailpoints = [\"x=explode\"]", "debug.failpoints: "},
		{"[debug]\nfailpoints = [\"x=error:0\"]", "debug.failpoints: "},
		{"[network]\npodcidr = \"\"", "podcidr"},
		{"[network]\nmtu = \"big\"", "network.mtu"},
	} {
		path := filepath.Join(t.TempDir(), "config.toml")
		write(t, path, test.text)
		cfg, err := Load(path)
		if err == nil {
			err = cfg.Check()
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: got %v, want it to name %q", test.text, err, test.want)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
