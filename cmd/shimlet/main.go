// Command shimlet is the node agent: it runs the pods that an API server binds to its node, and those whose files stand in a folder, on any
// container runtime that speaks CRI v1. See package node.
//
//	shimlet --kubeconfig FILE --config FILE    is a node of a cluster; flags and configuration are the kubelet's
//	shimlet --pod-manifest-path DIR            runs the pods of a folder
//	shimlet status                             shows what runs
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
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/shimd/shimd/node/status"
)

// version is set by the linker: -ldflags "-X main.version=v1.2.3".
var version = "devel"

const (
	defaultSocket   = "/run/shimlet/shimlet.sock"
	defaultEndpoint = "unix:///run/shimd/shimd.sock"
	defaultHealthz  = "127.0.0.1:10248" // the kubelet's
	// heapGrowth (GOGC): what lives is small, 6 MB with 50 pods, so collecting often costs little, and garbage would be most of the heap.
	heapGrowth = 20
)

func main() {
	if !strings.Contains(os.Getenv("GODEBUG"), "memprofilerate=") {
		runtime.MemProfileRate = 0 // the tables of heap profiles are 2 MB; package server says how to have them
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(heapGrowth)
	}
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

func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("telling systemd", "state", state, "error", err)
	}
}
