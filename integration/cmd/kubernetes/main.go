// Command kubernetes builds the kubelet that the tests run, once for each version, and prints where it is.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/shimd/shimd/integration/tools"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "kubernetes:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	root, err := tools.ModuleRoot()
	if err != nil {
		return err
	}
	if _, found, err := tools.FindKubernetes(ctx, root); err != nil {
		return err
	} else if !found {
		fmt.Println("building the kubelet: six minutes or so of two cores, once")
	}
	built, err := tools.BuildKubernetes(ctx, root)
	if err != nil {
		return err
	}
	fmt.Printf("kubelet %s: %s\n", built.Version, built.Kubelet)
	return nil
}
