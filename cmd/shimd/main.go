// Command shimd is the daemon: it serves CRI to a kubelet, shimlet or crictl on a unix socket.
//
// Here the rooms are wired together, and nothing else is done: flags and the configuration file become the options of each
// room. Policy is in the packages, processes are the keeper's (cmd/shimd-keeper).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/config"
)

// version is set when the program is built.
var version = "devel"

// defaultConfig is read when no --config is given.
const defaultConfig = "/etc/shimd/config.toml"

const usage = `shimd runs pods for Kubernetes.

Usage:
  shimd [flags]                 serve CRI
  shimd cleanup [flags]         remove every pod and what shimd set up on this machine; no daemon may run
  shimd config default          print the commented default configuration
  shimd config check [flags]    check the configuration

Flags:
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintf(os.Stderr, "shimd: %v\n", err)
		stop()
		os.Exit(1) // stop has been called
	}
}

// run does what the arguments say.
func run(ctx context.Context, args []string, out io.Writer) error {
	var words []string
	for len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		words = append(words, args[0])
		args = args[1:]
	}
	command := strings.Join(words, " ")
	switch command {
	case "", "cleanup", "config check":
	case "config default":
		_, err := io.WriteString(out, config.DefaultFile())
		return err
	default:
		return fmt.Errorf("there is no command %q; see shimd --help", command)
	}
	cfg, err := configure(args, out)
	if err != nil || cfg == nil {
		return err
	}
	switch command {
	case "cleanup":
		return cleanup(ctx, *cfg)
	case "config check":
		if _, err := ociRuntimes(*cfg); err != nil {
			return err
		}
		_, err := fmt.Fprintln(out, "the configuration is sound")
		return err
	}
	return serve(ctx, *cfg)
}

// configure reads the configuration file and lays the flags over it. nil when only the version was asked for.
func configure(args []string, out io.Writer) (*config.Config, error) {
	flags := flag.NewFlagSet("shimd", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // a wrong flag is told in one line, the caller's
	file := flags.String("config", "", "configuration `file`, TOML (default "+defaultConfig+", if it is there)")
	showVersion := flags.Bool("version", false, "print the version and end")
	root := flags.String("root", "", "`directory` of images and writable layers, on disk (default /var/lib/shimd)")
	state := flags.String("state", "", "`directory` of records and sockets, best on tmpfs (default /run/shimd)")
	listen := flags.String("listen", "", "`address` to serve CRI at (default unix:///run/shimd/shimd.sock)")
	level := flags.String("log-level", "", "debug, info, warn or error (default info)")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(out, usage)
		flags.SetOutput(out)
		flags.PrintDefaults()
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w; see shimd --help", err)
	case flags.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q; see shimd --help", flags.Arg(0))
	}
	if *showVersion {
		_, err := fmt.Fprintf(out, "shimd %s\n", version)
		return nil, err
	}
	if *file == "" {
		if _, err := os.Stat(defaultConfig); err == nil {
			*file = defaultConfig
		}
	}
	cfg, err := config.Load(*file)
	if err != nil {
		return nil, err
	}
	for target, value := range map[*string]string{&cfg.Root: *root, &cfg.State: *state, &cfg.Listen: *listen, &cfg.LogLevel: *level} {
		if value != "" {
			*target = value
		}
	}
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return &cfg, nil
}
