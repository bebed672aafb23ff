package seccomp

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"testing"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// TestMain is also the child that loads the default filter into itself.
func TestMain(m *testing.M) {
	if os.Getenv("SHIMD_TEST_SECCOMP_CHILD") != "" {
		if err := loadAndTry(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestKernelTakesTheDefaultFilter(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"SHIMD_TEST_SECCOMP_CHILD=1"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func loadAndTry() error {
	goruntime.LockOSThread()
	p, err := Default().Resolve(Target{Arch: goruntime.GOARCH, Kernel: 6, Major: 1})
	if err != nil {
		return err
	}
	f, err := Compile(p, Machine{Arch: goruntime.GOARCH})
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(f.Len()), Filter: (*unix.SockFilter)(unsafe.Pointer(&f.Program[0]))}
	if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(f.Flags), uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return fmt.Errorf("loading %d instructions: %w", f.Len(), errno)
	}
	for _, c := range []struct {
		name       string
		nr, a0, a1 uintptr
		want       unix.Errno
	}{
		{"getpid", unix.SYS_GETPID, 0, 0, 0},
		{"unshare", unix.SYS_UNSHARE, unix.CLONE_NEWUTS, 0, unix.EPERM},
		{"keyctl", unix.SYS_KEYCTL, 0, 0, unix.EPERM},
		{"clone3", unix.SYS_CLONE3, 0, 0, unix.ENOSYS},
		{"socket AF_VSOCK", unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM, unix.EPERM},
		{"call 2000", 2000, 0, 0, unix.ENOSYS},
	} {
		if _, _, errno := unix.RawSyscall(c.nr, c.a0, c.a1, 0); errno != c.want {
			return fmt.Errorf("%s: %w, want %v", c.name, errno, c.want) //nolint:errorlint // what was wanted is not an error that happened
		}
	}
	return nil
}

// TestCVE_2023_2431: a localhost profile that is empty or missing is an error.
func TestCVE_2023_2431(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"", "localhost/"} {
		if _, err := Load(root, name); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := Load(root, "localhost/missing.json"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("missing: %v", err)
	}
	for name, content := range map[string]string{"empty.json": "", "nothing.json": "{}"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(root, name); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLoad(t *testing.T) {
	root := t.TempDir()
	file := filepath.Join(root, "p.json")
	if err := os.WriteFile(file, []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"p.json", "localhost/p.json", file, "localhost/" + file} {
		if _, err := Load(root, name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"../p.json", "localhost/../../etc/passwd"} {
		if _, err := Load(root, name); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(root, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(root, "fifo"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a FIFO: %v", err)
	}
}
