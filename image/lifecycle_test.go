package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestTagsAndRemoval(t *testing.T) {
	s, reg := openStore(t), newRegistry(t)
	one := reg.push(t, "app", "v1", gzipped, uniqueLayer(t, 1), uniqueLayer(t, 2))
	for _, tag := range []string{"v2", "v3"} {
		reg.put(t, reg.URL+"/v2/app/manifests/"+tag, ociManifest, []byte(one.manifest))
	}
	name := reg.host + "/app"
	for _, tag := range []string{":v1", ":v2", ":v3"} {
		pull(t, s, name+tag)
	}
	list, _ := s.List(t.Context())
	if len(list) != 1 || !reflect.DeepEqual(list[0].RepoTags, []string{name + ":v1", name + ":v2", name + ":v3"}) || len(list[0].RepoDigests) != 1 {
		t.Fatalf("%+v", list)
	}
	if err := s.Remove(t.Context(), name+":v2"); err != nil {
		t.Fatal(err)
	}
	if img, _ := s.Get(t.Context(), one.id); len(img.RepoTags) != 2 || len(img.RepoDigests) != 1 {
		t.Errorf("after removing a tag: %+v", img)
	}
	// v1 moves to another image, which shares a layer.
	two := reg.push(t, "app", "v1", gzipped, uniqueLayer(t, 1), uniqueLayer(t, 3))
	pull(t, s, name+":v1")
	if img, _ := s.Get(t.Context(), name+":v1"); string(img.ID) != two.id {
		t.Errorf("v1 is %s", img.ID)
	}
	if img, _ := s.Get(t.Context(), one.id); !reflect.DeepEqual(img.RepoTags, []string{name + ":v3"}) {
		t.Errorf("the old image has %v", img.RepoTags)
	}
	if n := layerDirs(t, s); n != 3 {
		t.Errorf("%d layers", n)
	}
	if usage, _ := s.FsUsage(t.Context()); usage.UsedBytes != 27 || usage.InodesUsed != 3 {
		t.Errorf("%+v", usage)
	}
	// The last tag takes the digest along that came with it.
	for range 2 {
		if err := s.Remove(t.Context(), name+":v3"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Get(t.Context(), one.id); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	if err := s.Remove(t.Context(), two.id[7:18]); err != nil { // too short for an ID: a name, which nothing here has
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), two.id); err != nil {
		t.Fatalf("a short name removed an image: %v", err)
	}
	if err := s.Remove(t.Context(), two.id[7:19]); err != nil {
		t.Fatal(err)
	}
	settle(t, s)
	if n := layerDirs(t, s); n != 0 {
		t.Errorf("%d layers left", n)
	}
	for _, ref := range []string{two.id, name + ":v1"} {
		if err := s.Remove(t.Context(), ref); err != nil {
			t.Errorf("removing what is not there: %v", err)
		}
	}
}

func TestDigestAskedStays(t *testing.T) {
	s, reg := openStore(t), newRegistry(t)
	built := reg.push(t, "app", "v1", gzipped, uniqueLayer(t, 1))
	byDigest := reg.host + "/app@" + built.digest
	pull(t, s, byDigest)
	if img := pull(t, s, reg.host+"/app:ignored@"+built.digest); len(img.RepoTags) != 0 {
		t.Errorf("%+v", img)
	}
	pull(t, s, reg.host+"/app:v1")
	if err := s.Remove(t.Context(), reg.host+"/app:v1"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), byDigest); err != nil {
		t.Error(err)
	}
	if err := s.Remove(t.Context(), byDigest); err != nil {
		t.Fatal(err)
	}
	if list, _ := s.List(t.Context()); len(list) != 0 {
		t.Errorf("%+v", list)
	}
}

