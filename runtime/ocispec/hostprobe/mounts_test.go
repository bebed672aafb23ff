package hostprobe

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/shimd/shimd/runtime/request"
)

func TestMountOf(t *testing.T) {
	const table = `21 1 8:1 / / rw - ext4 /dev/sda1 rw
22 21 0:5 / /var rw shared:7 - tmpfs tmpfs rw
23 22 0:6 / /var/with\040space rw master:3 shared:9 - tmpfs tmpfs rw
24 21 0:7 / /var2 rw - tmpfs tmpfs rw
`
	for path, want := range map[string]struct {
		point    string
		optional []string
	}{
		"/etc":              {"/", nil},
		"/var":              {"/var", []string{"shared:7"}},
		"/var/lib":          {"/var", []string{"shared:7"}},
		"/var/with space/x": {"/var/with space", []string{"master:3", "shared:9"}},
		"/variable":         {"/", nil},
	} {
		if p, o := mountOf(table, path); p != want.point || !slices.Equal(o, want.optional) {
			t.Errorf("%s: %s %v", path, p, o)
		}
	}
}

func TestMounts(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "real"), 0o755); err != nil {
		t.Fatal(err)
	}
	got, err := Mounts([]request.Mount{{HostPath: filepath.Join(dir, "link")}, {HostPath: filepath.Join(dir, "new/dir")}})
	if err != nil || got[0].HostPath != filepath.Join(dir, "real") {
		t.Fatalf("%+v, %v", got, err)
	}
	if st, err := os.Stat(filepath.Join(dir, "new/dir")); err != nil || !st.IsDir() {
		t.Error("the missing directory was not made")
	}
}
