package layer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

type entry struct {
	name, body, link string
	kind             byte
	mode             int64
	uid              int
	major, minor     int64
	pax              map[string]string
}

func makeTar(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		hdr := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: e.mode, Uid: e.uid, Gid: e.uid, Size: int64(len(e.body)),
			Devmajor: e.major, Devminor: e.minor, ModTime: time.Unix(12345, 0), PAXRecords: e.pax}
		if e.kind == 0 {
			hdr.Typeflag = tar.TypeReg
			if strings.HasSuffix(e.name, "/") {
				hdr.Typeflag = tar.TypeDir
			}
		}
		if hdr.Mode == 0 {
			hdr.Mode = 0o755
		}
		if err := w.WriteHeader(hdr); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func unpackBytes(t testing.TB, dir string, content []byte) (Result, error) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: unpacking sets owners")
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return Unpack(t.Context(), f, bytes.NewReader(content), Source{Digest: digest(content), Size: int64(len(content)), DiffID: digest(content)})
}

func unpackOK(t testing.TB, entries ...entry) (string, Result) {
	t.Helper()
	dir := t.TempDir()
	r, err := unpackBytes(t, dir, makeTar(t, entries...))
	if err != nil {
		t.Fatal(err)
	}
	return dir, r
}

func lstat(t testing.TB, elem ...string) *unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(elem...), &st); err != nil {
		t.Fatalf("%v: %v", elem, err)
	}
	return &st
}

func content(t testing.TB, elem ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestUnpackKinds(t *testing.T) {
	dir, r := unpackOK(t,
		entry{name: "d/", mode: 0o3750, uid: 5},
		entry{name: "d/f", body: "hello", mode: 0o4711, uid: 1000},
		entry{name: "d/l", kind: tar.TypeSymlink, link: "/etc/passwd"},
		entry{name: "d/h", kind: tar.TypeLink, link: "d/f"},
		entry{name: "d/fifo", kind: tar.TypeFifo, mode: 0o600},
		entry{name: "d/null", kind: tar.TypeChar, major: 1, minor: 3, mode: 0o666},
		entry{name: "d/caps", body: "x", pax: map[string]string{
			"SCHILY.xattr.security.capability":       "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
			"SCHILY.xattr.trusted.overlay.redirect":  "/etc",
			"SCHILY.xattr.trusted.overlay.opaque":    "y",
			"SCHILY.xattr.user.overlay.opaque":       "y",
			"SCHILY.xattr.security.selinux":          "label",
			"SCHILY.xattr.system.posix_acl_access":   "x",
			"SCHILY.xattr.trusted.overlay.metacopy2": "",
		}})
	if r.Deferred != nil || r.Entries != 7 || r.Bytes != 6 {
		t.Errorf("%+v", r)
	}
	if st := lstat(t, dir, "d"); st.Mode&modeBits != 0o3750 || st.Uid != 5 || st.Mtim.Sec != 12345 {
		t.Errorf("d: %+v", st)
	}
	if st := lstat(t, dir, "d/f"); st.Mode&modeBits != 0o4711 || st.Uid != 1000 || st.Nlink != 2 || st.Mtim.Sec != 12345 {
		t.Errorf("f: %+v", st)
	}
	if st := lstat(t, dir, "d/l"); st.Mode&unix.S_IFMT != unix.S_IFLNK || st.Mtim.Sec != 12345 {
		t.Errorf("l: %+v", st)
	}
	if st := lstat(t, dir, "d/null"); st.Rdev != unix.Mkdev(1, 3) || st.Mode&modeBits != 0o666 {
		t.Errorf("null: %+v", st)
	}
	if got := listXattrs(filepath.Join(dir, "d/caps")); len(got) != 1 || got[0] != "security.capability" {
		t.Errorf("attributes: %q", got)
	}
}

func TestCompressions(t *testing.T) {
	plain := makeTar(t, entry{name: "f", body: strings.Repeat("content", 1<<16)})
	var gz bytes.Buffer
	z := gzip.NewWriter(&gz)
	_, _ = z.Write(plain)
	_ = z.Close()
	enc, _ := zstd.NewWriter(nil)
	for name, blob := range map[string][]byte{"plain": plain, "gzip": gz.Bytes(), "zstd": enc.EncodeAll(plain, nil)} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			f, _ := os.Open(dir)
			defer f.Close()
			src := Source{Digest: digest(blob), Size: int64(len(blob)), DiffID: digest(plain)}
			if _, err := Unpack(t.Context(), f, bytes.NewReader(blob), src); err != nil {
				t.Fatal(err)
			}
			if len(content(t, dir, "f")) != 7<<16 {
				t.Error("content")
			}
			for what, change := range map[string]func(*Source){
				"digest":  func(s *Source) { s.Digest = digest(nil) },
				"diff ID": func(s *Source) { s.DiffID = digest(nil) },
				"shorter": func(s *Source) { s.Size-- },
				"longer":  func(s *Source) { s.Size++ },
			} {
				bad := src
				change(&bad)
				sub, _ := os.Open(t.TempDir())
				if _, err := Unpack(t.Context(), sub, bytes.NewReader(blob), bad); !errdefs.IsInvalidArgument(err) {
					t.Errorf("wrong %s: %v", what, err)
				}
				sub.Close()
			}
			for _, cut := range []int{0, 1, 3, len(blob) / 2, len(blob) - 1} {
				sub, _ := os.Open(t.TempDir())
				if _, err := Unpack(t.Context(), sub, bytes.NewReader(blob[:cut]), src); !errdefs.IsInvalidArgument(err) {
					t.Errorf("cut at %d: %v", cut, err)
				}
				sub.Close()
			}
		})
	}
}

