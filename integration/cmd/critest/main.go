// Command critest starts a registry and shimd, runs the whole CRI validation suite against it, and says what passed.
//
// It fails unless enough specs ran and none failed. Its directory with everything in it (-bundle-to) can be carried into a virtual machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/shimd/shimd/integration/bundle"
	"github.com/shimd/shimd/integration/critest"
	"github.com/shimd/shimd/integration/daemon"
	"github.com/shimd/shimd/integration/enclosure"
	"github.com/shimd/shimd/integration/registry"
	"github.com/shimd/shimd/integration/tools"
)

type options struct {
	bundleTo, bundle, driver, focus, logs string
	parallel, runs, minimum               int
}

func main() {
	var o options
	flag.StringVar(&o.bundleTo, "bundle-to", "", "build everything into this directory and stop")
	flag.StringVar(&o.bundle, "bundle", "", "use what -bundle-to wrote there instead of building")
	flag.StringVar(&o.driver, "driver", "", "cgroup driver: cgroupfs or systemd; shimd's choice by default")
	flag.StringVar(&o.focus, "focus", "", "regular expression of specs to run; all by default")
	flag.StringVar(&o.logs, "logs", "", "directory to keep critest's and shimd's output in")
	flag.IntVar(&o.parallel, "parallel", 1, "ginkgo processes")
	flag.IntVar(&o.runs, "runs", 1, "runs in a row, against the same daemon")
	flag.IntVar(&o.minimum, "minimum", critest.MinimumRun, "fail when fewer specs than this ran")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "critest:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if o.bundleTo != "" {
		root, err := tools.ModuleRoot()
		if err != nil {
			return err
		}
		_, err = bundle.Write(ctx, root, o.bundleTo)
		return err
	}
	if o.bundle != "" {
		if err := os.Setenv(bundle.Variable, o.bundle); err != nil {
			return err
		}
	}
	b, inside, err := bundle.Enter(ctx, enclosure.Options{HostPIDs: o.driver == "systemd"})
	if err != nil {
		return err
	}
	if !inside {
		return errors.New("root is needed: run this with sudo")
	}
	return runSuite(ctx, o, b)
}

func runSuite(ctx context.Context, o options, b bundle.Bundle) (err error) {
	// Not /tmp: it may be a tmpfs or small.
	work, err := os.MkdirTemp("/var/tmp", "shimd-critest-")
	if err != nil {
		return fmt.Errorf("making a working directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	if o.logs == "" {
		o.logs = work
	} else if err := os.MkdirAll(o.logs, 0o755); err != nil {
		return fmt.Errorf("making the directory for logs: %w", err)
	}
	set, err := b.Images()
	if err != nil {
		return err
	}
	server, err := registry.Start(ctx, "127.0.0.1:0", set)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	certs := filepath.Join(work, "certs.d")
	if err := server.WriteHosts(certs); err != nil {
		return err
	}
	d, err := daemon.New(daemon.Config{Programs: b.Programs(), Dir: filepath.Join(work, "shimd"), CertsDir: certs, CgroupDriver: o.driver})
	if err != nil {
		return err
	}
	defer func() {
		deadline, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err = errors.Join(err, d.Cleanup(deadline), keepLog(d, o.logs))
	}()
	if err := d.Start(ctx); err != nil {
		return err
	}
	for n := range o.runs {
		log := filepath.Join(o.logs, fmt.Sprintf("critest-%d.log", n+1))
		result, err := critest.Run(ctx, critest.Options{Bundle: b, Endpoint: d.Endpoint(), Parallel: o.parallel, Focus: o.focus, LogFile: log})
		if err != nil {
			return err
		}
		fmt.Printf("run %d of %d: %v\n", n+1, o.runs, result)
		if err := result.Check(o.minimum); err != nil {
			return fmt.Errorf("%w\nall that critest printed: %s", err, log)
		}
	}
	return nil
}

func keepLog(d *daemon.Daemon, dir string) error {
	log, err := os.ReadFile(d.LogFile())
	if err != nil {
		return fmt.Errorf("keeping shimd's log: %w", err)
	}
	return os.WriteFile(filepath.Join(dir, "shimd.log"), log, 0o644)
}
