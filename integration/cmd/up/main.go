// Command up is `make up` and, with -down, `make down`.
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

	"github.com/shimd/shimd/integration/demo"
	"github.com/shimd/shimd/integration/tools"
)

func main() {
	begin := time.Now()
	d := demo.Demo{Progress: func(format string, args ...any) {
		fmt.Printf("%6.2fs  "+format+"\n", append([]any{time.Since(begin).Seconds()}, args...)...)
	}}
	down := flag.Bool("down", false, "remove what was started")
	serve := flag.Bool("serve", false, "be the registry; for this program's own use")
	flag.StringVar(&d.Programs, "programs", "bin", "directory of shimd, shimd-keeper and shimlet")
	flag.StringVar(&d.Root, "root", "/var/lib/shimd", "shimd's root directory")
	flag.StringVar(&d.State, "state", "/run/shimd", "shimd's state directory")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, d, *down, *serve); err != nil {
		fmt.Fprintln(os.Stderr, "up:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, d demo.Demo, down, serve bool) error {
	if os.Geteuid() != 0 {
		return errors.New("root is needed: sudo make up")
	}
	var err error
	if d.Programs, err = filepath.Abs(d.Programs); err != nil {
		return fmt.Errorf("reading -programs: %w", err)
	}
	if d.Source, err = tools.ModuleRoot(); err != nil {
		return err
	}
	switch {
	case serve:
		return d.Serve(ctx)
	case down:
		return d.Down(ctx)
	}
	return d.Up(ctx)
}
