package image

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
)

func TestPullAndMount(t *testing.T) {
	s, reg := openStore(t), newRegistry(t)
	built := reg.push(t, "app", "v1", gzipped,
		tarball(t, file{name: "./", mode: 0o750}, file{name: "etc/", mode: 0o751, uid: 7}, file{name: "etc/a", body: "lower"}, file{name: "etc/gone", body: "x"}),
		tarball(t, file{name: "etc/", mode: 0o751, uid: 7}, file{name: "etc/b", body: "upper"}, file{name: "etc/.wh.gone"}))
	img := pull(t, s, reg.host+"/app:v1")
	if string(img.ID) != built.id || img.RepoTags[0] != reg.host+"/app:v1" || img.RepoDigests[0] != reg.host+"/app@"+built.digest || img.Config.User != "1000:1000" {
		t.Fatalf("got %+v", img)
	}
	for _, ref := range []string{built.id, built.id[7:20], "sha256:" + built.id[7:20], reg.host + "/app:v1", reg.host + "/app@" + built.digest, reg.host + "/app:v1@" + built.digest} {
		got, err := s.Get(t.Context(), ref)
		if err != nil || got.ID != img.ID {
			t.Errorf("Get(%q): %v, %v", ref, got.ID, err)
		}
	}
	if err := s.CreateRootfs(t.Context(), "c1", img.ID); err != nil {
		t.Fatal(err)
	}
	mount, err := s.MountRootfs(t.Context(), "c1", RootfsOptions{})
	dir := attach(t, mount, err)
	if read(t, dir, "etc/a") != "lower" || read(t, dir, "etc/b") != "upper" {
		t.Error("content")
	}
	if _, err := os.Stat(filepath.Join(dir, "etc/gone")); !os.IsNotExist(err) {
		t.Errorf("removed by the layer above, but: %v", err)
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o750 {
		t.Errorf("mode of the root: %v", info.Mode())
	}
	if err := os.WriteFile(filepath.Join(dir, "new"), make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	bytes, inodes, err := s.RootfsUsage(t.Context(), "c1")
	if err != nil || bytes < 8192 || inodes != 1 {
		t.Errorf("usage: %d bytes, %d inodes, %v", bytes, inodes, err)
	}
	if _, err := s.Get(t.Context(), "nothing/here:v0"); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
}