// victim is a directory beside the layer that hostile layers aim at.
func victim(t *testing.T) (layerDir, outside string, check func()) {
	t.Helper()
	base := t.TempDir()
	layerDir, outside = filepath.Join(base, "layer"), filepath.Join(base, "outside")
	for _, d := range []string{layerDir, outside} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	before, beforeDir := *lstat(t, secret), *lstat(t, outside)
	return layerDir, outside, func() {
		t.Helper()
		if after := *lstat(t, secret); after != before {
			t.Errorf("the file outside changed: %+v", after)
		}
		after := *lstat(t, outside)
		after.Atim = beforeDir.Atim // this check reads it
		if after != beforeDir {
			t.Errorf("the directory outside changed: %+v", after)
		}
		if names, _ := os.ReadDir(outside); len(names) != 1 {
			t.Errorf("files outside: %v", names)
		}
	}
}

// TestCVE_2021_32760 also covers CVE-2025-47290: names are resolved by the kernel below the layer's own descriptor at the moment of use, so that
// there is no checked path that could be swapped before it is used.
func TestCVE_2021_32760(t *testing.T) {
	for name, attack := range map[string]func(outside string) []entry{
		"dot dot": func(string) []entry {
			return []entry{{name: "../outside/secret", body: "x", mode: 0o777}, {name: "../outside/", mode: 0o777, uid: 9}, {name: "a/../../outside/new", body: "x"}}
		},
		"absolute": func(o string) []entry { return []entry{{name: o + "/secret", body: "x"}, {name: o + "/", mode: 0o777}} },
		"through a link": func(o string) []entry {
			return []entry{{name: "l", kind: tar.TypeSymlink, link: o}, {name: "l/secret", body: "x", mode: 0o777}, {name: "l/new/", mode: 0o777}}
		},
		"through a relative link": func(string) []entry {
			return []entry{{name: "l", kind: tar.TypeSymlink, link: "../outside"}, {name: "l/secret", body: "x"}, {name: "l/.wh.secret"}, {name: "l/.wh..wh..opq"}}
		},
		"directory over a link": func(o string) []entry {
			return []entry{{name: "l", kind: tar.TypeSymlink, link: o}, {name: "l/", mode: 0o777, uid: 9}}
		},
		"file over a link": func(o string) []entry {
			return []entry{{name: "l", kind: tar.TypeSymlink, link: o + "/secret"}, {name: "l", body: "x", mode: 0o777, uid: 9}}
		},
		"link over a link": func(o string) []entry {
			return []entry{{name: "l", kind: tar.TypeSymlink, link: o + "/secret"}, {name: "h", kind: tar.TypeLink, link: "l", mode: 0o777, uid: 9}}
		},
		"chain of links": func(o string) []entry {
			return []entry{{name: "a", kind: tar.TypeSymlink, link: "b"}, {name: "b", kind: tar.TypeSymlink, link: "../../" + o}, {name: "a/secret", body: "x"}}
		},
		"cached directory swapped for a link": func(o string) []entry {
			return []entry{{name: "d/"}, {name: "d/f", body: "x"}, {name: "d", kind: tar.TypeSymlink, link: o}, {name: "d/secret", body: "x", mode: 0o777}}
		},
		"device over a link": func(o string) []entry {
			return []entry{{name: "l", kind: tar.TypeSymlink, link: o + "/secret"}, {name: "l", kind: tar.TypeChar, major: 1, minor: 3, mode: 0o777, uid: 9}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, outside, check := victim(t)
			_, err := unpackBytes(t, dir, makeTar(t, attack(outside)...))
			check()
			if err != nil && !errdefs.IsInvalidArgument(err) {
				t.Errorf("refused, but as %v", err)
			}
		})
	}
	t.Run("hard link to the outside", func(t *testing.T) {
		dir, outside, check := victim(t)
		r, err := unpackBytes(t, dir, makeTar(t, entry{name: "h", kind: tar.TypeLink, link: "../outside/secret"}, entry{name: "i", kind: tar.TypeLink, link: outside + "/secret"}))
		check()
		if err == nil {
			own, _ := os.Open(dir)
			defer own.Close()
			if _, err = r.Deferred.Resolve(own, nil); !errdefs.IsInvalidArgument(err) {
				t.Errorf("got %v", err)
			}
		}
		check()
	})
}

