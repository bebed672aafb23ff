package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// reviewed is a server that asks the API server about everybody.
func reviewed(t *testing.T, reviews *fakeReviews, anonymous bool, ca string) *Server {
	return newServer(t, func(o *Options) {
		on := true
		o.Reviews = reviews
		o.Config.Authentication.Webhook.Enabled = &on
		o.Config.Authentication.Anonymous.Enabled = &anonymous
		o.Config.Authentication.X509.ClientCAFile = ca
		o.Config.Authorization.Mode = kubeletconfig.KubeletAuthorizationModeWebhook
	})
}

func TestTokens(t *testing.T) {
	reviews := &fakeReviews{}
	h := reviewed(t, reviews, false, "").Handler()
	for range 2 { // the second round is answered from the caches
		for _, test := range []struct {
			path, token string
			code        int
			text        string
		}{
			{"/healthz", "", 401, "Unauthorized"},
			{"/healthz", "wrong", 401, "Unauthorized"},
			{"/healthz/ping", "token-of-admin", 200, "ok"},
			{"/healthz/ping", "token-of-viewer", 403, "Forbidden (user=viewer, verb=get, resource=nodes, subresource(s)=[healthz proxy])\n"},
			{"/metrics", "token-of-viewer", 501, "these metrics are not collected by this agent"},
			{"/containerLogs/default/web/app", "token-of-viewer", 403, "Forbidden (user=viewer, verb=get, resource=nodes, subresource(s)=[proxy])\n"},
			{"/runningpods/x", "token-of-viewer", 404, "404 page not found\n"},
		} {
			code, text := ask(t, h, http.MethodGet, test.path, "Authorization", "Bearer "+test.token)
			if code != test.code || text != test.text {
				t.Errorf("%s as %s: %d %q", test.path, test.token, code, text)
			}
		}
	}
	if reviews.tokens != 3 {
		t.Errorf("%d tokens were reviewed", reviews.tokens)
	}
	want := []string{
		"admin [users system:authenticated] get nodes/healthz node-1",
		"viewer [users system:authenticated] get nodes/healthz node-1",
		"viewer [users system:authenticated] get nodes/proxy node-1",
		"viewer [users system:authenticated] get nodes/metrics node-1",
		"viewer [users system:authenticated] get nodes/pods node-1",
	}
	if diff := cmp.Diff(want, reviews.access); diff != "" {
		t.Error(diff)
	}
}

func TestAPIServerAway(t *testing.T) {
	reviews := &fakeReviews{failing: errors.New("connection refused")}
	h := reviewed(t, reviews, true, "").Handler()
	if code, text := ask(t, h, http.MethodGet, "/healthz", "Authorization", "Bearer token-of-admin"); code != 401 || text != "Unauthorized" {
		t.Errorf("with a token: %d %q", code, text)
	}
	want := "Authorization error (user=system:anonymous, verb=get, resource=nodes, subresource=healthz)"
	if code, text := ask(t, h, http.MethodGet, "/healthz"); code != 500 || text != want {
		t.Errorf("as nobody: %d %q", code, text)
	}
	reviews.failing = nil // errors are not remembered
	if code, _ := ask(t, h, http.MethodGet, "/healthz/ping", "Authorization", "Bearer token-of-admin"); code != 200 {
		t.Errorf("when it is back: %d", code)
	}
}

func TestAnonymous(t *testing.T) {
	h := reviewed(t, &fakeReviews{}, true, "").Handler()
	want := "Forbidden (user=system:anonymous, verb=create, resource=nodes, subresource(s)=[proxy])\n"
	if code, text := ask(t, h, http.MethodPost, "/run/default/web/app"); code != 403 || text != want {
		t.Errorf("%d %q", code, text)
	}
	if code, _ := ask(t, h, http.MethodGet, "/healthz", "Authorization", "Bearer wrong"); code != 401 {
		t.Errorf("a wrong token makes nobody: %d", code)
	}
}

