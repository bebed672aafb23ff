// Command agentbench measures the kubelet and shimlet side by side: a cluster of two nodes, shimd on both, an agent each.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/shimd/shimd/integration/agentbench"
	"github.com/shimd/shimd/integration/bench"
	"github.com/shimd/shimd/integration/cluster"
	"github.com/shimd/shimd/integration/enclosure"
	"github.com/shimd/shimd/integration/images"
	"github.com/shimd/shimd/integration/tools"
)

func main() {
	opts := agentbench.Options{Image: images.Busybox, Progress: func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%s %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
	}}
	jsonFile := flag.String("json", "", "also write the numbers to this file")
	flag.IntVar(&opts.Rounds, "rounds", 30, "pods on each node, one after the other")
	flag.IntVar(&opts.Replicas, "replicas", 100, "replicas of the Deployment")
	flag.IntVar(&opts.AtRest, "at-rest", 50, "pods at rest")
	flag.DurationVar(&opts.Rest, "rest", 30*time.Second, "how long to watch them")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *jsonFile, opts); err != nil {
		fmt.Fprintln(os.Stderr, "agentbench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, jsonFile string, opts agentbench.Options) (err error) {
	root, err := tools.ModuleRoot()
	if err != nil {
		return err
	}
	// Outside, where modules can be fetched; the directory is known inside by the variable.
	if os.Getenv(cluster.PreparedVariable) == "" {
		programs, err := os.MkdirTemp("/var/tmp", "shimd-bench-programs-")
		if err != nil {
			return fmt.Errorf("making a directory for programs: %w", err)
		}
		if err := cluster.Prepare(ctx, root, programs, opts.Progress); err != nil {
			return errors.Join(err, os.RemoveAll(programs))
		}
		if err := os.Setenv(cluster.PreparedVariable, programs); err != nil {
			return err
		}
	}
	if !enclosure.Enter(enclosure.Options{AtExit: func() error { return os.RemoveAll(os.Getenv(cluster.PreparedVariable)) }}) {
		return errors.New("root is needed to make namespaces: run this with sudo")
	}
	work, err := os.MkdirTemp("/var/tmp", "shimd-bench-")
	if err != nil {
		return fmt.Errorf("making a working directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	set, err := images.Cluster(ctx, images.Options{Root: root})
	if err != nil {
		return err
	}
	agents := []string{cluster.Kubelet, cluster.Shimlet}
	c, err := cluster.Start(ctx, cluster.Config{
		Nodes: len(agents), Dir: work, Images: set, Log: os.Stderr,
		NodeConfig: func(i int, settings *cluster.NodeSettings) {
			settings.Agent = agents[i]
			settings.Kubelet["maxPods"] = max(110, opts.Replicas+20)
		},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	client, err := c.Client()
	if err != nil {
		return err
	}
	var nodes []agentbench.Node
	for i, node := range c.Nodes() {
		nodes = append(nodes, agentbench.Node{Name: node.Name(), Agent: agents[i], Processes: uses(node, agents[i])})
	}
	results, err := agentbench.Run(ctx, &agentbench.API{Base: "https://" + c.APIAddress(), Client: client}, nodes, opts)
	if err != nil {
		return err
	}
	return report(os.Stdout, jsonFile, results)
}

// uses finds a node's programs by their names and the node's network namespace.
func uses(node *cluster.Node, agent string) func() (agentUse, runtimeUse agentbench.Use, err error) {
	network := func(pid int) string {
		name, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err != nil {
			return "" // ended meanwhile
		}
		return name
	}
	use := func(names ...string) (agentbench.Use, error) {
		here := network(node.PID())
		u, err := bench.UseOf(func(pid int, name string) bool {
			for _, wanted := range names {
				if name == wanted && network(pid) == here {
					return true
				}
			}
			return false
		})
		if err == nil && u.Count == 0 {
			err = fmt.Errorf("there is no %v on %s", names, node.Name())
		}
		return agentbench.Use{MiB: float64(u.PSS) / (1 << 20), CPU: u.CPU}, err
	}
	return func() (agentbench.Use, agentbench.Use, error) {
		agentUse, agentErr := use(agent)
		runtimeUse, runtimeErr := use("shimd", "shimd-keeper")
		return agentUse, runtimeUse, errors.Join(agentErr, runtimeErr)
	}
}

func report(to io.Writer, jsonFile string, results []agentbench.Result) error {
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(format string, value func(agentbench.Result) float64, name string) {
		fmt.Fprint(table, name, "\t")
		for _, r := range results {
			fmt.Fprintf(table, format+"\t", value(r))
		}
		fmt.Fprintln(table)
	}
	fmt.Fprint(table, "on shimd\t")
	for _, r := range results {
		fmt.Fprint(table, r.Agent, "\t")
	}
	fmt.Fprintln(table)
	first := results[0]
	row("%.0f", func(r agentbench.Result) float64 { return r.RunningP50 }, "binding to Running, p50 ms")
	row("%.0f", func(r agentbench.Result) float64 { return r.RunningP95 }, "binding to Running, p95 ms")
	row("%.0f", func(r agentbench.Result) float64 { return r.GoneP50 }, "deletion to gone, p50 ms")
	row("%.1f", func(r agentbench.Result) float64 { return r.Deployment }, fmt.Sprintf("Deployment of %d, all Ready, s", first.Replicas))
	row("%.1f", func(r agentbench.Result) float64 { return r.EmptyAgentMiB }, "agent, no pods, MiB PSS")
	row("%.1f", func(r agentbench.Result) float64 { return r.AgentMiB }, fmt.Sprintf("agent, %d pods, MiB PSS", first.AtRest))
	row("%.1f", func(r agentbench.Result) float64 { return r.RuntimeMiB }, fmt.Sprintf("shimd and keeper, %d pods, MiB PSS", first.AtRest))
	row("%.2f", func(r agentbench.Result) float64 { return r.AgentCPU }, fmt.Sprintf("agent, %d pods at rest, %% of a core", first.AtRest))
	row("%.2f", func(r agentbench.Result) float64 { return r.RuntimeCPU }, fmt.Sprintf("shimd and keeper, %d pods at rest, %% of a core", first.AtRest))
	if err := table.Flush(); err != nil {
		return fmt.Errorf("printing the table: %w", err)
	}
	if jsonFile == "" {
		return nil
	}
	data, err := json.MarshalIndent(results, "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(jsonFile), 0o755)
	}
	if err == nil {
		err = os.WriteFile(jsonFile, append(data, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("writing the numbers: %w", err)
	}
	return nil
}
