package registry

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

func TestParseHosts(t *testing.T) {
	hosts, err := parseHosts([]byte(`
server = "https://registry.example.com"
ca = "up.crt"

[host."https://z-first.example:8443"]
  capabilities = ["pull", "resolve"]
  ca = ["a.crt", "/abs/b.crt"]
  client = [["c.cert", "c.key"], ["d.pem", ""]]
  skip_verify = true
  dial_timeout = "5s"
  [host."https://z-first.example:8443".header]
    x-one = "1"
    x-two = ["2", "3"]

[host."http://10.0.0.1:5000/prefix"]
  capabilities = ["pull"]
  client = "both.pem"

[host."https://harbor/v2/cache"]
  override_path = true
  client = ["one.pem", "two.pem"]

[host."localhost:5000"]
`), "/dir", "registry.example.com")
	if err != nil {
		t.Fatal(err)
	}
	var urls []string
	for _, h := range hosts {
		urls = append(urls, h.url.String())
	}
	want := []string{"https://z-first.example:8443/v2", "http://10.0.0.1:5000/prefix/v2", "https://harbor/v2/cache", "https://localhost:5000/v2", "https://registry.example.com/v2"}
	if !reflect.DeepEqual(urls, want) {
		t.Fatalf("hosts: %q", urls)
	}
	first := hosts[0]
	if !first.skipVerify || first.dialTimeout != 5*time.Second || first.header.Get("X-One") != "1" || len(first.header["X-Two"]) != 2 ||
		!reflect.DeepEqual(first.caFiles, []string{"/dir/a.crt", "/abs/b.crt"}) ||
		!reflect.DeepEqual(first.clientCerts, [][2]string{{"/dir/c.cert", "/dir/c.key"}, {"/dir/d.pem", ""}}) {
		t.Errorf("first: %+v", first)
	}
	if hosts[1].resolve || !hosts[1].pull || hosts[1].clientCerts[0][0] != "/dir/both.pem" {
		t.Errorf("second: %+v", hosts[1])
	}
	if !hosts[3].autoScheme || hosts[2].autoScheme || hosts[0].upstream || !hosts[4].upstream || hosts[4].caFiles[0] != "/dir/up.crt" {
		t.Errorf("flags: %+v", hosts)
	}
}