// TestCVE_2021_20291: whatever a layer looks like, unpacking ends.
func TestCVE_2021_20291(t *testing.T) {
	good := makeTar(t, entry{name: "a", body: strings.Repeat("x", 3000)}, entry{name: "b", body: strings.Repeat("y", 3000)})
	var gz bytes.Buffer
	z := gzip.NewWriter(&gz)
	_, _ = z.Write(good)
	_ = z.Close()
	damaged := bytes.Clone(gz.Bytes())
	damaged[len(damaged)/2] ^= 0xff
	badHeader := bytes.Clone(good)
	badHeader[150] ^= 0xff // the checksum of the first header
	for name, blob := range map[string][]byte{
		"damaged gzip": damaged, "bad header": badHeader, "short tar": good[:1500],
		"gzip of nothing": {0x1f, 0x8b}, "zstd of nothing": {0x28, 0xb5, 0x2f, 0xfd}, "text": []byte(strings.Repeat("not a tar ", 1000)),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := unpackBytes(t, t.TempDir(), blob); !errdefs.IsInvalidArgument(err) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("reader that hangs is closed", func(t *testing.T) {
		r, w := io.Pipe()
		go func() { _, _ = w.Write(badHeader[:512]) }() // and then nothing, for ever
		dir, _ := os.Open(t.TempDir())
		defer dir.Close()
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		go func() { <-ctx.Done(); _ = w.CloseWithError(ctx.Err()) }()
		if _, err := Unpack(ctx, dir, r, Source{Digest: digest(good), Size: 1 << 20, DiffID: digest(good)}); err == nil {
			t.Error("no error")
		}
	})
}

func TestMalformedEntries(t *testing.T) {
	for name, e := range map[string][]entry{
		"long name":          {{name: strings.Repeat("a/", 3000) + "f"}},
		"long part":          {{name: strings.Repeat("a", 300)}},
		"empty link":         {{name: "l", kind: tar.TypeLink, link: "l"}},
		"whiteout of dots":   {{name: ".wh..."}, {name: ".wh.."}},
		"whiteout of itself": {{name: ".wh."}},
		"root as file":       {{name: ".", body: "x"}},
		"link to directory":  {{name: "d/"}, {name: "h", kind: tar.TypeLink, link: "d"}},
		"loop of links":      {{name: "a", kind: tar.TypeSymlink, link: "b"}, {name: "b", kind: tar.TypeSymlink, link: "a"}, {name: "c", kind: tar.TypeLink, link: "a/x"}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := unpackBytes(t, t.TempDir(), makeTar(t, e...)); err == nil {
				t.Error("taken")
			}
		})
	}
}

