package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// NodeSettings can be changed for each node.
type NodeSettings struct {
	Agent     string         // Kubelet or Shimlet
	Kubelet   map[string]any // replaces keys of the KubeletConfiguration, which both agents read
	Shimd     string         // further configuration of shimd, TOML tables: "[runtimes.runc]\npath = ..."
	AgentArgs []string       // further arguments
}

// Node is one node.
type Node struct {
	cluster  *Cluster
	index    int // from 1
	name     string
	settings NodeSettings

	// verbs makes Start, Stop and the like wait for each other; mutex guards the fields below.
	verbs  sync.Mutex
	mutex  sync.Mutex
	init   *exec.Cmd // the node's first process
	shimd  *component
	agent  *component
	proxy  *component
	filled bool // its files have been written
}

func newNode(c *Cluster, index int, settings NodeSettings) *Node {
	return &Node{cluster: c, index: index, name: "node" + strconv.Itoa(index), settings: settings}
}

// Name is the node's name in the cluster, and its host name.
func (n *Node) Name() string { return n.name }

// Address is the node's IP address, which the rack and the other nodes reach.
func (n *Node) Address() string { return nodeAddress(n.index) }

// CgroupName is the node's control group, below the root of every hierarchy.
func (n *Node) CgroupName() string { return cgroupName(n.cluster.config.Dir, n.name) }

// Root is the directory that the node sees as its root, without what is mounted in there.
func (n *Node) Root() string { return n.cluster.path("nodes", n.name, "root") }

// PID is that of the node's first process, in the rack's PID namespace; 0 when the node is off.
func (n *Node) PID() int { return n.pid() }

// pid is that of the node's first process, 0 when the node is off.
func (n *Node) pid() int {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	if n.init == nil {
		return 0
	}
	return n.init.Process.Pid
}

// shimdSocket is where CRI is served, within the node.
const shimdSocket = "/run/shimd/shimd.sock"

// Endpoint is the node's CRI endpoint, valid inside the rack until the node stops.
func (n *Node) Endpoint() string { return "unix://" + n.inside(shimdSocket) }

// inside is how the rack sees a file of the running node, with what is mounted there.
func (n *Node) inside(path string) string { return fmt.Sprintf("/proc/%d/root%s", n.pid(), path) }

// Command runs a program in the node's namespaces; its path counts there. When it is killed, the program is too.
func (n *Node) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, n.cluster.program("nodeinit"), append([]string{"enter", strconv.Itoa(n.pid()), name}, args...)...)
	cmd.Env = append(os.Environ(), nodePath)
	return cmd
}

// nodePath finds the node's programs; those of the cluster are mounted at the end.
const nodePath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:" + programsInside

// Start turns the node on and returns when it is ready, for the API server too. A node that was stopped comes back as after a power cut: with what was
// on its disk.
func (n *Node) Start(ctx context.Context) error {
	n.verbs.Lock()
	defer n.verbs.Unlock()
	if n.pid() != 0 {
		return nil
	}
	began := time.Now()
	if err := n.boot(ctx); err != nil {
		return fmt.Errorf("starting %s: %w", n.name, err)
	}
	if err := n.awaitReady(ctx, began); err != nil {
		return fmt.Errorf("starting %s: %w", n.name, err)
	}
	n.cluster.progress("%s is ready", n.name)
	return nil
}

func (n *Node) boot(ctx context.Context) error {
	if err := n.writeFiles(); err != nil {
		return err
	}
	if err := makeGroups(n.CgroupName()); err != nil {
		return err
	}
	if err := n.startInit(ctx); err != nil {
		return err
	}
	n.makeComponents()
	if err := n.startShimd(ctx); err != nil {
		return err
	}
	if err := n.agent.start(); err != nil {
		return err
	}
	return n.proxy.start()
}

// startInit makes the node's namespaces and returns when its network and mounts stand.
func (n *Node) startInit(ctx context.Context) error {
	plan := n.cluster.path("nodes", n.name, "plan.json")
	text, err := json.Marshal(n.plan())
	if err != nil {
		return fmt.Errorf("writing the node's plan: %w", err)
	}
	if err := os.WriteFile(plan, text, 0o644); err != nil {
		return fmt.Errorf("writing the node's plan: %w", err)
	}
	log, err := os.OpenFile(n.log("nodeinit"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("opening the node's log: %w", err)
	}
	defer log.Close()
	ready, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("making a pipe to the node: %w", err)
	}
	defer ready.Close()
	cmd := exec.Command(n.cluster.program("nodeinit"), "init", plan)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWPID,
	}
	connected, err := cmd.StdinPipe()
	if err != nil {
		return errors.Join(fmt.Errorf("making a pipe to the node: %w", err), theirs.Close())
	}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return fmt.Errorf("making the node's namespaces: %w", err)
	}
	n.mutex.Lock()
	n.init = cmd
	n.mutex.Unlock()
	if err := errors.Join(attachNode(n.link(), cmd.Process.Pid), connected.Close()); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Now()) })
	defer stop()
	if said, err := io.ReadAll(ready); err != nil || string(said) != "ready" {
		return fmt.Errorf("the node's first process did not get ready: %w\n%s", errors.Join(err, context.Cause(ctx)), logTail(n.log("nodeinit")))
	}
	return nil
}

