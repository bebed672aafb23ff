package volume

import (
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func text(s string) file { return file{data: []byte(s), mode: 0o644, owner: noOwner} }

// visible is what a reader sees: path → content, links followed.
func visible(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), "..") {
			continue
		}
		start, err := filepath.EvalSymlinks(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Errorf("%s leads nowhere: %v", entry.Name(), err)
			continue
		}
		err = filepath.WalkDir(start, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			content, err := os.ReadFile(path)
			found[entry.Name()+strings.TrimPrefix(path, start)] = string(content)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

func mustWrite(t *testing.T, dir string, files content) {
	t.Helper()
	if err := write(dir, files, nil); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for name, f := range files {
		want[filepath.Clean(name)] = string(f.data)
	}
	got := visible(t, dir)
	if len(got) != len(want) {
		t.Errorf("%v, want %v", got, want)
	}
	for name, content := range want {
		if got[name] != content {
			t.Errorf("%s: %q, want %q", name, got[name], content)
		}
	}
}

// names are the entries of a directory; the one that changes by time is "..content".
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, entry := range entries {
		name := entry.Name()
		if strings.HasPrefix(name, "..") && name != dataLink && name != dataLinkNew {
			name = "..content"
		}
		found = append(found, name)
	}
	sort.Strings(found)
	return strings.Join(found, " ")
}

func TestWriteIsAtomicAndIdempotent(t *testing.T) {
	dir := t.TempDir()
	mustWrite(t, dir, content{"a": text("1"), "sub/b": text("2"), "sub/deep/c": text("3")})
	first, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, dir, content{"a": text("1"), "./sub//b": text("2"), "sub/deep/c": text("3")})
	if again, _ := os.Readlink(filepath.Join(dir, dataLink)); again != first {
		t.Error("unchanged content was written again")
	}
	mustWrite(t, dir, content{"a": text("new"), "sub/b": text("2")})
	if now, _ := os.Readlink(filepath.Join(dir, dataLink)); now == first {
		t.Error("changed content was written into the old directory")
	}
	mustWrite(t, dir, content{"z": text("")})
	if got := names(t, dir); got != "..content ..data z" {
		t.Errorf("left: %s", got)
	}
	mustWrite(t, dir, content{})
	if got := names(t, dir); got != "..content ..data" {
		t.Errorf("left: %s", got)
	}
}

func TestWriteFinishesWhatWasBegun(t *testing.T) {
	dir := t.TempDir()
	mustWrite(t, dir, content{"a": text("1")})
	for _, left := range []string{"..2020_01_01_00_00_00.x", "..2020_01_01_00_00_00.y/deep"} { // of an agent that was killed
		if err := os.MkdirAll(filepath.Join(dir, left), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("..2020_01_01_00_00_00.x", filepath.Join(dir, dataLinkNew)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, dir, content{"a": text("1")})
	if got := names(t, dir); got != "..content ..data a" {
		t.Errorf("left: %s", got)
	}
	mustWrite(t, dir, content{"a": text("2")})
}

func TestModesAndOwners(t *testing.T) {
	needRoot(t)
	dir, group := t.TempDir(), int64(1234)
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	files := content{"plain": {mode: 0o400, owner: noOwner}, "d/token": {mode: 0o600, owner: 77}}
	if err := write(dir, files, &group); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct{ mode, uid, gid uint32 }{
		"plain": {0o440, 0, 1234}, "d/token": {0o640, 77, 1234}, "d": {0o2755, 0, 1234}, "..data/": {0o2755, 0, 1234},
	} {
		var stat unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, name)+map[bool]string{true: "/"}[strings.HasSuffix(name, "/")], &stat); err != nil {
			t.Fatal(err)
		}
		if stat.Mode&0o7777 != want.mode || stat.Uid != want.uid || stat.Gid != want.gid {
			t.Errorf("%s: mode %o of %d:%d", name, stat.Mode&0o7777, stat.Uid, stat.Gid)
		}
	}
	if err := write(t.TempDir(), content{"x": {mode: 0o4777, owner: noOwner}}, nil); err != nil {
		t.Fatal(err)
	}
}

