// Command images builds sets of test images into the cache ahead of those who need them, and lists what is in them.
package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/shimd/shimd/integration/images"
	"github.com/shimd/shimd/integration/tools"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	sets := images.Sets()
	names := strings.Join(slices.Sorted(maps.Keys(sets)), ", ")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: images SET...\nsets: %s\n", names)
	}
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		return fmt.Errorf("which set? one or more of %s", names)
	}
	root, err := tools.ModuleRoot()
	if err != nil {
		return err
	}
	for _, name := range flag.Args() {
		build, ok := sets[name]
		if !ok {
			return fmt.Errorf("no set of images is called %s: there are %s", name, names)
		}
		start := time.Now()
		set, err := build(ctx, images.Options{Root: root, Progress: os.Stdout})
		if err != nil {
			return err
		}
		fmt.Printf("%s: %d names, %.1f s\n", name, len(set), time.Since(start).Seconds())
		for _, full := range slices.Sorted(maps.Keys(set)) {
			digest, err := set[full].Digest()
			if err != nil {
				return fmt.Errorf("taking the digest of %s: %w", full, err)
			}
			manifest, err := set[full].Manifest()
			if err != nil {
				return fmt.Errorf("reading the manifest of %s: %w", full, err)
			}
			var size int64
			for _, layer := range manifest.Layers {
				size += layer.Size
			}
			fmt.Printf("  %-70s %s %6.1f MB\n", full, digest.Hex[:12], float64(size)/1e6)
		}
	}
	return nil
}
