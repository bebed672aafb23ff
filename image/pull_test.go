package image

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	goruntime "runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// hostsToml writes a hosts.toml for a registry and answers the option that points at it.
func hostsToml(t testing.TB, registry, content string) func(*Options) {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, registry), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, registry, "hosts.toml"), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return func(o *Options) { o.CertsDir = dir }
}

func TestMirrors(t *testing.T) {
	reg, empty := newRegistry(t), newRegistry(t)
	reg.push(t, "pause", "3.10", gzipped, uniqueLayer(t, 1))
	var ns atomic.Value
	reg.before = func(_ http.ResponseWriter, r *http.Request) bool { ns.Store(r.URL.Query().Get("ns")); return false }
	dead := httptest.NewServer(nil)
	dead.Close()
	option := hostsToml(t, "registry.k8s.io", fmt.Sprintf("[host.%q]\n[host.%q]\n[host.%q]\n", dead.URL, empty.URL, reg.URL))
	s := openStore(t, option)
	img := pull(t, s, "registry.k8s.io/pause:3.10")
	if img.RepoTags[0] != "registry.k8s.io/pause:3.10" || ns.Load() != "registry.k8s.io" {
		t.Errorf("%v, ns=%v", img.RepoTags, ns.Load())
	}
}

func TestServerInHosts(t *testing.T) {
	reg := newRegistry(t)
	reg.push(t, "library/busybox", "latest", gzipped, uniqueLayer(t, 1))
	s := openStore(t, hostsToml(t, "docker.io", fmt.Sprintf("server = %q\n", reg.URL)))
	if img := pull(t, s, "busybox"); img.RepoTags[0] != "docker.io/library/busybox:latest" {
		t.Errorf("%v", img.RepoTags)
	}
	if _, err := s.Get(t.Context(), "busybox"); err != nil {
		t.Error(err)
	}
}

func TestOverridePathAndTLS(t *testing.T) {
	reg := newRegistry(t)
	reg.push(t, "app", "v1", gzipped, uniqueLayer(t, 1))
	target, _ := url.Parse(reg.URL)
	front := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rest, ok := strings.CutPrefix(r.URL.Path, "/cache/proxy/")
		if !ok || r.Header.Get("X-Key") != "yes" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		http.Redirect(w, r, "/direct/"+rest, http.StatusTemporaryRedirect)
		_ = target
	}))
	defer front.Close()
	front.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rest, ok := strings.CutPrefix(r.URL.Path, "/cache/proxy/")
		if !ok || r.Header.Get("X-Key") != "yes" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		r.URL.Path = "/v2/" + rest
		reg.Config.Handler.ServeHTTP(w, r)
	})
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw}), 0o644); err != nil {
		t.Fatal(err)
	}
	for what, extra := range map[string]string{"ca": fmt.Sprintf("ca = %q", ca), "skip_verify": "skip_verify = true"} {
		s := openStore(t, hostsToml(t, "example.com", fmt.Sprintf("server = \"http://127.0.0.1:1\"\n[host.%q]\noverride_path = true\n%s\n[host.%q.header]\nx-key = \"yes\"\n", front.URL+"/cache/proxy", extra, front.URL+"/cache/proxy")))
		if _, err := s.Pull(t.Context(), PullRequest{Ref: "example.com/app:v1"}); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestIndexAndKinds(t *testing.T) {
	s, reg := openStore(t), newRegistry(t)
	one := reg.push(t, "multi", "one", plainTar, uniqueLayer(t, 1))
	reg.push(t, "multi", "other", gzipped, uniqueLayer(t, 2))
	index, _ := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ociIndex, "manifests": []any{
		map[string]any{"mediaType": ociManifest, "digest": one.digest, "size": len(one.manifest), "platform": map[string]any{"os": "linux", "architecture": goruntime.GOARCH}},
	}})
	reg.put(t, reg.URL+"/v2/multi/manifests/all", ociIndex, index)
	img := pull(t, s, reg.host+"/multi:all")
	if string(img.ID) != one.id || img.RepoDigests[0] != reg.host+"/multi@"+sha(index) {
		t.Errorf("%+v", img)
	}
	for ref, is := range map[string]func(error) bool{
		reg.host + "/multi:nothing":                           errdefs.IsNotFound,
		reg.host + "/no/such:v1":                              errdefs.IsNotFound,
		reg.host + "/multi@sha256:" + one.id[7:]:              errdefs.IsNotFound,
		"UPPER/Case:x y":                                      errdefs.IsInvalidArgument,
		"127.0.0.1:1/x:y":                                     errdefs.IsUnavailable,
		reg.host + "/multi@sha256:" + strings.Repeat("z", 64): errdefs.IsInvalidArgument,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if _, err := s.Pull(ctx, PullRequest{Ref: ref}); !is(err) {
			t.Errorf("%s: %v", ref, err)
		}
		cancel()
	}
	settle(t, s)
}

