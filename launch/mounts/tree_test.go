package mounts

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func openDir(t testing.TB, dir string) *os.File {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), dir)
	t.Cleanup(func() { f.Close() })
	return f
}

func real(t testing.TB, f *os.File) string {
	t.Helper()
	name, err := os.Readlink("/proc/self/fd/" + uitoa(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func uitoa(n uintptr) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return uitoa(n/10) + string(rune('0'+n%10))
}

func TestTreeResolves(t *testing.T) {
	root := t.TempDir()
	for name, target := range map[string]string{
		"abs": "/there", "rel": "there", "up": "../../../there", "loop": "loop", "chain": "abs/x", "self": ".", "empty/../l": "/abs/../there/y",
	} {
		name := filepath.Join(root, name)
		_ = os.MkdirAll(filepath.Dir(name), 0o755)
		if err := os.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "plain"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for destination, want := range map[string]string{
		"/": "/", "/a/b/c": "/a/b/c", "/abs": "/there", "/abs/z": "/there/z", "/rel/": "/there", "/up/../q": "/q", "/chain": "/there/x", "/self/self/self/s": "/s",
		"/../..": "/", "/l": "/there/y", "/loop": "!", "/plain/x": "!", "relative": "!", "/nul\x00": "!",
	} {
		tree := NewTree(openDir(t, root))
		at, err := tree.Directory(destination)
		if err != nil {
			if want != "!" {
				t.Errorf("%q: %v", destination, err)
			}
			continue
		}
		if at.Real != want || real(t, at.File) != filepath.Join(root, want) {
			t.Errorf("%q is %q, %s; want %q", destination, at.Real, real(t, at.File), want)
		}
		at.File.Close()
	}
}

func TestTreeCrossesMounts(t *testing.T) {
	root, volume := t.TempDir(), t.TempDir()
	if err := os.Symlink("/vol/../proc/self", filepath.Join(volume, "link")); err != nil {
		t.Fatal(err)
	}
	tree := NewTree(openDir(t, root))
	proc, err := tree.Directory("/proc")
	if err != nil {
		t.Fatal(err)
	}
	tree.AttachMade(proc, 1)
	vol, err := tree.Directory("/vol")
	if err != nil {
		t.Fatal(err)
	}
	tree.Attach(vol, openDir(t, volume))
	at, err := tree.Directory("/vol/sub")
	if err != nil || real(t, at.File) != filepath.Join(volume, "sub") {
		t.Errorf("%v, %v", at, err)
	}
	at, err = tree.Directory("/vol/link/x/../attr")
	if err != nil || at.File != nil || at.Made != 1 || at.Path != "self/attr" || at.Real != "/proc/self/attr" {
		t.Errorf("%+v, %v", at, err)
	}
	at, err = tree.Directory("/proc/../vol/sub")
	if err != nil || at.File == nil || at.Real != "/vol/sub" {
		t.Errorf("%+v, %v", at, err)
	}
}

// Whatever destination and links there are, nothing outside of the root is reached or made.
func FuzzTreeStaysInside(f *testing.F) {
	f.Add("/a/../../b", "../../..", "/l/x")
	f.Add("/l", "/l2/..", "..")
	f.Add("/l/l/l", "./l2", "/../../etc")
	f.Fuzz(func(t *testing.T, destination, first, second string) {
		base := t.TempDir()
		root := filepath.Join(base, "root")
		_ = os.Mkdir(root, 0o755)
		_ = os.Symlink(first, filepath.Join(root, "l"))
		_ = os.Symlink(second, filepath.Join(root, "l2"))
		tree := NewTree(openDir(t, root))
		at, err := tree.Directory(destination)
		if err == nil {
			if got := real(t, at.File); got != root && !strings.HasPrefix(got, root+"/") {
				t.Errorf("%q is %q", destination, got)
			}
			at.File.Close()
		}
		if entries, _ := os.ReadDir(base); len(entries) != 1 {
			t.Errorf("%v was made outside", entries)
		}
	})
}

func TestParseOptions(t *testing.T) {
	o, err := ParseOptions([]string{"rbind", "ro", "rw", "rro", "nosuid", "rslave", "size=64k", "ridmap"})
	if err != nil {
		t.Fatal(err)
	}
	if !o.Bind || !o.Recursive || o.Set != unix.MOUNT_ATTR_NOSUID || o.Clear != unix.MOUNT_ATTR_RDONLY || o.RecursiveSet != unix.MOUNT_ATTR_RDONLY ||
		o.Propagation != unix.MS_SLAVE || !o.PropagationRecursive || len(o.Filesystem) != 1 || !o.IDMapRecursive {
		t.Errorf("%+v", o)
	}
	// relatime is the zero of a field; a file system must not be asked for it.
	o, err = ParseOptions([]string{"noatime", "relatime", "rrelatime", "norelatime"})
	if err != nil || len(o.Filesystem) != 0 || o.Set != 0 || o.Clear != unix.MOUNT_ATTR__ATIME || o.RecursiveClear != unix.MOUNT_ATTR__ATIME {
		t.Errorf("%+v, %v", o, err)
	}
	if _, err := ParseOptions([]string{"a\nb"}); err == nil {
		t.Error("a control character was taken")
	}
}
