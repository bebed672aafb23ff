// Command shimd-keeper is the parent of every container process of a node: see package keeper.
//
// Flags and the sizing of the process belong here; everything else is package keeper/server. The daemon starts it, detached, and
// replaces it in place when it is newer; nobody needs to call it by hand.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/shimd/shimd/keeper/server"
)

// version is set by the linker: -ldflags "-X main.version=v1.2.3".
var version = "devel"

const (
	// heapGrowth (GOGC): the live heap is small, so collecting often costs nothing, and garbage would be most of the process.
	heapGrowth = 25
	// memoryLimit (GOMEMLIMIT) is far above what thousands of containers need; near it the collector works harder.
	memoryLimit = 64 << 20
	// maxProcs: copying logs is bound by memory, and each P has caches of its own.
	maxProcs = 4
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "shimd-keeper:", err)
		os.Exit(1)
	}
}

func run() error {
	state := flag.String("state", "", "state `directory` of the daemon, an absolute path")
	showVersion := flag.Bool("version", false, "print the version")
	ready := flag.Int("ready", -1, "`descriptor` to write a byte to once clients can connect")
	resume := flag.Int("resume", -1, "`descriptor` of the state that the keeper before left when it executed this one")
	check := flag.Int("check", -1, "`descriptor` of such a state, to tell whether it can be read, and end")
	flag.Parse()
	switch {
	case flag.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	case *showVersion:
		fmt.Println(version)
		return nil
	case *check >= 0:
		return server.Check(*check)
	case *state == "" || (*state)[0] != '/':
		return fmt.Errorf("--state is %q; name the state directory by an absolute path", *state)
	}
	debug.SetGCPercent(heapGrowth)
	debug.SetMemoryLimit(memoryLimit)
	runtime.GOMAXPROCS(min(runtime.NumCPU(), maxProcs))
	// Executed by descriptor after an upgrade, the process would be named by its number.
	_ = os.WriteFile("/proc/self/comm", []byte("shimd-keeper"), 0)
	opts := server.Options{
		StateDir: *state, Version: version, Log: log.New(os.Stderr, "", log.LstdFlags|log.LUTC|log.Lmicroseconds),
		Listening: func() { announce(*ready) },
	}
	if *resume >= 0 {
		return server.Resume(opts, *resume)
	}
	err := server.Run(opts)
	if errors.Is(err, server.ErrLocked) {
		return nil // another daemon's client was faster; its keeper is as good
	}
	return err
}

// announce tells whoever started this process that it listens.
func announce(fd int) {
	if fd < 0 {
		return
	}
	f := os.NewFile(uintptr(fd), "ready")
	_, _ = f.Write([]byte{1})
	_ = f.Close()
}
