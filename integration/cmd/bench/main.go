// Command bench measures a container runtime over CRI: one that is there (-endpoint), or a shimd that it starts itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/shimd/shimd/integration/bench"
	"github.com/shimd/shimd/integration/bundle"
	"github.com/shimd/shimd/integration/criclient"
	"github.com/shimd/shimd/integration/daemon"
	"github.com/shimd/shimd/integration/enclosure"
	"github.com/shimd/shimd/integration/images"
	"github.com/shimd/shimd/integration/registry"
)

// metricsAddress is free: shimd is started in a network namespace of its own.
const metricsAddress = "127.0.0.1:9090"

func main() {
	opts := bench.Options{Progress: func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%s "+format+"\n", append([]any{time.Now().Format(time.TimeOnly)}, args...)...)
	}}
	endpoint := flag.String("endpoint", "", "CRI endpoint of a running runtime; by default a shimd is started")
	jsonFile := flag.String("json", "", "also write the numbers to this file")
	pids := flag.String("runtime-pids", "", "processes of the runtime, comma separated; by default found by -runtime-names")
	names := flag.String("runtime-names", `^(shimd|containerd|conmon|crio)`, "regular expression of the runtime's process names")
	flag.StringVar(&opts.Image, "image", images.Busybox, "image with sleep and true")
	flag.StringVar(&opts.Handler, "runtime-handler", "", "runtime handler")
	flag.IntVar(&opts.Rounds, "rounds", 100, "pods for latencies")
	flag.IntVar(&opts.Workers, "workers", 4, "workers of the churn")
	flag.IntVar(&opts.ChurnPods, "churn-pods", 400, "pods of the churn")
	flag.IntVar(&opts.IdlePods, "idle-pods", 50, "pods at rest")
	flag.DurationVar(&opts.Idle, "idle", 10*time.Second, "how long to watch them")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, *endpoint, *jsonFile, *pids, *names, opts)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, endpoint, jsonFile, pids, names string, opts bench.Options) error {
	var err error
	if opts.Processes.Names, err = regexp.Compile(names); err != nil {
		return fmt.Errorf("reading -runtime-names: %w", err)
	}
	for field := range strings.FieldsFuncSeq(pids, func(r rune) bool { return r == ',' }) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return fmt.Errorf("reading -runtime-pids: %w", err)
		}
		opts.Processes.PIDs = append(opts.Processes.PIDs, pid)
	}
	if endpoint != "" {
		return measure(ctx, endpoint, jsonFile, opts)
	}
	b, inside, err := bundle.Enter(ctx, enclosure.Options{})
	if err != nil {
		return err
	}
	if !inside {
		return errors.New("root is needed to start shimd: run this with sudo, or name a running runtime by -endpoint")
	}
	return withDaemon(ctx, b, func(endpoint string) error {
		if err := measure(ctx, endpoint, jsonFile, opts); err != nil {
			return err
		}
		steps, err := bench.Steps(ctx, "http://"+metricsAddress+"/metrics")
		if err != nil {
			return err
		}
		fmt.Println("\nwhere the time went, of all pods above")
		return bench.WriteSteps(os.Stdout, steps)
	})
}

// withDaemon starts a registry and a shimd of its own for the time of a call.
func withDaemon(ctx context.Context, b bundle.Bundle, call func(endpoint string) error) (err error) {
	work, err := os.MkdirTemp("/var/tmp", "shimd-bench-")
	if err != nil {
		return fmt.Errorf("making a working directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	set, err := b.Images()
	if err != nil {
		return err
	}
	server, err := registry.Start(ctx, "127.0.0.1:0", images.Set{images.Busybox: set[images.Busybox]})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	certs := filepath.Join(work, "certs.d")
	if err := server.WriteHosts(certs); err != nil {
		return err
	}
	d, err := daemon.New(daemon.Config{Programs: b.Programs(), Dir: filepath.Join(work, "shimd"), CertsDir: certs, LogLevel: "info",
		More: fmt.Sprintf("[metrics]\naddress = %q\n", metricsAddress)})
	if err != nil {
		return err
	}
	unmount := func() error { return nil }
	defer func() {
		deadline, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err = errors.Join(err, d.Cleanup(deadline), unmount())
	}()
	// As on a node, where /run is memory. This is a mount namespace of our own.
	if err := os.MkdirAll(d.State(), 0o711); err != nil {
		return fmt.Errorf("making the state directory: %w", err)
	}
	if err := syscall.Mount("tmpfs", d.State(), "tmpfs", 0, "mode=0711"); err != nil {
		return fmt.Errorf("mounting the state directory: %w", err)
	}
	unmount = func() error { return syscall.Unmount(d.State(), syscall.MNT_DETACH) }
	if err := d.Start(ctx); err != nil {
		return err
	}
	return call(d.Endpoint())
}

func measure(ctx context.Context, endpoint, jsonFile string, opts bench.Options) error {
	client, err := criclient.Dial(endpoint)
	if err != nil {
		return err
	}
	defer client.Close()
	report, err := bench.Run(ctx, client, opts)
	if err != nil {
		return err
	}
	if err := report.WriteTable(os.Stdout); err != nil {
		return fmt.Errorf("printing the table: %w", err)
	}
	if jsonFile == "" {
		return nil
	}
	file, err := os.Create(jsonFile)
	if err != nil {
		return fmt.Errorf("writing the numbers: %w", err)
	}
	return errors.Join(report.WriteJSON(file), file.Close())
}
