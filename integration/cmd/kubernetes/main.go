// Command kubernetes builds the programs of a Kubernetes cluster that the tests run, each once for each version, and prints where they are.
//
//	kubernetes              what a cluster needs
//	kubernetes -suites      and Kubernetes' test suites
//	kubernetes kubelet      these alone
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/shimd/shimd/integration/tools"
)

func main() {
	suites := flag.Bool("suites", false, "also build the test suites")
	flag.Parse()
	names := flag.Args()
	if len(names) == 0 {
		names = tools.ClusterPrograms()
		if *suites {
			names = append(names, tools.SuitePrograms()...)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, names); err != nil {
		fmt.Fprintln(os.Stderr, "kubernetes:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, names []string) error {
	root, err := tools.ModuleRoot()
	if err != nil {
		return err
	}
	built, err := tools.BuildPrograms(ctx, root, names, func(format string, args ...any) { fmt.Printf(format+"\n", args...) })
	if err != nil {
		return err
	}
	for _, p := range built {
		fmt.Printf("%-24s %-8s %s\n", p.Name, p.Version, p.Path)
	}
	return nil
}