// TestCVE_2023_25153: what a registry says about an image is read up to a bound.
func TestCVE_2023_25153(t *testing.T) {
	s, reg := openStore(t), newRegistry(t)
	built := reg.push(t, "app", "v1", gzipped, uniqueLayer(t, 1))
	flood := func(w http.ResponseWriter) {
		chunk := []byte(strings.Repeat(" ", 1<<20))
		for range 64 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	reg.before = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/") {
			flood(w)
			return true
		}
		return false
	}
	if _, err := s.Pull(t.Context(), PullRequest{Ref: reg.host + "/app:v1"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("manifest: %v", err)
	}
	reg.before = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, built.id) {
			flood(w)
			return true
		}
		return false
	}
	if _, err := s.Pull(t.Context(), PullRequest{Ref: reg.host + "/app:v1"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("configuration: %v", err)
	}
}

// guarded makes the registry want a password, by basic or bearer authentication.
func guarded(reg *testRegistry, bearer bool, seen *sync.Map) {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("user:secret"))
	reg.before = func(w http.ResponseWriter, r *http.Request) bool {
		auth := r.Header.Get("Authorization")
		seen.Store(r.URL.Path, auth)
		if r.URL.Path == "/token" {
			if auth != want {
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			fmt.Fprintf(w, `{"token":"T-%s"}`, r.URL.Query().Get("scope"))
			return true
		}
		ok := auth == want
		if bearer {
			ok = strings.HasPrefix(auth, "Bearer T-repository:") || auth == "Bearer given"
		}
		if ok {
			return false
		}
		challenge := `Basic realm="x"`
		if bearer {
			challenge = fmt.Sprintf(`Bearer realm="%s/token",service="reg"`, reg.URL)
		}
		w.Header().Set("WWW-Authenticate", challenge)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
}

func TestAuthentication(t *testing.T) {
	for _, bearer := range []bool{false, true} {
		reg := newRegistry(t)
		reg.push(t, "private", "v1", gzipped, uniqueLayer(t, 1))
		var seen sync.Map
		guarded(reg, bearer, &seen)
		s := openStore(t)
		for name, c := range map[string]struct {
			auth *Auth
			ok   bool
		}{
			"none":           {nil, false},
			"password":       {&Auth{Username: "user", Password: "secret"}, true},
			"wrong password": {&Auth{Username: "user", Password: "wrong"}, false},
			"auth":           {&Auth{Auth: base64.StdEncoding.EncodeToString([]byte("user:secret"))}, true},
			"token":          {&Auth{RegistryToken: "given"}, bearer},
			"for us":         {&Auth{Username: "user", Password: "secret", ServerAddress: "http://" + reg.host}, true},
			"for others":     {&Auth{Username: "user", Password: "secret", ServerAddress: "other.example"}, false},
		} {
			_, err := s.Pull(t.Context(), PullRequest{Ref: reg.host + "/private:v1", Auth: c.auth})
			if c.ok && err != nil || !c.ok && !errdefs.IsUnauthorized(err) {
				t.Errorf("bearer %v, %s: %v", bearer, name, err)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the password is in the error: %v", err)
			}
		}
		if _, err := s.Pull(t.Context(), PullRequest{Ref: reg.host + "/private:v1", Auth: &Auth{Auth: "%"}}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("not base64: %v", err)
		}
	}
}

// TestCVE_2020_15157: blobs may come from elsewhere, by redirect, but no secret goes there; URLs in manifests are not followed at all.
func TestCVE_2020_15157(t *testing.T) {
	reg, storage := newRegistry(t), newRegistry(t)
	layer := gzipped(t, uniqueLayer(t, 1))
	reg.push(t, "app", "v1", gzipped, uniqueLayer(t, 1))
	storage.blob(t, "app", layer)
	var seen sync.Map
	guarded(reg, false, &seen)
	inner := reg.before
	reg.before = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/blobs/"+sha(layer)) {
			http.Redirect(w, r, storage.URL+r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}
		return inner(w, r)
	}
	var leaked atomic.Value
	var asked atomic.Int32
	storage.before = func(_ http.ResponseWriter, r *http.Request) bool {
		asked.Add(1)
		if r.Header.Get("Authorization") != "" || r.Header.Get("X-Secret") != "" {
			leaked.Store(fmt.Sprint(r.Header))
		}
		return false
	}
	s := openStore(t, hostsToml(t, reg.host, fmt.Sprintf("server = %q\n[header]\nx-secret = \"1\"\n", reg.URL)))
	if _, err := s.Pull(t.Context(), PullRequest{Ref: reg.host + "/app:v1", Auth: &Auth{Username: "user", Password: "secret"}}); err != nil {
		t.Fatal(err)
	}
	if asked.Load() == 0 || leaked.Load() != nil {
		t.Errorf("asked %d times; leaked: %v", asked.Load(), leaked.Load())
	}
}

