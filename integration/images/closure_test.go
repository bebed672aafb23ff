package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

const index = `Package: editor
Version: 2:1.0-1
Architecture: amd64
Depends: libtext (>= 1), terminal | console, config
Filename: pool/e/editor.deb

Package: libtext
Version: 1.2
Architecture: amd64
Pre-Depends: libc6 (>= 2.34), libtext-data:any
Multi-Arch: same

Package: libtext
Version: 1.2
Architecture: arm64

Package: libtext-data
Version: 1.2
Architecture: all
Description: words
 on two lines
Depends: libtext

Package: libc6
Version: 2.36
Architecture: amd64

Package: console
Version: 1
Architecture: amd64

Package: config-a
Version: 1
Architecture: all
Provides: config (= 1), other
Depends: scripts

Package: config-b
Version: 1
Architecture: all
Provides: config

Package: scripts
Version: 1
Architecture: all
Depends: not-there
`

func packages(t *testing.T) map[string]debian {
	t.Helper()
	found, err := parsePackages(strings.NewReader(index), "amd64")
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestClosure(t *testing.T) {
	for _, c := range []struct {
		name           string
		roots, without []string
		want           string
		err            error
	}{
		{name: "all that is needed, cycles included", roots: []string{"libtext"}, want: "libc6 libtext libtext-data"},
		{name: "the alternative that there is, the first provider, nothing that is left out", roots: []string{"editor"}, without: []string{"scripts"},
			want: "config-a console editor libc6 libtext libtext-data"},
		{name: "leaving out a name that is provided leaves out its clause", roots: []string{"editor"}, without: []string{"config"},
			want: "console editor libc6 libtext libtext-data"},
		{name: "something needs what there is not", roots: []string{"editor"}, err: errdefs.ErrNotFound},
		{name: "a root that there is not", roots: []string{"ed"}, err: errdefs.ErrNotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			list, err := closure(packages(t), c.roots, c.without)
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			var names []string
			for _, p := range list {
				names = append(names, p.name)
			}
			if diff := cmp.Diff(c.want, strings.Join(names, " ")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPackageFileNames(t *testing.T) {
	if got := packages(t)["editor"].file(); got != "editor_2%3a1.0-1_amd64.deb" {
		t.Errorf("apt-get download would call it otherwise than %s", got)
	}
}

// Files of packages land where a merged /usr has them, with their owners; what slim images leave out is left out.
func TestUnpackedFiles(t *testing.T) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, h := range []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./bin/su", Typeflag: tar.TypeReg, Mode: 0o4755},
		{Name: "./bin/login", Typeflag: tar.TypeLink, Linkname: "./bin/su", Mode: 0o4755},
		{Name: "./lib64/ld.so", Typeflag: tar.TypeSymlink, Linkname: "/lib/ld-2.so"},
		{Name: "./var/mail/", Typeflag: tar.TypeDir, Mode: 0o2775, Gid: 8},
		{Name: "./usr/share/man/man1/su.1.gz", Typeflag: tar.TypeReg},
		{Name: "./usr/share/doc/su/README", Typeflag: tar.TypeReg},
		{Name: "./usr/share/doc/su/copyright", Typeflag: tar.TypeReg, Mode: 0o644},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := readFiles(&archive)
	if err != nil {
		t.Fatal(err)
	}
	want := []file{
		{path: "/usr/bin/su", mode: 0o4755, body: []byte{}},
		{path: "/usr/bin/login", mode: 0o4755, hardlink: "/usr/bin/su"},
		{path: "/usr/lib64/ld.so", symlink: "/lib/ld-2.so"},
		{path: "/var/mail", mode: 0o2775, gid: 8, dir: true},
		{path: "/usr/share/doc/su/copyright", mode: 0o644, body: []byte{}},
	}
	if diff := cmp.Diff(want, files, cmp.AllowUnexported(file{})); diff != "" {
		t.Error(diff)
	}
}

func TestTheLastFileOfAPathWins(t *testing.T) {
	got := overlay([]file{{path: "/a", mode: 1}, {path: "/b"}, {path: "/a", symlink: "b"}})
	if diff := cmp.Diff([]file{{path: "/a", symlink: "b"}, {path: "/b"}}, got, cmp.AllowUnexported(file{})); diff != "" {
		t.Error(diff)
	}
}

// An image is the same after a trip to the disk, and its key finds it; blobs that are gone make it be built again.
func TestStore(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	b, err := newBuilder(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	r := recipe{files: []file{{path: "/etc/a", body: []byte("a")}}}
	first, err := b.make(r, "first")
	if err != nil {
		t.Fatal(err)
	}
	progress := &bytes.Buffer{}
	b.opts.Progress = progress
	again, err := b.make(r, "again")
	if err != nil {
		t.Fatal(err)
	}
	digest, err := first.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if found, err := again.Digest(); err != nil || found != digest || progress.Len() > 0 {
		t.Errorf("digest %s, then %s (%v); built again: %q", digest, found, err, progress)
	}
	r.files[0].body = []byte("b")
	other, err := b.make(r, "other")
	if err != nil {
		t.Fatal(err)
	}
	if found, err := other.Digest(); err != nil || found == digest || progress.Len() == 0 {
		t.Errorf("another file, but the same image: %s (%v)", found, err)
	}
	layers, err := other.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers (%v), not 1", len(layers), err)
	}
	body, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if content, err := io.ReadAll(body); err != nil || !bytes.Contains(content, []byte("etc/a")) {
		t.Errorf("the layer has no etc/a (%v)", err)
	}
}