// link is the name of the rack's end of the node's interface.
func (n *Node) link() string { return n.name }

func (n *Node) log(name string) string { return n.cluster.path("log", n.name+"-"+name+".log") }

// makeComponents names what runs on the node that has just been booted.
func (n *Node) makeComponents() {
	pid := n.pid()
	component := func(name string, args ...string) *component {
		return &component{
			name: n.name + "/" + name, log: n.log(name), node: pid, init: programsInside + "/nodeinit", group: systemGroup(n.CgroupName()), path: programsInside + "/" + name, args: args, env: []string{nodePath}, report: n.cluster.died,
		}
	}
	n.mutex.Lock()
	defer n.mutex.Unlock()
	n.shimd = component("shimd", "--log-level", "info")
	n.agent = component(n.settings.Agent, n.agentArgs()...)
	n.proxy = component("kube-proxy", "--config", proxyConfigFile, "--v", "2")
}

// startShimd returns when shimd takes connections.
func (n *Node) startShimd(ctx context.Context) error {
	if err := n.shimd.start(); err != nil {
		return err
	}
	return n.cluster.await(ctx, "shimd of "+n.name, func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", n.inside(shimdSocket))
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// awaitReady waits until the agent has said, since then, that the node is ready.
func (n *Node) awaitReady(ctx context.Context, since time.Time) error {
	return n.cluster.await(ctx, n.name+" to be ready", func(ctx context.Context) error {
		nodes, err := n.cluster.api.nodes(ctx)
		if err != nil {
			return err
		}
		node, registered := nodes[n.name]
		if !registered {
			return errors.New("it has not registered")
		}
		return readySince(node, since)
	})
}

// Stop turns the node off as a power cut does: everything on it ends at once. What was on its disk stays.
func (n *Node) Stop() error {
	n.verbs.Lock()
	defer n.verbs.Unlock()
	n.mutex.Lock()
	init := n.init
	parts := []*component{n.proxy, n.agent, n.shimd}
	n.mutex.Unlock()
	if init == nil {
		return nil
	}
	for _, p := range parts {
		if p != nil {
			p.forget()
		}
	}
	if err := init.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping %s: %w", n.name, err)
	}
	// The kernel ends the others with it, and has them all gone before it lets the first one go.
	for _, p := range parts {
		if p != nil {
			p.awaitEnd()
		}
	}
	_ = init.Wait() // it was killed
	n.mutex.Lock()
	n.init = nil
	n.mutex.Unlock()
	if err := errors.Join(detachNode(n.link()), removeGroups(n.CgroupName())); err != nil {
		return fmt.Errorf("stopping %s: %w", n.name, err)
	}
	return nil
}

// KillShimd ends the node's shimd by SIGKILL. Pods stay.
func (n *Node) KillShimd() error {
	n.verbs.Lock()
	defer n.verbs.Unlock()
	if n.pid() == 0 {
		return fmt.Errorf("killing shimd of %s: the node is off", n.name)
	}
	return n.shimd.stop(syscall.SIGKILL)
}

// StartShimd starts shimd again after KillShimd.
func (n *Node) StartShimd(ctx context.Context) error {
	n.verbs.Lock()
	defer n.verbs.Unlock()
	if n.pid() == 0 {
		return fmt.Errorf("starting shimd of %s: the node is off", n.name)
	}
	if n.shimd.pid() != 0 {
		return nil
	}
	return n.startShimd(ctx)
}

// RestartAgent ends the kubelet or shimlet by SIGKILL, starts it again, and waits until the node is ready.
func (n *Node) RestartAgent(ctx context.Context) error {
	n.verbs.Lock()
	defer n.verbs.Unlock()
	if n.pid() == 0 {
		return fmt.Errorf("restarting the agent of %s: the node is off", n.name)
	}
	if err := n.agent.stop(syscall.SIGKILL); err != nil {
		return err
	}
	began := time.Now()
	if err := n.agent.start(); err != nil {
		return err
	}
	return n.awaitReady(ctx, began)
}

func (n *Node) components() []Component {
	n.mutex.Lock()
	init := n.init
	parts := []*component{n.shimd, n.agent, n.proxy}
	n.mutex.Unlock()
	described := []Component{{Name: "nodeinit", Node: n.name, Log: n.log("nodeinit")}}
	if init != nil {
		described[0].PID = init.Process.Pid
	}
	for _, p := range parts {
		if p != nil {
			described = append(described, p.describe(n.name))
		}
	}
	return described
}
