// Command shimlet is the node agent: it runs the pods whose files stand in a folder, on any container runtime that speaks CRI v1. See package node.
//
//	shimlet --pod-manifest-path DIR    runs pods
//	shimlet status                     shows what runs
//
// Flags and wiring belong here, nothing else.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/node"
	"github.com/shimd/shimd/node/status"
)

// version is set by the linker: -ldflags "-X main.version=v1.2.3".
var version = "devel"

const (
	defaultSocket   = "/run/shimlet/shimlet.sock"
	defaultEndpoint = "unix:///run/shimd/shimd.sock"
	defaultHealthz  = "127.0.0.1:10248" // the kubelet's
)

func main() {
	err := run(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "shimlet:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) > 0 && args[0] == "status" {
		return showStatus(args[1:])
	}
	return serve(args)
}

func showStatus(args []string) error {
	flags := flag.NewFlagSet("shimlet status", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), "shimlet status [flags]: show the pods of the shimlet that runs\n\nFlags:\n")
		flags.PrintDefaults()
	}
	socket := flags.String("socket", defaultSocket, "unix `socket` of the running shimlet")
	var output string
	flags.StringVar(&output, "o", "table", "`format` of the output: table or json")
	flags.StringVar(&output, "output", "table", "the same as -o")
	if err := parse(flags, args); err != nil {
		return err
	}
	if output != "table" && output != "json" {
		return fmt.Errorf("-o %q: use table or json", output)
	}
	s, err := status.Get(context.Background(), *socket)
	if err != nil {
		return err
	}
	if output == "table" {
		return status.Table(os.Stdout, s, time.Now())
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(s)
}

// parse parses flags and refuses what is left: a forgotten dash must not go unnoticed.
func parse(flags *flag.FlagSet, args []string) error {
	usage := flags.Usage
	flags.Usage = func() {}
	flags.SetOutput(io.Discard) // a wrong flag is told in one line, main's
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		flags.SetOutput(os.Stdout)
		usage()
		return err
	case err != nil:
		return fmt.Errorf("%w; see %s --help", err, flags.Name())
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %q; see %s --help", flags.Arg(0), flags.Name())
	}
	return nil
}

type options struct {
	node.Config
	socket, healthz, logLevel, nodeIPs string
	version                            bool
}

func serve(args []string) error {
	o := options{}
	flags := flag.NewFlagSet("shimlet", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), "shimlet --pod-manifest-path DIR [flags]: run the pods whose files (*.yaml, *.yml, *.json) stand in a folder\nshimlet status [-o json]: show them\n\nFlags:\n")
		flags.PrintDefaults()
	}
	flags.StringVar(&o.Folder, "pod-manifest-path", "", "`folder` of pod files")
	flags.StringVar(&o.Endpoint, "container-runtime-endpoint", defaultEndpoint, "CRI `endpoint`: unix:///path/to/socket")
	flags.StringVar(&o.RootDir, "root-dir", "/var/lib/shimlet", "`directory` for volumes and records")
	flags.StringVar(&o.LogDir, "log-dir", "/var/log/pods", "`directory` for the logs of pods")
	flags.StringVar(&o.NodeName, "node-name", "", "`name` of the node (default: the host's name)")
	flags.StringVar(&o.nodeIPs, "node-ip", "", "`addresses` of the node, separated by commas (default: where the default route leaves from)")
	flags.StringVar(&o.ResolvConf, "resolv-conf", "", "resolver configuration `file` for pods (default: the system's)")
	flags.BoolVar(&o.SeccompDefault, "seccomp-default", false, "the runtime's default seccomp profile for containers that ask for none")
	flags.StringVar(&o.socket, "socket", defaultSocket, "unix `socket` for shimlet status and /healthz")
	flags.StringVar(&o.healthz, "healthz-address", defaultHealthz, "`address` for /healthz; empty: only on the socket")
	flags.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	flags.BoolVar(&o.version, "version", false, "print the version")
	if err := parse(flags, args); err != nil {
		return err
	}
	if o.version {
		fmt.Println("shimlet", version)
		return nil
	}
	if err := o.complete(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	return o.agent(ctx)
}

// complete fills in what depends on the machine or on other flags.
func (o *options) complete() error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return fmt.Errorf("--log-level %q: use debug, info, warn or error", o.logLevel)
	}
	o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	if o.nodeIPs != "" {
		o.NodeIPs = strings.Split(o.nodeIPs, ",")
	}
	if o.NodeName == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("asking for the host's name (or set --node-name): %w", err)
		}
		o.NodeName = strings.ToLower(name)
	}
	return nil
}

// agent runs until the context ends, or a socket fails. Pods run on.
func (o *options) agent(ctx context.Context) error {
	agent, err := node.New(o.Config)
	if err != nil {
		return err
	}
	defer agent.Close()
	socket, err := status.Listen(o.socket)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var beside sync.WaitGroup
	defer beside.Wait()
	defer cancel(nil)
	beside.Go(func() { cancel(status.Serve(ctx, socket, status.Handler(agent, true))) })
	if o.healthz != "" {
		listener, err := net.Listen("tcp", o.healthz)
		if err != nil {
			return fmt.Errorf("serving /healthz (set --healthz-address to another one, or to '' for the socket only): %w", err)
		}
		beside.Go(func() { cancel(status.Serve(ctx, listener, status.Handler(agent, false))) })
	}
	o.Log.Info("shimlet starts", "version", version, "folder", o.Folder, "runtime", o.Endpoint, "node", o.NodeName)
	notify(o.Log, daemon.SdNotifyReady)
	err = agent.Run(ctx)
	notify(o.Log, daemon.SdNotifyStopping)
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return err
}

func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("telling systemd", "state", state, "error", err)
	}
}