// TestCVE_2019_10214: a registry that was not configured for http gets no credentials, and nothing else, in clear; nor does a token server that it names.
func TestCVE_2019_10214(t *testing.T) {
	var clear atomic.Int32
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { clear.Add(1); w.WriteHeader(http.StatusNotFound) }))
	defer plain.Close()
	var secure *httptest.Server
	var mode string
	secure = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch mode {
		case "token":
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://token.example:%s/token"`, plain.URL[strings.LastIndexByte(plain.URL, ':')+1:]))
			w.WriteHeader(http.StatusUnauthorized)
		case "redirect":
			http.Redirect(w, r, plain.URL+r.URL.Path, http.StatusFound)
		}
	}))
	defer secure.Close()
	secure.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	s := openStore(t, hostsToml(t, "example.com", fmt.Sprintf("server = %q\nskip_verify = true\n", secure.URL)))
	for _, mode = range []string{"token", "redirect"} {
		_, err := s.Pull(t.Context(), PullRequest{Ref: "example.com/app:v1", Auth: &Auth{Username: "user", Password: "secret"}})
		if !errdefs.IsPermissionDenied(err) {
			t.Errorf("%s: %v", mode, err)
		}
	}
	if clear.Load() != 0 {
		t.Errorf("%d requests in clear", clear.Load())
	}
}

func TestRetry(t *testing.T) {
	s, reg := openStore(t), newRegistry(t)
	big := tarball(t, file{name: "f", body: strings.Repeat("0123456789abcdef", 1<<14)})
	reg.push(t, "app", "v1", plainTar, big)
	var manifests, blobs atomic.Int32
	reg.before = func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.Contains(r.URL.Path, "/manifests/") && manifests.Add(1) == 1:
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		case strings.HasSuffix(r.URL.Path, sha(big)) && blobs.Add(1) == 1:
			w.Header().Set("Content-Length", fmt.Sprint(len(big)))
			_, _ = w.Write(big[:len(big)/2])
			panic(http.ErrAbortHandler) // the connection breaks half-way
		}
		return false
	}
	reg.Config.ErrorLog = nil
	pull(t, s, reg.host+"/app:v1")
	if manifests.Load() < 2 || blobs.Load() != 2 {
		t.Errorf("%d manifests, %d blobs", manifests.Load(), blobs.Load())
	}
	settle(t, s)
}

func TestStall(t *testing.T) {
	reg := newRegistry(t)
	l := uniqueLayer(t, 1)
	reg.push(t, "app", "v1", plainTar, l)
	var blobs atomic.Int32
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	reg.before = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, sha(l)) || blobs.Add(1) > 1 {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(l)))
		_, _ = w.Write(l[:10])
		w.(http.Flusher).Flush()
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return true
	}
	s := openStore(t, func(o *Options) { o.StallTimeout = 100 * time.Millisecond })
	pull(t, s, reg.host+"/app:v1")
}

func TestCancelLeavesNothing(t *testing.T) {
	s, reg := openStore(t), newRegistry(t)
	l := uniqueLayer(t, 1)
	reg.push(t, "app", "v1", plainTar, uniqueLayer(t, 2), l)
	ctx, cancel := context.WithCancel(t.Context())
	reg.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, sha(l)) {
			cancel()
			<-r.Context().Done()
			return true
		}
		return false
	}
	if _, err := s.Pull(ctx, PullRequest{Ref: reg.host + "/app:v1"}); !errdefs.IsCanceled(err) && ctx.Err() == nil {
		t.Errorf("got %v", err)
	}
	settle(t, s)
	if n := layerDirs(t, s); n != 0 {
		t.Errorf("%d layers left", n)
	}
	if list, _ := s.List(t.Context()); len(list) != 0 {
		t.Errorf("images: %v", list)
	}
}

