package imageuser

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/runtime/request"
)

const passwdFile = `# a comment
root:x:0:0:root:/root:/bin/sh
app:x:1000:1000:App:/home/app:/bin/sh
huge:x:4294967296:0::/:/bin/sh
word:x:zero:0::/:/bin/sh
short:x
4294967296:x:0:0::/:/bin/sh
`

const groupFile = `root:x:0:
app:x:1000:
staff:x:50:app,other
video:x:44:app
broken:x:nothing:app
`

// imageRoot makes a root directory with files.
func imageRoot(t *testing.T, files map[string]string) *os.File {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func usual(t *testing.T) *os.File {
	return imageRoot(t, map[string]string{"etc/passwd": passwdFile, "etc/group": groupFile})
}

func id(n int64) *int64 { return &n }

func TestResolve(t *testing.T) {
	root := usual(t)
	for _, c := range []struct {
		name   string
		image  string
		sec    request.Security
		uid    uint32
		gid    uint32
		groups []uint32
		home   string
	}{
		{"nobody said", "", request.Security{}, 0, 0, []uint32{0}, "/root"},
		{"image's name", "app", request.Security{}, 1000, 1000, []uint32{1000, 44, 50}, "/home/app"},
		{"image's number", "1000", request.Security{}, 1000, 1000, []uint32{1000, 44, 50}, "/home/app"},
		{"image's number without an entry", "4321", request.Security{}, 4321, 0, []uint32{0}, "/"},
		{"image's group", "app:staff", request.Security{}, 1000, 50, []uint32{50, 44}, "/home/app"},
		{"image's number of a group", "4321:77", request.Security{}, 4321, 77, []uint32{77}, "/"},
		{"request's user", "app", request.Security{RunAsUser: id(0)}, 0, 0, []uint32{0}, "/root"},
		{"request's name", "", request.Security{RunAsUsername: "app"}, 1000, 1000, []uint32{1000, 44, 50}, "/home/app"},
		{"request's group", "", request.Security{RunAsUser: id(1000), RunAsGroup: id(9)}, 1000, 9, []uint32{9, 44, 50}, "/home/app"},
	} {
		u, err := Resolve(root, c.image, c.sec)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if u.UID != c.uid || u.GID != c.gid || !slices.Equal(u.Groups, c.groups) || u.Home != c.home {
			t.Errorf("%s: %+v", c.name, u)
		}
	}
}

func TestWithoutFiles(t *testing.T) {
	root := imageRoot(t, nil)
	if u, err := Resolve(root, "12:13", request.Security{}); err != nil || u.UID != 12 || u.GID != 13 {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := Resolve(root, "app", request.Security{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a name: %v", err)
	}
}

// TestCVE_2022_2995 and CVE-2023-25173: the groups are exactly those asked for, the primary one among them.
func TestCVE_2022_2995_CVE_2023_25173(t *testing.T) {
	root := usual(t)
	sec := request.Security{RunAsUser: id(1000), RunAsGroup: id(3000), SupplementalGroups: []int64{50, 60, 3000}}
	u, err := Resolve(root, "", sec)
	if err != nil || !slices.Equal(u.Groups, []uint32{3000, 44, 50, 60}) {
		t.Errorf("merge: %v, %v", u.Groups, err)
	}
	sec.StrictSupplementalGroups = true
	u, err = Resolve(root, "", sec)
	if err != nil || !slices.Equal(u.Groups, []uint32{3000, 50, 60}) {
		t.Errorf("strict: %v, %v", u.Groups, err)
	}
}

// TestCVE_2024_40635_CVE_2026_46680: odd users are errors; none becomes root.
func TestCVE_2024_40635_CVE_2026_46680(t *testing.T) {
	root := usual(t)
	for _, user := range []string{
		"4294967296", "2147483648", "65536000000000000000000", "-1", "-4294967296", "huge", "word", "short",
		"0x0", "1e3", " 0", "0 ", "+0", "٠", ":0", ":", "app:nobody", "1000:4294967296", "1000:-1", "nobody", "a\nb", "1000:0:0",
	} {
		u, err := Resolve(root, user, request.Security{})
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("USER %q: %+v, %v", user, u, err)
		}
	}
	for _, sec := range []request.Security{
		{RunAsUser: id(-1)}, {RunAsUser: id(1 << 32)}, {RunAsUser: id(1), RunAsGroup: id(1 << 32)},
		{RunAsGroup: id(5)}, {SupplementalGroups: []int64{1 << 32}}, {RunAsUsername: "app:0"},
	} {
		if u, err := Resolve(root, "", sec); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %+v, %v", sec, u, err)
		}
	}
}

// TestCVE_2025_4437_CVE_2026_47262: huge and hostile files are refused, quickly and in bounded memory.
func TestCVE_2025_4437_CVE_2026_47262(t *testing.T) {
	root := imageRoot(t, map[string]string{"etc/passwd": ""})
	file := filepath.Join(root.Name(), "etc/passwd")
	if err := os.Truncate(file, 1<<40); err != nil {
		t.Fatal(err)
	}
	if _, err := Resolve(root, "app", request.Security{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a terabyte: %v", err)
	}
	if err := os.WriteFile(file, []byte(strings.Repeat("x", 2<<20)), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Resolve(root, "app", request.Security{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an endless line: %v", err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Resolve(root, "app", request.Security{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a FIFO: %v", err)
	}
}

// TestSymlinksStayInside: a symlink in the image is resolved with the image as root.
func TestSymlinksStayInside(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "passwd"), []byte("stolen:x:7:7::/:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, link := range []string{filepath.Join(outside, "passwd"), "../../../../../.." + outside + "/passwd", "/proc/self/root" + outside + "/passwd"} {
		root := imageRoot(t, map[string]string{"etc/group": groupFile})
		if err := os.Symlink(link, filepath.Join(root.Name(), "etc/passwd")); err != nil {
			t.Fatal(err)
		}
		if u, err := Resolve(root, "stolen", request.Security{}); err == nil {
			t.Errorf("%s: %+v", link, u)
		}
	}
}

// TestCVE_2022_4318: a home with a control character is not passed on.
func TestCVE_2022_4318(t *testing.T) {
	root := imageRoot(t, map[string]string{"etc/passwd": "a:x:1:1::/home/a\x01b:/bin/sh\nb:x:2:2::home:/bin/sh\nc:x:3:3::/h\ré:/bin/sh\n"})
	for _, user := range []string{"a", "b", "c"} {
		if u, err := Resolve(root, user, request.Security{}); err != nil || u.Home != "/" {
			t.Errorf("%s: %+v, %v", user, u, err)
		}
	}
}

func FuzzLookup(f *testing.F) {
	f.Add("app", passwdFile, groupFile)
	f.Add("1000:50", passwdFile, groupFile)
	f.Fuzz(func(t *testing.T, user, passwd, group string) {
		u, err := lookup(user, request.Security{}, &database{strings.NewReader(passwd)}, &database{strings.NewReader(group)})
		if err == nil && (u.UID > maxID || u.GID > maxID || !slices.Contains(u.Groups, u.GID) || strings.ContainsAny(u.Home, "\n\x00")) {
			t.Fatalf("%+v", u)
		}
	})
}