func TestPaths(t *testing.T) {
	for path, ok := range map[string]bool{
		"a": true, "a/b": true, "a..b": true, "...": false, "a/..b": true, "./a": true, "a//b": true, "..a": false, "..": false, "../a": false, "a/../b": false,
		"/a": false, "": false, ".": false, "./": false, "./..a": false, "a\x00": false, "..data": false, "..data/x": false,
		strings.Repeat("a", 255): true, strings.Repeat("a", 256): false, strings.Repeat("a/", 2048) + "a": false,
	} {
		if err := checkPath(path); (err == nil) != ok {
			t.Errorf("%q: %v", path, err)
		}
	}
	if write(t.TempDir(), content{"a": text(""), "a/b": text("")}, nil) == nil {
		t.Error("a file and a directory have one name")
	}
}

// A container that could make its volume writable has planted links before the agent writes. Nothing outside is written, read or removed.
func TestPlantedLinksLeadNowhere(t *testing.T) {
	for name, plant := range map[string]func(t *testing.T, dir, outside string){
		"data leads out": func(t *testing.T, dir, outside string) { relink(t, outside, filepath.Join(dir, dataLink)) },
		"data leads up": func(t *testing.T, dir, outside string) {
			up, err := filepath.Rel(dir, outside)
			if err != nil {
				t.Fatal(err)
			}
			relink(t, up, filepath.Join(dir, dataLink))
		},
		"data is the volume": func(t *testing.T, dir, _ string) { relink(t, ".", filepath.Join(dir, dataLink)) },
		"data is itself":     func(t *testing.T, dir, _ string) { relink(t, dataLink, filepath.Join(dir, dataLink)) },
		"data is a directory": func(t *testing.T, dir, _ string) {
			relink(t, "x", filepath.Join(dir, dataLink))
			if err := os.Remove(filepath.Join(dir, dataLink)); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Join(dir, dataLink, "full"), 0o755); err != nil {
				t.Fatal(err)
			}
		},
		"the content's directory leads out": func(t *testing.T, dir, outside string) {
			current, err := os.Readlink(filepath.Join(dir, dataLink))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(filepath.Join(dir, current)); err != nil {
				t.Fatal(err)
			}
			relink(t, outside, filepath.Join(dir, current))
		},
		"old content leads out": func(t *testing.T, dir, outside string) { relink(t, outside, filepath.Join(dir, "..2020_01_01")) },
		"the new link is there": func(t *testing.T, dir, outside string) { relink(t, outside, filepath.Join(dir, dataLinkNew)) },
		"a key leads out":       func(t *testing.T, dir, outside string) { relink(t, outside+"/victim", filepath.Join(dir, "a")) },
		"a file leads out": func(t *testing.T, dir, outside string) {
			relink(t, outside+"/victim", filepath.Join(dir, dataLink, "a"))
		},
		"a file is a FIFO": func(t *testing.T, dir, _ string) {
			if err := os.Remove(filepath.Join(dir, dataLink, "a")); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mkfifo(filepath.Join(dir, dataLink, "a"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			outside, dir := t.TempDir(), filepath.Join(t.TempDir(), "volume")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			victim := filepath.Join(outside, "victim")
			if err := os.WriteFile(victim, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			mustWrite(t, dir, content{"a": text("old"), "d/b": text("old")})
			plant(t, dir, outside)
			mustWrite(t, dir, content{"a": text("old"), "d/b": text("old")})
			plant(t, dir, outside)
			mustWrite(t, dir, content{"a": text("new")})
			if got, err := os.ReadFile(victim); err != nil || string(got) != "old" {
				t.Errorf("outside: %q %v", got, err)
			}
			if got := names(t, outside); got != "victim" {
				t.Errorf("outside: %s", got)
			}
		})
	}
}

func relink(t *testing.T, target, name string) {
	t.Helper()
	if err := os.RemoveAll(name); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

// Keys and paths are written by whoever may make a ConfigMap and a pod.
func FuzzWrite(f *testing.F) {
	f.Add("a", "b/c")
	f.Add("..data", "a")
	f.Add("a/../../b", "./..x")
	f.Add("a", "a/b")
	f.Fuzz(func(t *testing.T, one, two string) {
		outer := t.TempDir()
		dir := filepath.Join(outer, "volume")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		files := content{one: text("1"), two: text("2")}
		if err := write(dir, files, nil); err == nil {
			mustWrite(t, dir, files)
			mustWrite(t, dir, content{one: text("3")})
		}
		if got := names(t, outer); got != "volume" {
			t.Errorf("beside the volume: %s", got)
		}
	})
}