func TestParseHostsRefuses(t *testing.T) {
	for _, content := range []string{
		`[[[`, `server = "ftp://x"`, `server = "https://user:pass@x"`, `server = "https://x?y=z"`, `[host."https://"]`,
		"[host.\"https://x\"]\ncapabilities = [\"fly\"]", "[host.\"https://x\"]\nca = 3", "[host.\"https://x\"]\nclient = [[1]]",
		"[host.\"https://x\"]\ndial_timeout = \"soon\"", "[host.\"https://x\".header]\na = 1",
	} {
		if _, err := parseHosts([]byte(content), "/", "x"); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func TestHostDirectories(t *testing.T) {
	certs := t.TempDir()
	if hosts, err := hostsFor(certs, "docker.io"); err != nil || len(hosts) != 1 || hosts[0].url.String() != "https://registry-1.docker.io/v2" {
		t.Errorf("%v, %v", hosts, err)
	}
	for _, c := range []struct{ dir, registry string }{
		{"_default", "docker.io"}, {"docker.io", "docker.io"}, {"localhost:5000", "localhost:5000"}, {"localhost_5000_", "localhost:5000"},
	} {
		dir := filepath.Join(certs, c.dir)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(`[host."http://`+c.dir+`.mirror"]`), 0o644); err != nil {
			t.Fatal(err)
		}
		hosts, err := hostsFor(certs, c.registry)
		if err != nil && c.dir != "localhost:5000" {
			t.Fatal(err)
		}
		if err == nil && (len(hosts) != 2 || hosts[0].url.Host != c.dir+".mirror" || !hosts[1].upstream) {
			t.Errorf("%s: %+v", c.dir, hosts)
		}
	}
	docker := filepath.Join(certs, "certs.example")
	if err := os.Mkdir(docker, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca.crt", "client.cert", "client.key"} {
		if err := os.WriteFile(filepath.Join(docker, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hosts, err := hostsFor(certs, "certs.example")
	if err != nil || len(hosts[0].caFiles) != 1 || hosts[0].clientCerts[0][1] != filepath.Join(docker, "client.key") {
		t.Errorf("%+v, %v", hosts, err)
	}
}

func TestCredentialsForHost(t *testing.T) {
	at := func(address string, upstream bool) host {
		h, err := (&hostSection{}).host(address, "/")
		if err != nil {
			t.Fatal(err)
		}
		h.upstream = upstream
		return h
	}
	for _, c := range []struct {
		server   string
		host     host
		registry string
		given    bool
	}{
		{"", at("https://registry.example", true), "registry.example", true},
		{"", at("http://127.0.0.1:5000", false), "registry.example", true},
		{"registry.example", at("https://registry.example", true), "registry.example", true},
		{"https://registry.example/v1/", at("https://registry.example", true), "registry.example", true},
		{"https://index.docker.io/v1/", at("https://registry-1.docker.io", true), "docker.io", true},
		{"registry.example", at("https://127.0.0.1:5000", true), "registry.example", true},
		{"registry.example", at("https://mirror.example", false), "registry.example", false},
		{"mirror.example", at("https://mirror.example", false), "registry.example", true},
		{"mirror.example", at("https://registry.example", true), "registry.example", false},
	} {
		got := Credentials{Username: "u", Password: "p", ServerAddress: c.server}.forHost(c.host, c.registry)
		if got.anonymous() == c.given {
			t.Errorf("%+v: given %v", c, !got.anonymous())
		}
	}
}

func TestParseChallenges(t *testing.T) {
	got := parseChallenges([]string{`Bearer realm="https://auth.example/token",service="r, \"x\"",scope=repository:a:pull`, `Negotiate`, `Basic realm="a", Bearer realm="b"`})
	want := []challenge{
		{"bearer", map[string]string{"realm": "https://auth.example/token", "service": `r, "x"`, "scope": "repository:a:pull"}},
		{"negotiate", map[string]string{}},
		{"basic", map[string]string{"realm": "a"}}, {"bearer", map[string]string{"realm": "b"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
}

// TestGHSA_5j5w: a document that is an image to one program and an index to another is neither to us.
func TestGHSA_5j5w(t *testing.T) {
	digest := `"digest":"sha256:` + string(make64('a')) + `","size":1`
	config, list := `"config":{`+digest+`}`, `"manifests":[{`+digest+`}]`
	for name, c := range map[string]struct{ header, body string }{
		"both":                   {"", `{"schemaVersion":2,` + config + `,"layers":[],` + list + `}`},
		"both, other case":       {"", `{"schemaVersion":2,` + config + `,"layers":[],"Manifests":[]}`},
		"layers and manifests":   {"", `{"schemaVersion":2,"layers":[],` + list + `}`},
		"neither":                {"", `{"schemaVersion":2}`},
		"header says index":      {string(types.OCIImageIndex), `{"schemaVersion":2,` + config + `,"layers":[]}`},
		"header says image":      {string(types.OCIManifestSchema1), `{"schemaVersion":2,` + list + `}`},
		"body says index":        {string(types.OCIManifestSchema1), `{"schemaVersion":2,"mediaType":"` + string(types.OCIImageIndex) + `",` + config + `,"layers":[]}`},
		"bad digest in manifest": {"", `{"schemaVersion":2,"config":{"digest":"sha256:../../x","size":1},"layers":[]}`},
	} {
		if _, _, err := (Document{Body: []byte(c.body), MediaType: c.header}).Parse(); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := (Document{Body: []byte(`{"schemaVersion":1,"fsLayers":[]}`)}).Parse(); !errdefs.IsNotImplemented(err) {
		t.Errorf("schema 1: %v", err)
	}
	if m, _, err := (Document{Body: []byte(`{"schemaVersion":2,` + config + `,"layers":[]}`), MediaType: "text/plain"}).Parse(); err != nil || m == nil {
		t.Errorf("a good one: %v", err)
	}
}

func make64(c byte) []byte {
	b := make([]byte, 64)
	for i := range b {
		b[i] = c
	}
	return b
}

func TestCVE_2024_3727(t *testing.T) {
	for _, digest := range []string{"", "sha256:", "sha256:../../../etc/passwd", "sha256:" + string(make64('A')), "sha256:" + string(make64('a')) + "/x", "md5:" + string(make64('a')), "sha256:" + string(make64('a'))[:63]} {
		if err := CheckDigest(digest); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", digest, err)
		}
	}
}

func TestChoose(t *testing.T) {
	hash := func(c byte) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: string(make64(c))} }
	desc := func(c byte, os, arch, variant string) v1.Descriptor {
		return v1.Descriptor{Digest: hash(c), MediaType: types.OCIManifestSchema1, Platform: &v1.Platform{OS: os, Architecture: arch, Variant: variant}}
	}
	attestation := desc('e', "unknown", "unknown", "")
	attestation.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	index := &v1.IndexManifest{Manifests: []v1.Descriptor{
		attestation, desc('1', "windows", "amd64", ""), desc('2', "linux", "arm", "v7"), desc('3', "linux", "amd64", "v3"), desc('4', "linux", "amd64", ""), desc('5', "linux", "arm64", "v8"),
	}}
	for arch, want := range map[string]byte{"amd64": '4', "arm64": '5'} {
		if got, err := chooseFor(index, arch); err != nil || got != hash(want).String() {
			t.Errorf("%s: %s, %v", arch, got, err)
		}
	}
	if _, err := chooseFor(index, "s390x"); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
}

func FuzzHosts(f *testing.F) {
	f.Add([]byte("server = \"https://a\"\n[host.\"http://b\"]\ncapabilities=[\"pull\"]\n[host.\"http://b\".header]\nx=\"y\""))
	f.Fuzz(func(t *testing.T, content []byte) {
		hosts, err := parseHosts(content, "/dir", "registry.example")
		if err != nil {
			return
		}
		if len(hosts) == 0 || !hosts[len(hosts)-1].upstream {
			t.Errorf("no registry at the end: %+v", hosts)
		}
		for _, h := range hosts {
			if h.url.Host == "" || h.url.Scheme != "http" && h.url.Scheme != "https" {
				t.Errorf("host %+v", h)
			}
		}
	})
}

func FuzzDocument(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"sha256:aa","size":1}]}`), "")
	f.Fuzz(func(t *testing.T, body []byte, mediaType string) {
		m, index, err := Document{Body: body, MediaType: mediaType}.Parse()
		if err == nil && (m == nil) == (index == nil) {
			t.Error("both or neither")
		}
	})
}
