// Package integration holds the black-box tests of shimd: the real daemon under crictl, critest and a CRI client, killed and restarted, with a
// check at the end that nothing was left on the machine.
//
// Packages below this one are the tests' tools. Nothing here imports shimd's own packages: tests know programs, flags, files and sockets.
package integration

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/shimd/shimd/integration/bundle"
	"github.com/shimd/shimd/integration/criclient"
	"github.com/shimd/shimd/integration/daemon"
	"github.com/shimd/shimd/integration/enclosure"
	"github.com/shimd/shimd/integration/images"
	"github.com/shimd/shimd/integration/leaks"
	"github.com/shimd/shimd/integration/registry"
)

// world is what all tests of a run share; it is nil without root.
type world struct {
	bundle bundle.Bundle
	images images.Set
	certs  string // a certs.d directory that leads to the registry
	work   string // a directory on a disk, for daemons
}

var shared *world // set once, before any test

func TestMain(m *testing.M) {
	status, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		status = 1
	}
	os.Exit(status)
}

func run(m *testing.M) (status int, err error) {
	ctx := context.Background()
	b, inside, err := bundle.Enter(ctx, enclosure.Options{})
	if err != nil {
		return 0, err
	}
	if !inside {
		return m.Run(), nil // every test that needs root says so and skips
	}
	scope := leaks.Scope{
		Files: []string{"/run", "/var/run", "/var/lib", "/var/tmp", "/etc", "/opt", "/dev/shm"},
		// Other programs' directories in shared places, and what suites and benchmarks have that run at the same time.
		Ignore: []string{"shimd-test-", "go-build", "systemd-private", "shimd-bundle-", "shimd-conformance-", "shimd-examples-", "shimd-bench-"},
	}
	before, err := leaks.Take(scope)
	if err != nil {
		return 0, err
	}
	work, err := os.MkdirTemp("/var/tmp", "shimd-integration-")
	if err != nil {
		return 0, fmt.Errorf("making a working directory: %w", err)
	}
	set, err := b.Images()
	if err != nil {
		return 0, err
	}
	server, err := registry.Start(ctx, "127.0.0.1:0", set)
	if err != nil {
		return 0, err
	}
	shared = &world{bundle: b, images: set, certs: filepath.Join(work, "certs.d"), work: work}
	if err := server.WriteHosts(shared.certs); err != nil {
		return 0, err
	}
	status = m.Run()
	if err := errors.Join(server.Close(), os.RemoveAll(work)); err != nil {
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

// start runs a daemon for one test, with its client, and cleans up after it.
func start(t *testing.T, config daemon.Config) (*daemon.Daemon, *criclient.Client) {
	t.Helper()
	d := prepare(t, config)
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d, dial(t, d)
}

// prepare is start without starting.
func prepare(t *testing.T, config daemon.Config) *daemon.Daemon {
	t.Helper()
	needRoot(t)
	dir, err := os.MkdirTemp(shared.work, "shimd-")
	if err != nil {
		t.Fatal(err)
	}
	config.Programs, config.Dir, config.CertsDir = cmp.Or(config.Programs, shared.bundle.Programs()), dir, shared.certs
	d, err := daemon.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		deadline, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := d.Cleanup(deadline); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
		if t.Failed() {
			t.Logf("the end of shimd's log:\n%s", d.LogTail())
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
	})
	return d
}

func dial(t *testing.T, d *daemon.Daemon) *criclient.Client {
	t.Helper()
	client, err := d.Client()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func needRoot(t *testing.T) {
	t.Helper()
	if shared == nil {
		t.Skip("root is needed: namespaces, mounts and control groups")
	}
}