// TestSharedFetch: two pulls want one layer, the one that began to fetch it gives up.
func TestSharedFetch(t *testing.T) {
	s, reg := openStore(t), newRegistry(t)
	shared := uniqueLayer(t, 0)
	reg.push(t, "a", "v1", plainTar, shared, uniqueLayer(t, 1))
	reg.push(t, "b", "v1", plainTar, uniqueLayer(t, 2), shared)
	var fetches atomic.Int32
	first, goOn := make(chan struct{}, 8), make(chan struct{})
	reg.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, sha(shared)) {
			fetches.Add(1)
			first <- struct{}{}
			<-goOn
		}
		return false
	}
	ctxA, cancelA := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { _, _ = s.Pull(ctxA, PullRequest{Ref: reg.host + "/a:v1"}) })
	<-first
	var err error
	done.Go(func() { _, err = s.Pull(t.Context(), PullRequest{Ref: reg.host + "/b:v1"}) })
	for { // until b waits, too
		s.fetches.mu.Lock()
		f := s.fetches.byKey[sha(shared)]
		waiters := 0
		if f != nil {
			waiters = f.waiters
		}
		s.fetches.mu.Unlock()
		if waiters == 2 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	cancelA()
	close(goOn)
	done.Wait()
	if err != nil || fetches.Load() != 1 {
		t.Errorf("%d fetches, %v", fetches.Load(), err)
	}
	settle(t, s)
	if n := layerDirs(t, s); n != 2 {
		t.Errorf("%d layers", n)
	}
}

func TestSamePullOnce(t *testing.T) {
	s, reg := openStore(t), newRegistry(t)
	reg.push(t, "a", "v1", plainTar, uniqueLayer(t, 1), uniqueLayer(t, 2))
	var done sync.WaitGroup
	for range 8 {
		done.Go(func() {
			if _, err := s.Pull(t.Context(), PullRequest{Ref: reg.host + "/a:v1"}); err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
	settle(t, s)
	if n := layerDirs(t, s); n != 2 {
		t.Errorf("%d layers", n)
	}
}

func BenchmarkPull(b *testing.B) {
	reg := newRegistry(b)
	var layers [][]byte
	size := 0
	for i := range 4 {
		l := tarball(b, repeat(200, func(j int) file {
			return file{name: fmt.Sprintf("l%d/f%d", i, j), body: strings.Repeat(fmt.Sprintf("line %d of %d\n", i, j), 2000)}
		})...)
		layers, size = append(layers, l), size+len(l)
	}
	reg.push(b, "big", "v1", gzipped, layers...)
	b.SetBytes(int64(size))
	s := openStore(b)
	for b.Loop() {
		img := pull(b, s, reg.host+"/big:v1")
		if err := s.Remove(b.Context(), string(img.ID)); err != nil {
			b.Fatal(err)
		}
	}
}

// TestPullAgain: a client that pulls before every start costs a manifest, and no write.
func TestPullAgain(t *testing.T) {
	s, reg := openStore(t), newRegistry(t)
	built := reg.push(t, "app", "v1", gzipped, uniqueLayer(t, 1))
	first := pull(t, s, reg.host+"/app:v1")
	before, err := os.Stat(s.path("images", built.id[7:], "record.json"))
	if err != nil {
		t.Fatal(err)
	}
	reg.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			t.Errorf("asked for %s", r.URL.Path)
		}
		return false
	}
	if again := pull(t, s, reg.host+"/app:v1"); !reflect.DeepEqual(first, again) {
		t.Errorf("%+v, then %+v", first, again)
	}
	after, err := os.Stat(s.path("images", built.id[7:], "record.json"))
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the record was written again: %v", err)
	}
	if err := s.Remove(t.Context(), built.id); err != nil {
		t.Fatal(err)
	}
	settle(t, s)
	if n := layerDirs(t, s); n != 0 {
		t.Errorf("%d layers left", n)
	}
}

// TestHTTPWithoutConfiguration: the answer says what to do, at once.
func TestHTTPWithoutConfiguration(t *testing.T) {
	reg := newRegistry(t)
	s := openStore(t, hostsToml(t, "example.com", fmt.Sprintf("server = %q\n", strings.Replace(reg.URL, "http:", "https:", 1))))
	if _, err := s.Pull(t.Context(), PullRequest{Ref: "example.com/app:v1"}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "hosts.toml") {
		t.Errorf("got %v", err)
	}
}

// TestForeignURLs: a layer's own URLs (CVE-2020-15157) are never asked.
func TestForeignURLs(t *testing.T) {
	s, reg := openStore(t), newRegistry(t)
	foreign := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the foreign URL was asked") }))
	defer foreign.Close()
	l := uniqueLayer(t, 1)
	config := []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["` + sha(l) + `"]}}`)
	manifest, _ := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ociManifest,
		"config": map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": reg.blob(t, "app", config), "size": len(config)},
		"layers": []any{map[string]any{"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "digest": sha(l), "size": len(l), "urls": []string{foreign.URL}}},
	})
	reg.put(t, reg.URL+"/v2/app/manifests/v1", ociManifest, manifest)
	if _, err := s.Pull(t.Context(), PullRequest{Ref: reg.host + "/app:v1"}); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
}