func TestMisconfigured(t *testing.T) {
	on := true
	for name, change := range map[string]func(*Options){
		"tokens without an API server":  func(o *Options) { o.Config.Authentication.Webhook.Enabled = &on },
		"reviews without an API server": func(o *Options) { o.Config.Authorization.Mode = kubeletconfig.KubeletAuthorizationModeWebhook },
		"unknown mode":                  func(o *Options) { o.Config.Authorization.Mode = "RBAC" },
		"no authorities":                func(o *Options) { o.Config.Authentication.X509.ClientCAFile = "/nonexistent" },
		"half a pair":                   func(o *Options) { o.Config.TLSCertFile = "/nonexistent" },
		"no certificate":                func(o *Options) { o.Config.TLSCertFile, o.Config.TLSPrivateKeyFile = "/nonexistent", "/nonexistent" },
		"old TLS":                       func(o *Options) { o.Config.TLSMinVersion = "VersionTLS10" },
		"unknown cipher":                func(o *Options) { o.Config.TLSCipherSuites = []string{"ROT13"} },
	} {
		off := false
		config := &kubeletconfig.KubeletConfiguration{Port: 1}
		config.Authentication.Webhook.Enabled = &off
		config.Authorization.Mode = kubeletconfig.KubeletAuthorizationModeAlwaysAllow
		options := Options{Config: config, NodeName: "n", CertDir: t.TempDir(), Pods: newPods()}
		change(&options)
		if _, err := New(options); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// authority makes certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{certificate, key}
}

func (a authority) file(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (a authority) issue(t *testing.T, name string, usage x509.ExtKeyUsage, groups ...string) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name, Organization: groups}, NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{usage}, DNSNames: []string{name}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.key}
}

func TestClientCertificates(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	reviews := &fakeReviews{}
	web := start(t, reviewed(t, reviews, false, ours.file(t)))
	for name, test := range map[string]struct {
		certificate *tls.Certificate
		code        int
	}{
		"none":         {nil, 401},
		"ours":         {pair(ours.issue(t, "admin", x509.ExtKeyUsageClientAuth, "masters")), 200},
		"theirs":       {pair(theirs.issue(t, "admin", x509.ExtKeyUsageClientAuth)), 401},
		"a server's":   {pair(ours.issue(t, "admin", x509.ExtKeyUsageServerAuth)), 401},
		"another user": {pair(ours.issue(t, "eve", x509.ExtKeyUsageClientAuth)), 403},
	} {
		config := &tls.Config{InsecureSkipVerify: true}
		if test.certificate != nil {
			config.Certificates = []tls.Certificate{*test.certificate}
		}
		transport := &http.Transport{TLSClientConfig: config}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, web.URL+"/healthz", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := transport.RoundTrip(request)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		text, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		transport.CloseIdleConnections()
		if err != nil || answer.StatusCode != test.code {
			t.Errorf("%s: %d %q %v", name, answer.StatusCode, text, err)
		}
	}
	if want := "admin [masters system:authenticated] get nodes/healthz node-1"; !contains(reviews.access, want) {
		t.Errorf("asked: %v", reviews.access)
	}
}

func pair(c tls.Certificate) *tls.Certificate { return &c }

func contains(list []string, item string) bool {
	for _, s := range list {
		if s == item {
			return true
		}
	}
	return false
}

// A certificate that is replaced in its files is served from then on; half of a replacement changes nothing. One made here is kept.
func TestServingCertificate(t *testing.T) {
	dir := t.TempDir()
	config := &kubeletconfig.KubeletConfiguration{}
	first, err := serving(config, dir, "node-1", []string{"192.0.2.1"})
	if err != nil {
		t.Fatal(err)
	}
	again, err := serving(config, dir, "node-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first.pair.Certificate, again.pair.Certificate); diff != "" {
		t.Error("a certificate was made twice")
	}
	other, err := serving(config, t.TempDir(), "node-2", nil)
	if err != nil {
		t.Fatal(err)
	}
	before := first.pair
	move(t, other.certificate, first.certificate)
	if got, err := first.get(nil); err != nil || got != before {
		t.Errorf("half of a replacement: %v", err)
	}
	move(t, other.key, first.key)
	if got, err := first.get(nil); err != nil || !cmp.Equal(got.Certificate, other.pair.Certificate) {
		t.Errorf("the new one is not served: %v", err)
	}
}

func move(t *testing.T, from, to string) {
	t.Helper()
	later := time.Now().Add(time.Minute)
	if err := os.Chtimes(from, later, later); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func TestCacheIsBounded(t *testing.T) {
	now := time.Unix(0, 0)
	c := newCache[int](func() time.Time { return now })
	for i := range 3 * maxCached {
		c.put(fmt.Sprint(i), i, time.Minute)
	}
	if len(c.entries) > maxCached {
		t.Errorf("%d entries", len(c.entries))
	}
	last := fmt.Sprint(3*maxCached - 1)
	if v, ok := c.get(last); !ok || v != 3*maxCached-1 {
		t.Error("the last one is not there")
	}
	now = now.Add(time.Minute)
	if _, ok := c.get(last); ok {
		t.Error("an old one is there")
	}
}
