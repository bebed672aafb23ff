// Package nettest gives tests a machine of their own: a fresh network namespace for the whole test binary, and namespaces for pods in it.
//
// Only tests import it. What is tested does not belong here.
package nettest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/network/rtnl"
)

const marker = "SHIMD_TEST_OWN_NETNS"

// Main runs a package's tests in network and mount namespaces that no other process has: the test binary starts itself there once more. Without
// the privilege the tests run where they are and those that call Require skip.
func Main(m *testing.M) {
	if os.Getenv(marker) != "" {
		if err := settle(); err != nil {
			fmt.Fprintln(os.Stderr, "preparing the test's namespaces:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	fuzzing := slices.ContainsFunc(os.Args[1:], func(a string) bool {
		return strings.HasPrefix(a, "-test.fuzz=") || strings.HasPrefix(a, "-test.fuzzworker")
	})
	if os.Geteuid() != 0 || fuzzing { // the fuzzer has processes of its own to start, and parsers need no network
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), marker+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig is about the thread
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "starting the test in its own network namespace:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// settle keeps mounts to ourselves, shows our own network in /sys and brings lo up.
func settle() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return err
	}
	s, err := rtnl.Open()
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Do(rtnl.LoopbackUp())
}

// Require skips a test that has no network namespace of its own.
func Require(t testing.TB) {
	t.Helper()
	if os.Getenv(marker) == "" {
		t.Skip("needs root for a network namespace of its own")
	}
}

// A Namespace is a pinned network namespace.
type Namespace struct {
	t    testing.TB
	Path string
	File *os.File
}

// NewNamespace makes an empty network namespace and pins it under the test's directory; it is gone when the test ends or Close is called.
func NewNamespace(t testing.TB) *Namespace {
	t.Helper()
	path := filepath.Join(t.TempDir(), "net")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	n := &Namespace{t, path, f}
	t.Cleanup(n.Close)
	return n
}

// Close lets the namespace go.
func (n *Namespace) Close() {
	if n.File == nil {
		return
	}
	n.File.Close()
	n.File = nil
	if err := unix.Unmount(n.Path, unix.MNT_DETACH); err != nil {
		n.t.Error(err)
	}
}

// Do runs f on a thread inside the namespace.
func (n *Namespace) Do(f func() error) {
	n.t.Helper()
	if err := rtnl.Inside(n.File, f); err != nil {
		n.t.Fatal(err)
	}
}

// Listen serves on a port inside the namespace: every TCP connection and UDP packet is answered with the address that it came from, as seen
// there.
func (n *Namespace) Listen(network, address string) {
	n.t.Helper()
	n.Do(func() error { return Serve(n.t, network, address) })
}

// Serve is Listen where the calling thread is.
func Serve(t testing.TB, network, address string) error {
	if network[:3] == "udp" {
		c, err := net.ListenPacket(network, address)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = c.Close() })
		go func() {
			buf := make([]byte, 1500)
			for {
				_, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = c.WriteTo([]byte(from.String()), from)
			}
		}()
		return nil
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte(c.RemoteAddr().String()))
			c.Close()
		}
	}()
	return nil
}

// Ask connects from inside the namespace and answers what Listen says: the address that the server saw.
func (n *Namespace) Ask(network, address string) (seen string, err error) {
	n.t.Helper()
	failed := rtnl.Inside(n.File, func() error {
		seen, err = Ask(network, address)
		return nil
	})
	if failed != nil {
		n.t.Fatal(failed)
	}
	return seen, err
}

// Ask is Namespace.Ask where the calling thread is.
func Ask(network, address string) (string, error) {
	d := net.Dialer{Timeout: 5 * time.Second, FallbackDelay: -1}
	c, err := d.Dial(network, address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if network[:3] == "udp" {
		if _, err := c.Write([]byte("?")); err != nil {
			return "", err
		}
	}
	buf := make([]byte, 1500)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

// Tmpfs makes a directory on a tmpfs, as state directories are: a rename on a disk's file system may take half a millisecond.
func Tmpfs(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}