func TestRemovalWhileInUse(t *testing.T) {
	root := t.TempDir()
	needRoot(t)
	s, reg := openAt(t, root), newRegistry(t)
	reg.push(t, "app", "v1", gzipped, tarball(t, file{name: "f", body: "in use"}), tarball(t, file{name: "g", body: "2"}))
	img := pull(t, s, reg.host+"/app:v1")
	reg.push(t, "vol", "v1", gzipped, tarball(t, file{name: "d/"}, file{name: "d/v", body: "volume"}))
	vol := pull(t, s, reg.host+"/vol:v1")
	for range 2 {
		if err := s.CreateRootfs(t.Context(), "c1", img.ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.CreateRootfs(t.Context(), "c1", vol.ID); !errdefs.IsAlreadyExists(err) {
		t.Errorf("another image: %v", err)
	}
	mount, err := s.MountImage(t.Context(), "c1", vol.ID, "d", RootfsOptions{})
	dir := attach(t, mount, err)
	if read(t, dir, "v") != "volume" {
		t.Error("content")
	}
	if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing into an image volume: %v", err)
	}
	for sub, is := range map[string]func(error) bool{
		"nothing": errdefs.IsNotFound, "d/v/x": errdefs.IsInvalidArgument, "../d": errdefs.IsInvalidArgument, "/d": errdefs.IsInvalidArgument,
	} {
		if _, err := s.MountImage(t.Context(), "c1", vol.ID, sub, RootfsOptions{}); !is(err) {
			t.Errorf("sub path %q: %v", sub, err)
		}
	}
	for _, id := range []ID{img.ID, vol.ID} {
		if err := s.Remove(t.Context(), string(id)); err != nil {
			t.Fatal(err)
		}
	}
	// The daemon restarts: the container still has its layers.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, root)
	if keys, _ := s.Containers(t.Context()); !reflect.DeepEqual(keys, []string{"c1"}) {
		t.Errorf("containers: %v", keys)
	}
	mount, err = s.MountRootfs(t.Context(), "c1", RootfsOptions{})
	dir = attach(t, mount, err)
	if read(t, dir, "f") != "in use" {
		t.Error("content")
	}
	if n := layerDirs(t, s); n != 3 {
		t.Errorf("%d layers", n)
	}
	_ = unix.Unmount(dir, unix.MNT_DETACH)
	for range 2 {
		if err := s.RemoveRootfs(t.Context(), "c1"); err != nil {
			t.Fatal(err)
		}
	}
	settle(t, s)
	if n := layerDirs(t, s); n != 0 {
		t.Errorf("%d layers left", n)
	}
	if _, err := s.MountRootfs(t.Context(), "c1", RootfsOptions{}); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	if err := s.CreateRootfs(t.Context(), "../evil", img.ID); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
}

// TestCrashes: the process dies at any step. What the next one finds is made by hand, step by step.
func TestCrashes(t *testing.T) {
	needRoot(t)
	reg := newRegistry(t)
	built := reg.push(t, "app", "v1", gzipped, uniqueLayer(t, 1), uniqueLayer(t, 2))
	ref := reg.host + "/app:v1"
	hex := built.id[7:]
	write := func(t *testing.T, content string, elem ...string) {
		if err := os.WriteFile(filepath.Join(elem...), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		damage func(t *testing.T, root string)
		lost   bool // the image has to be pulled again
	}{
		"nothing": {func(*testing.T, string) {}, false},
		"while unpacking": {func(t *testing.T, root string) {
			if err := os.MkdirAll(filepath.Join(root, "tmp/layer-1-1/fs/deep/tree"), 0o755); err != nil {
				t.Fatal(err)
			}
		}, false},
		"after moving layers, before the record": {func(t *testing.T, root string) {
			if err := os.RemoveAll(filepath.Join(root, "images", hex)); err != nil {
				t.Fatal(err)
			}
		}, true},
		"while writing the record": {func(t *testing.T, root string) { write(t, "{", root, "images", hex, "record.json.tmp") }, false},
		"record torn": {func(t *testing.T, root string) {
			write(t, `{"Version":1,"ID":"sha`, root, "images", hex, "record.json")
		}, true},
		"record empty": {func(t *testing.T, root string) { write(t, "", root, "images", hex, "record.json") }, true},
		"record of another": {func(t *testing.T, root string) {
			write(t, `{"Version":1,"ID":"sha256:`+strings.Repeat("a", 64)+`"}`, root, "images", hex, "record.json")
		}, true},
		"record hostile": {func(t *testing.T, root string) {
			write(t, `{"Version":1,"ID":"`+built.id+`","Layers":["../../etc"]}`, root, "images", hex, "record.json")
		}, true},
		"configuration damaged": {func(t *testing.T, root string) { write(t, `{}`, root, "images", hex, "config") }, true},
		"a layer is gone": {func(t *testing.T, root string) {
			entries, _ := os.ReadDir(filepath.Join(root, "layers"))
			if err := os.RemoveAll(filepath.Join(root, "layers", entries[0].Name())); err != nil {
				t.Fatal(err)
			}
		}, true},
		"a layer's note is damaged": {func(t *testing.T, root string) {
			entries, _ := os.ReadDir(filepath.Join(root, "layers"))
			write(t, "x", root, "layers", entries[0].Name(), "layer.json")
		}, false},
		"garbage everywhere": {func(t *testing.T, root string) {
			write(t, "x", root, "images", "garbage")
			write(t, "x", root, "layers", "garbage")
			write(t, "x", root, "containers", "garbage")
			write(t, "x", root, "tmp", "garbage")
			write(t, "x", root, "trash", "garbage")
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			s := openAt(t, root)
			before := pull(t, s, ref)
			_ = s.Close()
			c.damage(t, root)
			s = openAt(t, root)
			settle(t, s)
			after, err := s.Get(t.Context(), ref)
			if c.lost {
				if !errdefs.IsNotFound(err) {
					t.Errorf("got %v, %v", after, err)
				}
				if n := layerDirs(t, s); n != 0 {
					t.Errorf("%d layers left", n)
				}
				after = pull(t, s, ref)
			} else if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(before.Config, after.Config) || !reflect.DeepEqual(before.RepoTags, after.RepoTags) {
				t.Errorf("before %+v, after %+v", before, after)
			}
			if err := s.CreateRootfs(t.Context(), "c", after.ID); err != nil {
				t.Fatal(err)
			}
			mount, err := s.MountRootfs(t.Context(), "c", RootfsOptions{})
			if read(t, attach(t, mount, err), "file-1") != "content 1" {
				t.Error("content")
			}
		})
	}
}

func TestContainerRecordTorn(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	s, reg := openAt(t, root), newRegistry(t)
	reg.push(t, "app", "v1", gzipped, uniqueLayer(t, 1))
	img := pull(t, s, reg.host+"/app:v1")
	if err := s.CreateRootfs(t.Context(), "c", img.ID); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	if err := os.Truncate(filepath.Join(root, "containers/c/record.json"), 3); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, root)
	if keys, _ := s.Containers(t.Context()); len(keys) != 1 {
		t.Errorf("containers: %v", keys)
	}
	if _, err := s.MountRootfs(t.Context(), "c", RootfsOptions{}); !errdefs.IsDataLoss(err) {
		t.Errorf("got %v", err)
	}
	if err := s.RemoveRootfs(t.Context(), "c"); err != nil {
		t.Error(err)
	}
}

func TestTagClaimedTwice(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	s, reg := openAt(t, root), newRegistry(t)
	one := reg.push(t, "app", "v1", gzipped, uniqueLayer(t, 1))
	pull(t, s, reg.host+"/app:v1")
	old := read(t, root, "images", one.id[7:], "record.json")
	two := reg.push(t, "app", "v1", gzipped, uniqueLayer(t, 2))
	pull(t, s, reg.host+"/app:v1")
	_ = s.Close()
	// Killed after the new record was written, before the old one was.
	if err := os.WriteFile(filepath.Join(root, "images", one.id[7:], "record.json"), []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, root)
	if img, err := s.Get(t.Context(), reg.host+"/app:v1"); err != nil || string(img.ID) != two.id {
		t.Errorf("%v, %v", img.ID, err)
	}
	if img, err := s.Get(t.Context(), one.id); err != nil || len(img.RepoTags) != 0 {
		t.Errorf("%+v, %v", img, err)
	}
}

func TestSecondProcess(t *testing.T) {
	s := openStore(t)
	if _, err := Open(t.Context(), Options{Root: s.Root()}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("got %v", err)
	}
}

func TestScratchAndRepeatedLayers(t *testing.T) {
	s, reg := openStore(t), newRegistry(t)
	reg.push(t, "scratch", "v1", gzipped)
	img := pull(t, s, reg.host+"/scratch:v1")
	if err := s.CreateRootfs(t.Context(), "c", img.ID); err != nil {
		t.Fatal(err)
	}
	mount, err := s.MountRootfs(t.Context(), "c", RootfsOptions{})
	attach(t, mount, err)
	mount, err = s.MountImage(t.Context(), "c", img.ID, "", RootfsOptions{})
	attach(t, mount, err)

	a := tarball(t, file{name: "f", body: "a"})
	reg.push(t, "twice", "v1", gzipped, a, tarball(t, file{name: "f", body: "b"}), a)
	img = pull(t, s, reg.host+"/twice:v1")
	if err := s.CreateRootfs(t.Context(), "d", img.ID); err != nil {
		t.Fatal(err)
	}
	mount, err = s.MountRootfs(t.Context(), "d", RootfsOptions{})
	if got := read(t, attach(t, mount, err), "f"); got != "a" {
		t.Errorf("got %q", got)
	}
	if err := errors.Join(s.RemoveRootfs(t.Context(), "d"), s.Remove(t.Context(), string(img.ID))); err != nil {
		t.Fatal(err)
	}
	settle(t, s)
	if n := layerDirs(t, s); n != 0 {
		t.Errorf("%d layers left", n)
	}
}

// TestChainLayers: a layer whose hard links and directories come from below is right on each image that has it.
func TestChainLayers(t *testing.T) {
	s, reg := openStore(t), newRegistry(t)
	upper := tarball(t, file{name: "d/link", kind: '1', link: "d/f"})
	for i, content := range []string{"one", "two"} {
		reg.push(t, fmt.Sprintf("app%d", i), "v1", gzipped, tarball(t, file{name: "d/", mode: 0o711, uid: i + 1}, file{name: "d/f", body: content}), upper)
	}
	for i, content := range []string{"one", "two"} {
		img := pull(t, s, fmt.Sprintf("%s/app%d:v1", reg.host, i))
		key := fmt.Sprintf("c%d", i)
		if err := s.CreateRootfs(t.Context(), key, img.ID); err != nil {
			t.Fatal(err)
		}
		mount, err := s.MountRootfs(t.Context(), key, RootfsOptions{})
		dir := attach(t, mount, err)
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, "d"), &st); err != nil {
			t.Fatal(err)
		}
		if read(t, dir, "d/link") != content || st.Uid != uint32(i+1) || st.Mode&0o777 != 0o711 {
			t.Errorf("image %d: %q, %+v", i, read(t, dir, "d/link"), st)
		}
	}
	if n := layerDirs(t, s); n != 4 {
		t.Errorf("%d layers", n)
	}
}

