package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shimd/shimd/integration/cluster"
	"github.com/shimd/shimd/integration/enclosure"
	"github.com/shimd/shimd/integration/images"
	"github.com/shimd/shimd/integration/tools"
)

// supervise is the command that `up` runs in the background. It is not for users.
const supervise = "supervise"

// Descriptors that `up` opens for the supervisor.
const (
	fileListener = iota // of the machine's network, for the API server
	fileReady           // a pipe: readyWord is written to it when the cluster is ready
	files
)

const readyWord = "ready"

// state is what the supervisor tells others.
type state struct {
	Nodes      []node
	Components []cluster.Component
	Deaths     []string
	Ready      bool
}

type node struct {
	Name, Address, Endpoint string
	PID                     int // of its first process, in the supervisor's PID namespace
}

// superviseCluster is the cluster's process: it starts the cluster in an enclosure, and stays.
func superviseCluster(ctx context.Context, o options) error {
	var inherited []*os.File
	for i := range files {
		inherited = append(inherited, enclosure.NewFile(i))
	}
	enclosure.Enter(enclosure.Options{Files: inherited})
	ready := inherited[fileReady]
	outside, err := net.FileListener(inherited[fileListener])
	if err != nil {
		return fmt.Errorf("taking over the listener: %w", err)
	}
	root, err := tools.ModuleRoot()
	if err != nil {
		return err
	}
	set, err := buildImages(ctx, root, o.images)
	if err != nil {
		return err
	}
	s := &supervisor{}
	control, err := s.serveControl(filepath.Join(o.dir, controlSocket))
	if err != nil {
		return err
	}
	defer control.Close()
	fmt.Printf("a registry with %d images will be on the nodes' network\n", len(set))
	c, err := cluster.Start(ctx, cluster.Config{
		Nodes: o.nodes, Agent: o.agent, Dir: o.dir, Images: set, Log: os.Stdout, Programs: filepath.Join(o.dir, programs), Begins: s.set})
	if err != nil {
		return err
	}
	go forward(outside, c.APIAddress())
	server := "https://" + outside.Addr().String()
	if err := c.WriteKubeconfig(filepath.Join(o.dir, "kubeconfig"), server); err != nil {
		return errors.Join(err, c.Close())
	}
	s.ready()
	if _, err := ready.WriteString(readyWord); err != nil {
		fmt.Println("nobody waits any more:", err) // `up` was interrupted; the cluster stays
	}
	ready.Close()
	<-ctx.Done()
	fmt.Println("told to end")
	return c.Close()
}

// forward takes connections of the machine's network to the API server. The listener stays in the network that it was made in.
func forward(listener net.Listener, to string) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			fmt.Println("taking a connection for the API server:", err)
			time.Sleep(time.Second) // out of descriptors, perhaps
			continue
		}
		go func() {
			defer conn.Close()
			server, err := net.Dial("tcp", to)
			if err != nil {
				fmt.Println("connecting to the API server:", err)
				return
			}
			defer server.Close()
			var both sync.WaitGroup
			both.Go(func() { pipe(server, conn) })
			both.Go(func() { pipe(conn, server) })
			both.Wait()
		}()
	}
}

// pipe copies until the end, and passes the end on.
func pipe(to, from net.Conn) {
	_, _ = io.Copy(to, from) // either side may break off
	if tcp, ok := to.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
}

// supervisor answers questions about the cluster, from the moment at which its programs begin to start.
type supervisor struct {
	mutex   sync.Mutex
	cluster *cluster.Cluster
	isReady bool
}

func (s *supervisor) set(c *cluster.Cluster) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.cluster = c
}

func (s *supervisor) ready() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.isReady = true
}

func (s *supervisor) state() state {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.cluster == nil {
		return state{}
	}
	now := state{Components: s.cluster.Components(), Ready: s.isReady}
	for _, n := range s.cluster.Nodes() {
		now.Nodes = append(now.Nodes, node{Name: n.Name(), Address: n.Address(), Endpoint: n.Endpoint(), PID: n.PID()})
	}
	for _, death := range s.cluster.Deaths() {
		now.Deaths = append(now.Deaths, death.Error())
	}
	return now
}

// serveControl serves the state on a unix socket, whose other end also learns this process's ID from the kernel.
func (s *supervisor) serveControl(socket string) (io.Closer, error) {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("listening for questions about the cluster: %w", err)
	}
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(s.state()) // who went away asks again
	})}
	go func() { _ = server.Serve(listener) }()
	return server, nil
}

// buildImages builds sets of images, or finds them in the cache, and the image of the page that `up` proposes to run.
func buildImages(ctx context.Context, root, names string) (images.Set, error) {
	opts := images.Options{Root: root}
	set, err := images.Demo(ctx, opts)
	if err != nil {
		return nil, err
	}
	for name := range strings.SplitSeq(names, ",") {
		build, known := images.Sets()[name]
		if !known {
			return nil, fmt.Errorf("there is no set of images %q: choose of %s", name, strings.Join(slices.Sorted(maps.Keys(images.Sets())), ", "))
		}
		more, err := build(ctx, opts)
		if err != nil {
			return nil, err
		}
		maps.Copy(set, more)
	}
	return set, nil
}