func TestLimits(t *testing.T) {
	tarball := makeTar(t, entry{name: "a", body: strings.Repeat("x", 100)}, entry{name: "b", body: strings.Repeat("x", 100)})
	src := Source{Digest: digest(tarball), Size: int64(len(tarball)), DiffID: digest(tarball)}
	for name, change := range map[string]func(*Source){"bytes": func(s *Source) { s.MaxBytes = 150 }, "entries": func(s *Source) { s.MaxEntries = 1 }} {
		limited := src
		change(&limited)
		dir, _ := os.Open(t.TempDir())
		if _, err := Unpack(t.Context(), dir, bytes.NewReader(tarball), limited); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
		dir.Close()
	}
}

func TestWhiteouts(t *testing.T) {
	dir, _ := unpackOK(t,
		entry{name: "d/"}, entry{name: "d/.wh.gone"}, entry{name: "d/kept", body: "x"}, entry{name: "d/.wh.kept"},
		entry{name: "o/"}, entry{name: "o/.wh..wh..opq"}, entry{name: "o/.wh..wh.plnk"},
		entry{name: "d/.wh.again"}, entry{name: "d/again/"},
		entry{name: "sub/"}, entry{name: "sub/own", body: "x"}, entry{name: ".wh.sub"})
	if st := lstat(t, dir, "d/gone"); !isWhiteout(st) {
		t.Errorf("gone: %+v", st)
	}
	if content(t, dir, "d/kept") != "x" {
		t.Error("a layer's own file was hidden by its whiteout")
	}
	opaque := func(name string) bool {
		b := make([]byte, 4)
		n, err := unix.Lgetxattr(filepath.Join(dir, name), opaqueXattr, b)
		return err == nil && string(b[:n]) == "y"
	}
	for name, want := range map[string]bool{"o": true, "d/again": true, "sub": true, "d": false} {
		if opaque(name) != want {
			t.Errorf("%s: opaque is %v", name, !want)
		}
	}
	if entries, _ := os.ReadDir(filepath.Join(dir, "o")); len(entries) != 0 {
		t.Errorf("o has %v", entries)
	}
}