func TestUserNamespace(t *testing.T) {
	s, reg := openStore(t), newRegistry(t)
	reg.push(t, "app", "v1", gzipped, tarball(t, file{name: "f", body: "x", uid: 5}))
	img := pull(t, s, reg.host+"/app:v1")
	if err := s.CreateRootfs(t.Context(), "c", img.ID); err != nil {
		t.Fatal(err)
	}
	ids := []IDMap{{ContainerID: 0, HostID: 200000, Length: 65536}}
	mount, err := s.MountRootfs(t.Context(), "c", RootfsOptions{UIDs: ids, GIDs: ids})
	dir := attach(t, mount, err)
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "f"), &st); err != nil || st.Uid != 200005 {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestDiskFull(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
	s, reg := openAt(t, root), newRegistry(t)
	reg.push(t, "big", "v1", gzipped, tarball(t, file{name: "f", body: strings.Repeat("x", 4<<20)}))
	reg.push(t, "small", "v1", gzipped, uniqueLayer(t, 1))
	if _, err := s.Pull(t.Context(), PullRequest{Ref: reg.host + "/big:v1"}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("got %v", err)
	}
	settle(t, s)
	pull(t, s, reg.host+"/small:v1")
}

func TestPinned(t *testing.T) {
	reg := newRegistry(t)
	reg.push(t, "pause", "v1", gzipped, uniqueLayer(t, 1))
	s := openStore(t, func(o *Options) { o.Pinned = []string{reg.host + "/pause:v1"} })
	if img := pull(t, s, reg.host+"/pause:v1"); !img.Pinned {
		t.Error("not pinned")
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, opts := range map[string]Options{
		"relative root": {Root: "x"}, "bad pinned": {Root: "/x", Pinned: []string{"A B"}}, "negative": {Root: "/x", MaxConcurrentLayers: -1},
	} {
		if _, err := Open(context.Background(), opts); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReferences(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	for in, want := range map[string]string{
		"busybox": "docker.io/library/busybox:latest", "docker.io/busybox:1": "docker.io/library/busybox:1", "index.docker.io/a/b": "docker.io/a/b:latest",
		"localhost:5000/x": "localhost:5000/x:latest", "gcr.io/p/x:t@" + digest: "gcr.io/p/x@" + digest, "x@" + digest: "docker.io/library/x@" + digest,
	} {
		if got, err := parseReference(in); err != nil || got.String() != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}

func FuzzReference(f *testing.F) {
	for _, s := range []string{"busybox", "a:5000/b/c:d@sha256:" + strings.Repeat("0", 64), "[::1]:5000/x", "../x", "..:5/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := parseReference(s)
		if err != nil {
			return
		}
		again, err := parseReference(ref.String())
		if err != nil || again != ref {
			t.Errorf("%q: %+v, then %+v, %v", s, ref, again, err)
		}
		if strings.Contains(ref.registry, "/") || strings.Contains(ref.registry, "..") || repoOf(ref.String()) != ref.repo() {
			t.Errorf("%q: %+v", s, ref)
		}
	})
}

func FuzzRecord(f *testing.F) {
	good, _ := json.Marshal(record{Version: 1, ID: ID("sha256:" + strings.Repeat("a", 64)), Tags: []string{"docker.io/library/x:y"}, Layers: []string{strings.Repeat("b", 64)}})
	f.Add(good)
	f.Fuzz(func(t *testing.T, content []byte) {
		if r, err := parseRecord(content); err == nil {
			for _, key := range r.Layers {
				if strings.ContainsAny(key, "/.") {
					t.Errorf("layer %q", key)
				}
			}
		}
		_, _ = parseContainer(content)
		_, _, _ = parseConfig(content)
	})
}
