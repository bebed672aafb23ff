package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"golang.org/x/sys/unix"
)

// file is one entry of a layer in a test.
type file struct {
	name, body, link string
	kind             byte // tar's; 0: regular, or a directory when the name ends in a slash
	mode             int64
	uid              int
	pax              map[string]string
}

func tarball(t testing.TB, files ...file) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		hdr := &tar.Header{Name: f.name, Typeflag: f.kind, Linkname: f.link, Mode: f.mode, Uid: f.uid, Size: int64(len(f.body)), ModTime: time.Unix(1000, 0), PAXRecords: f.pax}
		if f.kind == 0 {
			hdr.Typeflag = tar.TypeReg
			if strings.HasSuffix(f.name, "/") {
				hdr.Typeflag = tar.TypeDir
			}
		}
		if hdr.Mode == 0 {
			hdr.Mode = 0o644
			if hdr.Typeflag == tar.TypeDir {
				hdr.Mode = 0o755
			}
		}
		if err := w.WriteHeader(hdr); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// testRegistry is an in-process registry on loopback, with hooks.
type testRegistry struct {
	*httptest.Server
	host   string
	before func(w http.ResponseWriter, r *http.Request) bool // true: answered
}

func newRegistry(t testing.TB) *testRegistry {
	t.Helper()
	r := &testRegistry{}
	inner := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if r.before != nil && req.Method == http.MethodGet && r.before(w, req) {
			return
		}
		inner.ServeHTTP(w, req)
	}))
	r.host = strings.TrimPrefix(r.URL, "http://")
	t.Cleanup(r.Close)
	return r
}

func (r *testRegistry) put(t testing.TB, url, contentType string, body []byte) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPut, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("PUT %s: %s %s", url, resp.Status, text)
	}
}

func (r *testRegistry) blob(t testing.TB, repo string, body []byte) string {
	t.Helper()
	resp, err := http.Post(r.URL+"/v2/"+repo+"/blobs/uploads/?digest="+sha(body), "application/octet-stream", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		t.Fatalf("uploading a blob: %s", resp.Status)
	}
	return sha(body)
}

const (
	ociManifest = "application/vnd.oci.image.manifest.v1+json"
	ociIndex    = "application/vnd.oci.image.index.v1+json"
)

type builtImage struct{ manifest, id, digest string }

// push pushes an image of the layers (tars, compressed by compress) and answers its digests.
func (r *testRegistry) push(t testing.TB, repo, tag string, compress func(testing.TB, []byte) []byte, layers ...[]byte) builtImage {
	t.Helper()
	var diffIDs []string
	var descs []map[string]any
	for _, l := range layers {
		blob := compress(t, l)
		descs = append(descs, map[string]any{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": r.blob(t, repo, blob), "size": len(blob)})
		diffIDs = append(diffIDs, sha(l))
	}
	config, _ := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"User": "1000:1000", "Cmd": []string{"/bin/sh"}, "Labels": map[string]string{"tag": tag}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	manifest, _ := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": ociManifest,
		"config": map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": r.blob(t, repo, config), "size": len(config)},
		"layers": descs,
	})
	r.put(t, r.URL+"/v2/"+repo+"/manifests/"+tag, ociManifest, manifest)
	return builtImage{manifest: string(manifest), id: sha(config), digest: sha(manifest)}
}

func openStore(t testing.TB, change ...func(*Options)) *Store {
	t.Helper()
	needRoot(t)
	return openAt(t, t.TempDir(), change...)
}

func openAt(t testing.TB, root string, change ...func(*Options)) *Store {
	t.Helper()
	opts := Options{Root: root}
	for _, f := range change {
		f(&opts)
	}
	s, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: unpacking sets owners and mounts")
	}
}

func pull(t testing.TB, s *Store, ref string) Image {
	t.Helper()
	img, err := s.Pull(t.Context(), PullRequest{Ref: ref})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// attach attaches a detached mount below a temporary directory of the test and answers the path.
func attach(t testing.TB, mount *os.File, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := unix.MoveMount(int(mount.Fd()), "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		t.Fatal(err)
	}
	_ = mount.Close()
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func read(t testing.TB, elem ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// settle waits until the trash is empty.
func settle(t testing.TB, s *Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		var left []string
		for _, dir := range []string{"tmp", "trash"} {
			entries, err := os.ReadDir(s.path(dir))
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				left = append(left, dir+"/"+e.Name())
			}
		}
		if len(left) == 0 {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("left: %v", left)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func layerDirs(t testing.TB, s *Store) int {
	t.Helper()
	entries, err := os.ReadDir(s.path("layers"))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func repeat(n int, f func(i int) file) []file {
	var files []file
	for i := range n {
		files = append(files, f(i))
	}
	return files
}

func plainTar(_ testing.TB, b []byte) []byte { return b }

func uniqueLayer(t testing.TB, i int) []byte {
	return tarball(t, file{name: fmt.Sprintf("file-%d", i), body: fmt.Sprintf("content %d", i)})
}
