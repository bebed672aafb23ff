package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/shimd/shimd/integration/cluster"
	"github.com/shimd/shimd/integration/tools"
)

// What is in a cluster's directory, besides what package cluster puts there.
const (
	programs      = "bin"
	controlSocket = "control.sock"
	supervisorLog = "supervisor.log"
	kubeconfig    = "kubeconfig" // for the machine's network
)

// up builds what is missing, starts the supervisor and shows what it says until the cluster is ready.
func up(ctx context.Context, o options) error {
	begin := time.Now()
	say := func(format string, args ...any) {
		fmt.Printf("%6.1f s  %s\n", time.Since(begin).Seconds(), fmt.Sprintf(format, args...))
	}
	if entries, err := os.ReadDir(o.dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s is not empty: a cluster runs there, or one did: `make cluster-down` first", o.dir)
	}
	root, err := tools.ModuleRoot()
	if err != nil {
		return err
	}
	if err := cluster.Prepare(ctx, root, filepath.Join(o.dir, programs), say); err != nil {
		return errors.Join(err, os.RemoveAll(o.dir))
	}
	say("building the images that the cache does not have")
	if _, err := buildImages(ctx, root, o.images); err != nil {
		return errors.Join(err, os.RemoveAll(o.dir))
	}
	say("starting the cluster in the background")
	if err := startSupervisor(ctx, o); err != nil {
		return err
	}
	say("the cluster is ready")
	explain(o)
	return nil
}

// startSupervisor returns when the cluster is ready, or with the reason why it never will be.
func startSupervisor(ctx context.Context, o options) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listening for the API server: %w", err)
	}
	defer listener.Close()
	tcp, ok := listener.(*net.TCPListener)
	if !ok {
		return errors.New("listening for the API server: that is no TCP listener")
	}
	theirListener, err := tcp.File()
	if err != nil {
		return fmt.Errorf("passing on the listener: %w", err)
	}
	defer theirListener.Close()
	ready, theirReady, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("making a pipe to the supervisor: %w", err)
	}
	defer ready.Close()
	defer theirReady.Close()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	// A copy: what `go run` built is gone when this command returns, and `exec` needs it later.
	kept := filepath.Join(o.dir, programs, "cluster")
	if err := copyProgram(self, kept); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(o.dir, supervisorLog))
	if err != nil {
		return fmt.Errorf("making the supervisor's log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(kept, supervise, "-dir", o.dir, "-nodes", fmt.Sprint(o.nodes), "-agent", o.agent, "-images", o.images)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{theirListener, theirReady}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the supervisor: %w", err)
	}
	// A new session is one more group for the scheduler. It gets what this one has of the processor.
	if ours, err := os.ReadFile("/proc/self/autogroup"); err == nil {
		if _, nice, found := strings.Cut(strings.TrimSpace(string(ours)), " nice "); found {
			_ = os.WriteFile(fmt.Sprintf("/proc/%d/autogroup", cmd.Process.Pid), []byte(nice), 0) // without it the cluster is slower on a busy machine
		}
	}
	theirReady.Close() // only the supervisor has it now: its end is the pipe's end
	stopped := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer stopped()
	shown := make(chan struct{})
	over := make(chan struct{})
	go func() { defer close(shown); follow(log.Name(), over) }()
	// Not to the pipe's end: processes that the supervisor's enclosure consists of have it too, until they end.
	_, err = io.ReadFull(ready, make([]byte, len(readyWord)))
	close(over)
	<-shown
	if err == nil {
		return nil
	}
	// Either it has ended and said why, or this command was told to end and has told it.
	return fmt.Errorf("the cluster did not get ready: %w; its logs are in %s, `make cluster-down` removes them", errors.Join(cmd.Wait(), context.Cause(ctx)), o.dir)
}

// follow prints what is written to a file, until it is over.
func follow(name string, over <-chan struct{}) {
	file, err := os.Open(name)
	if err != nil {
		return // the log was made just now; without it the end is told all the same
	}
	defer file.Close()
	reader := bufio.NewReader(file)
	for last := false; ; {
		text, err := reader.ReadString('\n')
		fmt.Print(text)
		if err == nil {
			continue
		}
		if last {
			return
		}
		select {
		case <-over:
			last = true
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func copyProgram(from, to string) error {
	body, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, body, 0o755)
	}
	if err != nil {
		return fmt.Errorf("keeping a copy of this program: %w", err)
	}
	return nil
}

func explain(o options) {
	self := filepath.Join(o.dir, programs, "cluster")
	dir := ""
	if o.dir != defaultDir {
		dir = " -dir " + o.dir
	}
	fmt.Print(strings.NewReplacer("DIR", o.dir, "SELF", self, "FLAG", dir).Replace(`
  export KUBECONFIG=DIR/kubeconfig PATH=$PATH:DIR/bin
  kubectl get nodes -o wide
  kubectl get pods -A
  kubectl run web --image registry.k8s.io/shimd/web:1 && kubectl wait --for=condition=Ready pod/web
  kubectl port-forward web 8080 & curl http://127.0.0.1:8080/
Nodes, programs, logs: SELF statusFLAG
A shell on a node: SELF execFLAG -node node1 bash
Remove it all: SELF downFLAG
`))
}