func TestReplacing(t *testing.T) {
	dir, _ := unpackOK(t,
		entry{name: "a/"}, entry{name: "a/x/"}, entry{name: "a/x/y", body: "1"}, entry{name: "a", body: "file now"},
		entry{name: "f", body: "1"}, entry{name: "f/"}, entry{name: "f/g", body: "2"},
		entry{name: "p", body: "1"}, entry{name: "p/q", body: "2"},
		entry{name: "r", body: "first"}, entry{name: "r", body: "second"})
	for name, want := range map[string]string{"a": "file now", "f/g": "2", "p/q": "2", "r": "second"} {
		if got := content(t, dir, name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestBehindLinks: what a tar writes through its own links lands where they lead inside the layer.
func TestBehindLinks(t *testing.T) {
	dir, _ := unpackOK(t,
		entry{name: "usr/lib/"}, entry{name: "lib", kind: tar.TypeSymlink, link: "usr/lib"}, entry{name: "lib/a", body: "1"},
		entry{name: "var/"}, entry{name: "var/run", kind: tar.TypeSymlink, link: "/run"}, entry{name: "var/run/b", body: "2"})
	for name, want := range map[string]string{"usr/lib/a": "1", "run/b": "2"} {
		if got := content(t, dir, name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if st := lstat(t, dir, "var/run"); st.Mode&unix.S_IFMT != unix.S_IFLNK {
		t.Errorf("var/run is no link any more: %+v", st)
	}
}

func TestDeferred(t *testing.T) {
	base, _ := unpackOK(t, entry{name: "d/", mode: 0o700, uid: 3}, entry{name: "d/f", body: "from below", mode: 0o4755, uid: 4}, entry{name: "d/hidden", body: "x"},
		entry{name: "d/l", kind: tar.TypeSymlink, link: "f"})
	middle, _ := unpackOK(t, entry{name: "d/", mode: 0o711, uid: 5}, entry{name: "d/.wh.hidden"})
	dir, r := unpackOK(t, entry{name: "h", kind: tar.TypeLink, link: "d/f"}, entry{name: "h2", kind: tar.TypeLink, link: "h"}, entry{name: "s", kind: tar.TypeLink, link: "d/l"}, entry{name: "d/new", body: "x"})
	if r.Deferred == nil {
		t.Fatal("nothing was deferred")
	}
	open := func(path string) *os.File {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	if _, err := r.Deferred.Resolve(open(dir), []*os.File{open(middle), open(base)}); err != nil {
		t.Fatal(err)
	}
	if st := lstat(t, dir, "h"); st.Mode&modeBits != 0o4755 || st.Uid != 4 || st.Nlink != 3 || st.Ino != lstat(t, dir, "d/f").Ino || st.Ino != lstat(t, dir, "h2").Ino {
		t.Errorf("h: %+v", st)
	}
	if content(t, dir, "h") != "from below" {
		t.Error("content")
	}
	if st := lstat(t, dir, "s"); st.Mode&unix.S_IFMT != unix.S_IFLNK {
		t.Errorf("s: %+v", st)
	}
	if st := lstat(t, dir, "d"); st.Mode&modeBits != 0o711 || st.Uid != 5 {
		t.Errorf("d: %+v", st)
	}
	hidden, r := unpackOK(t, entry{name: "h", kind: tar.TypeLink, link: "d/hidden"})
	if _, err := r.Deferred.Resolve(open(hidden), []*os.File{open(middle), open(base)}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a link to a file that a layer between removed: %v", err)
	}
}

func TestManyDirectories(t *testing.T) {
	var entries []entry
	for i := range 3 * maxCachedDirs {
		entries = append(entries, entry{name: fmt.Sprintf("d%d/e/", i)}, entry{name: fmt.Sprintf("d%d/e/f", i), body: "x"})
	}
	deep := strings.Repeat("d/", 2*maxCachedDirs)
	dir, _ := unpackOK(t, append(entries, entry{name: deep + "f", body: "deep"})...)
	if content(t, dir, deep, "f") != "deep" || lstat(t, dir, "d0/e").Mtim.Sec != 12345 {
		t.Error("content")
	}
}

func TestRemoveTreeDeep(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "x", strings.Repeat("d/", 1000)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/", filepath.Join(dir, "x/link")); err != nil {
		t.Fatal(err)
	}
	f, _ := os.Open(dir)
	defer f.Close()
	if err := RemoveTree(t.Context(), f, "x"); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts a small tmpfs")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if _, err := unpackBytes(t, dir, makeTar(t, entry{name: "f", body: strings.Repeat("x", 1<<20)})); !errdefs.IsResourceExhausted(err) || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(makeTar(f, entry{name: "d/", mode: 0o700}, entry{name: "d/f", body: "x"}, entry{name: "l", kind: tar.TypeSymlink, link: "../x"}, entry{name: "l/y", body: "z"}))
	f.Add(makeTar(f, entry{name: "h", kind: tar.TypeLink, link: "f"}, entry{name: ".wh.f"}, entry{name: "a/b/c", body: "x"}))
	f.Add([]byte{0x1f, 0x8b, 8})
	f.Fuzz(func(t *testing.T, blob []byte) {
		if os.Getuid() != 0 {
			t.Skip("needs root")
		}
		base := t.TempDir()
		if err := os.Mkdir(filepath.Join(base, "layer"), 0o755); err != nil {
			t.Fatal(err)
		}
		dir, _ := os.Open(filepath.Join(base, "layer"))
		defer dir.Close()
		_, _ = Unpack(t.Context(), dir, bytes.NewReader(blob), Source{Digest: digest(blob), Size: int64(len(blob)), DiffID: digest(blob), MaxEntries: 1000, MaxBytes: 1 << 20})
		if entries, _ := os.ReadDir(base); len(entries) != 1 {
			t.Errorf("outside of the layer: %v", entries)
		}
	})
}

func BenchmarkUnpack(b *testing.B) {
	var entries []entry
	body := strings.Repeat("some content that compresses a little 0123456789\n", 600)
	for i := range 2000 {
		entries = append(entries, entry{name: fmt.Sprintf("usr/share/d%d/f%d", i/40, i), body: body})
	}
	plain := makeTar(b, entries...)
	var gz bytes.Buffer
	z := gzip.NewWriter(&gz)
	_, _ = z.Write(plain)
	_ = z.Close()
	b.SetBytes(int64(len(plain)))
	for b.Loop() {
		dir, _ := os.Open(b.TempDir())
		if _, err := Unpack(b.Context(), dir, bytes.NewReader(gz.Bytes()), Source{Digest: digest(gz.Bytes()), Size: int64(gz.Len()), DiffID: digest(plain)}); err != nil {
			b.Fatal(err)
		}
		dir.Close()
	}
}
