// Command cluster runs a Kubernetes cluster on this machine in the background: `make cluster`, `make cluster-status`, `make cluster-down`.
//
//	cluster up [-nodes N] [-agent kubelet|shimlet]   start one and return when it is ready
//	cluster status                                   nodes, pods, programs, logs
//	cluster kubectl ARGS...                          kubectl as its administrator
//	cluster exec [-node NAME] COMMAND...             run a command in the control plane's network, or on a node
//	cluster down                                     end it and remove it
//
// Clusters with different -dir run side by side. What a cluster is, package cluster says.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/shimd/shimd/integration/cluster"
	"github.com/shimd/shimd/integration/images"
	"github.com/shimd/shimd/integration/namespaces"
)

const defaultDir = "/var/lib/shimd-cluster"

type options struct {
	dir, agent, node, images string
	nodes                    int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status, err := run(ctx, os.Args[1:])
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		status = 1
	}
	os.Exit(status)
}

func run(ctx context.Context, args []string) (int, error) {
	if len(args) == 0 {
		return 0, errors.New("say what to do: up, status, kubectl, exec or down")
	}
	if args[0] == namespaces.Stage {
		return 0, namespaces.Exec(args[1:])
	}
	var o options
	flags := flag.NewFlagSet("cluster "+args[0], flag.ContinueOnError)
	flags.StringVar(&o.dir, "dir", defaultDir, "the cluster's directory")
	switch args[0] {
	case "up", supervise:
		flags.IntVar(&o.nodes, "nodes", 1, "how many nodes")
		flags.StringVar(&o.agent, "agent", cluster.Kubelet, "the nodes' agent: kubelet or shimlet")
		flags.StringVar(&o.images, "images", "cluster", "sets of images that can be pulled, separated by commas: "+strings.Join(slices.Sorted(maps.Keys(images.Sets())), ", "))
	case "exec":
		flags.StringVar(&o.node, "node", "", "run on this node")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return 0, err
	}
	if os.Geteuid() != 0 && args[0] != "kubectl" {
		return 0, errors.New("root is needed: sudo make cluster")
	}
	var err error
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return 0, fmt.Errorf("reading -dir: %w", err)
	}
	switch args[0] {
	case "up":
		return 0, up(ctx, o)
	case supervise:
		return 0, superviseCluster(ctx, o)
	case "status":
		return 0, showStatus(ctx, o)
	case "kubectl":
		return kubectl(ctx, o, flags.Args())
	case "exec":
		return execute(ctx, o, flags.Args())
	case "down":
		return 0, down(ctx, o)
	}
	return 0, fmt.Errorf("there is no command %q: up, status, kubectl, exec or down", args[0])
}
