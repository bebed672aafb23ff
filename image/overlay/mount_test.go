package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// fixture makes n lower directories, an upper and a work directory below a root.
func fixture(t *testing.T, n int) Spec {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts")
	}
	spec := Spec{Root: t.TempDir(), Upper: "c/upper", Work: "c/work"}
	for i := range n {
		name := fmt.Sprintf("layers/%064d/fs", i)
		if err := os.MkdirAll(filepath.Join(spec.Root, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(spec.Root, name, fmt.Sprintf("f%d", i)), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		spec.Lower = append([]string{name}, spec.Lower...)
	}
	for _, d := range []string{spec.Upper, spec.Work, "place"} {
		if err := os.MkdirAll(filepath.Join(spec.Root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return spec
}

func mounters(t *testing.T, spec Spec) map[string]*Mounter {
	t.Helper()
	m, err := New(filepath.Join(spec.Root, "place"))
	if err != nil {
		t.Fatal(err)
	}
	if !m.appendable {
		// A probe that says no on a kernel that has it would hide a bug for ever.
		var u unix.Utsname
		_ = unix.Uname(&u)
		var major, minor int
		_, _ = fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor)
		if major > 6 || major == 6 && minor >= 8 {
			t.Errorf("lowerdir+ is said to be missing on Linux %d.%d", major, minor)
		}
	}
	return map[string]*Mounter{"new": m, "classic": {place: m.place, appendable: false}}
}

// in opens a path inside a detached mount.
func in(t *testing.T, mount *os.File, path string, flags int) (*os.File, error) {
	t.Helper()
	fd, err := unix.Openat(int(mount.Fd()), path, flags|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

func TestMount(t *testing.T) {
	mapping := []IDMap{{ContainerID: 0, HostID: 100000, Length: 65536}}
	for _, layers := range []int{1, 5, 70} {
		for _, mapped := range []bool{false, true} {
			spec := fixture(t, layers)
			if mapped {
				spec.UIDs, spec.GIDs = mapping, mapping
			}
			for name, m := range mounters(t, spec) {
				t.Run(fmt.Sprintf("%s, %d layers, mapped %v", name, layers, mapped), func(t *testing.T) {
					mount, err := m.Mount(spec)
					if mapped && errors.Is(err, unix.EINVAL) {
						t.Skip("this file system has no idmapped mounts:", err)
					}
					if err != nil {
						t.Fatal(err)
					}
					defer mount.Close()
					for i := range layers {
						f, err := in(t, mount, fmt.Sprintf("f%d", i), unix.O_RDONLY)
						if err != nil {
							t.Fatal(err)
						}
						info, _ := f.Stat()
						var st unix.Stat_t
						_ = unix.Fstat(int(f.Fd()), &st)
						f.Close()
						if want := map[bool]uint32{false: 0, true: 100000}[mapped]; st.Uid != want {
							t.Errorf("%s belongs to %d", info.Name(), st.Uid)
						}
					}
					var fs unix.Statfs_t
					if err := unix.Fstatfs(int(mount.Fd()), &fs); err != nil || fs.Flags&unix.ST_RDONLY != 0 {
						t.Errorf("the overlay can't be written to (%v)", err)
					}
					if mapped {
						return // our own root has no ID in the container's file system
					}
					f, err := in(t, mount, "new-"+name, unix.O_WRONLY|unix.O_CREAT)
					if err != nil {
						t.Fatal(err)
					}
					f.Close()
					if _, err := os.Stat(filepath.Join(spec.Root, spec.Upper, "new-"+name)); err != nil {
						t.Error(err)
					}
				})
			}
			if entries, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(entries), spec.Root) {
				t.Error("something is mounted in the host's mount namespace")
			}
		}
	}
}

// TestMountAgain: the daemon or the machine died while it was mounted.
func TestMountAgain(t *testing.T) {
	spec := fixture(t, 2)
	m := mounters(t, spec)["new"]
	for range 2 {
		mount, err := m.Mount(spec)
		if err != nil {
			t.Fatal(err)
		}
		mount.Close()
		if err := os.MkdirAll(filepath.Join(spec.Root, spec.Work, "work/incompat/volatile"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadOnlyAndSub(t *testing.T) {
	spec := fixture(t, 2)
	spec.Upper, spec.Work = "", ""
	base := filepath.Join(spec.Root, spec.Lower[0])
	if err := os.MkdirAll(filepath.Join(base, "d/e"), 0o755); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"out": "/", "up": "../../../../..", "in": "d", "host": "/etc"} {
		if err := os.Symlink(target, filepath.Join(base, link)); err != nil {
			t.Fatal(err)
		}
	}
	for name, m := range mounters(t, spec) {
		t.Run(name, func(t *testing.T) {
			fresh := func() *os.File {
				mount, err := m.Mount(spec)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = mount.Close() })
				return mount
			}
			if _, err := in(t, fresh(), "new", unix.O_WRONLY|unix.O_CREAT); !errors.Is(err, unix.EROFS) {
				t.Errorf("writing: %v", err)
			}
			for path, has := range map[string]string{"d": "e", "in": "e", "out": "f1", "up": "f1", "out/d": "e"} {
				sub, err := m.Sub(fresh(), path)
				if err != nil {
					t.Errorf("%s: %v", path, err)
					continue
				}
				if f, err := in(t, sub, has, unix.O_PATH); err != nil {
					t.Errorf("%s: %v", path, err)
				} else {
					f.Close()
				}
				if _, err := in(t, sub, "new", unix.O_WRONLY|unix.O_CREAT); !errors.Is(err, unix.EROFS) {
					t.Errorf("%s: writing: %v", path, err)
				}
				sub.Close()
			}
			if _, err := m.Sub(fresh(), "host/hostname"); !errdefs.IsNotFound(err) {
				t.Errorf("host/hostname: %v", err)
			}
			if _, err := m.Sub(fresh(), "f1/x"); !errdefs.IsInvalidArgument(err) {
				t.Errorf("f1/x: %v", err)
			}
		})
	}
}

func TestLongRoot(t *testing.T) {
	spec := fixture(t, 2)
	long := filepath.Join(t.TempDir(), strings.Repeat(strings.Repeat("r", 200)+"/", 3))
	if err := os.MkdirAll(filepath.Dir(long), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(spec.Root, long); err != nil {
		t.Fatal(err)
	}
	spec.Root = long
	for name, m := range mounters(t, spec) {
		mount, err := m.Mount(spec)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		mount.Close()
	}
}

func BenchmarkMount(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("needs root: mounts")
	}
	root := b.TempDir()
	spec := Spec{Root: root, Upper: "upper", Work: "work"}
	for i := range 5 {
		spec.Lower = append(spec.Lower, fmt.Sprintf("l%d", i))
	}
	for _, d := range append([]string{"upper", "work", "place"}, spec.Lower...) {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	m, err := New(filepath.Join(root, "place"))
	if err != nil {
		b.Fatal(err)
	}
	mapping := []IDMap{{0, 100000, 65536}}
	for _, mapped := range []bool{false, true} {
		b.Run(fmt.Sprintf("mapped=%v", mapped), func(b *testing.B) {
			if mapped {
				spec.UIDs, spec.GIDs = mapping, mapping
			}
			for b.Loop() {
				mount, err := m.Mount(spec)
				if err != nil {
					b.Fatal(err)
				}
				mount.Close()
			}
		})
	}
}
