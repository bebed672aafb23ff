package kubelet_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/integration/bundle"
	"github.com/shimd/shimd/integration/enclosure"
	"github.com/shimd/shimd/integration/leaks"
	"github.com/shimd/shimd/integration/registry"
	"github.com/shimd/shimd/integration/tools"
)

// kubeletVariable carries the kubelet's path into the enclosure.
const kubeletVariable = "SHIMD_TEST_KUBELET"

// world is what a run of the tests has; it is nil when reason says why there is none.
type world struct {
	bundle  bundle.Bundle
	kubelet string
	certs   string // a certs.d directory that leads to the registry
	work    string // a directory on a disk
}

var (
	shared *world // set once, before any test
	reason string
)

const nodeIP = "10.99.99.1"

func TestMain(m *testing.M) {
	status, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "kubelet:", err)
		status = 1
	}
	os.Exit(status)
}

func run(m *testing.M) (status int, err error) {
	ctx := context.Background()
	if reason, err = findKubelet(ctx); err != nil || reason != "" {
		if err != nil {
			return 0, err
		}
		return m.Run(), nil
	}
	b, inside, err := bundle.Enter(ctx, enclosure.Options{})
	if err != nil {
		return 0, err
	}
	if !inside {
		reason = "root is needed: namespaces, mounts and control groups"
		return m.Run(), nil
	}
	work, err := os.MkdirTemp("/var/tmp", "shimd-kubelet-")
	if err != nil {
		return 0, fmt.Errorf("making a working directory: %w", err)
	}
	if err := errors.Join(hideMachine(work), addNodeAddress()); err != nil {
		return 0, err
	}
	scope := leaks.Scope{
		Files: []string{"/run", "/var/run", "/var/lib", "/etc", "/opt", "/dev/shm", "/var/log"},
		// Control groups and files of tests that run at the same time; that those of this test are gone, it looks for itself.
		Ignore: []string{"shimd-test-", "/shimd_", "go-build", "systemd-private", "shimd-bundle-", "/var/log/"},
	}
	before, err := leaks.Take(scope)
	if err != nil {
		return 0, err
	}
	set, err := b.Images()
	if err != nil {
		return 0, err
	}
	server, err := registry.Start(ctx, "127.0.0.1:0", set)
	if err != nil {
		return 0, err
	}
	shared = &world{bundle: b, kubelet: os.Getenv(kubeletVariable), certs: filepath.Join(work, "certs.d"), work: work}
	if err := server.WriteHosts(shared.certs); err != nil {
		return 0, err
	}
	status = m.Run()
	if err := errors.Join(server.Close(), removeWork(work)); err != nil {
		return 0, err
	}
	left, err := leaks.Settle(before, scope, 15*time.Second)
	if err != nil {
		return 0, err
	}
	if !leaks.Report(left) {
		status = 1
	}
	return status, nil
}

// findKubelet puts the kubelet's path into the environment, or says why there is none.
func findKubelet(ctx context.Context) (missing string, err error) {
	if os.Getenv(kubeletVariable) != "" {
		return "", nil
	}
	root, err := tools.ModuleRoot()
	if err != nil {
		return "", err
	}
	built, found, err := tools.FindProgram(ctx, root, "kubelet")
	if err != nil {
		return "", err
	}
	if !found {
		return fmt.Sprintf("kubelet %s is not in the cache: `make kubelet-test` builds it, which takes six minutes or so", built.Version), nil
	}
	return "", os.Setenv(kubeletVariable, built.Path)
}

// tunables are what the kubelet wants of the kernel. They are the machine's, whatever namespace the kubelet is in, so it gets files to look
// at instead; it is told not to write.
var tunables = map[string]string{
	"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
	"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}

// hideMachine mounts over what the kubelet reads or writes at fixed places. The mounts are gone with the enclosure.
func hideMachine(work string) error {
	for name, value := range tunables {
		file := filepath.Join(work, "tunables", name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(file, filepath.Join("/proc/sys", name), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("hiding the kernel's %s: %w", name, err)
		}
	}
	if err := os.Mkdir(kubeletDir, 0o755); err == nil {
		madeKubeletDir = true
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	// Whatever its --root-dir, the kubelet listens to device plugins below kubeletDir; /var/log/containers has a link for each container's log.
	for _, dir := range []string{kubeletDir, "/var/log"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
			return fmt.Errorf("hiding %s: %w", dir, err)
		}
	}
	return nil
}

const kubeletDir = "/var/lib/kubelet"

var madeKubeletDir bool // it was not there before

// removeWork removes the working directory, which still has what hideMachine mounted from it elsewhere.
func removeWork(work string) error {
	err := unix.Unmount(kubeletDir, unix.MNT_DETACH)
	if err == nil && madeKubeletDir {
		err = os.Remove(kubeletDir)
	}
	for name := range tunables {
		err = errors.Join(err, unix.Unmount(filepath.Join("/proc/sys", name), 0))
	}
	return errors.Join(err, os.RemoveAll(work))
}

// addNodeAddress gives the enclosure an address that isn't loopback: a node needs one.
func addNodeAddress() error {
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "node0"}} // not every kernel has dummy ones
	address, err := netlink.ParseAddr(nodeIP + "/24")
	if err != nil {
		return err
	}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("adding the node's interface: %w", err)
	}
	if err := netlink.AddrAdd(link, address); err != nil {
		return fmt.Errorf("adding the node's address: %w", err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("raising the node's interface: %w", err)
	}
	return nil
}
