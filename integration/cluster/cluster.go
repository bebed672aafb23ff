// Package cluster runs a real Kubernetes cluster on one machine, for tests and for `make cluster`: etcd, the control plane, and nodes with their own
// shimd, agent (the kubelet or shimlet) and kube-proxy.
//
// All of it lives in the caller's enclosure, the rack (package enclosure): its network is the one that nodes are connected by and that the control plane
// listens on. A node has mount, network, UTS, IPC and PID namespaces of its own, a root directory in which only programs are the machine's, and a
// control group of its own: it sees itself as a machine, and killing its first process ends all of it, as a power cut does.
//
// What is asserted about a cluster is the business of tests; what is built for it, of package tools; its images, of package images.
package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shimd/shimd/integration/images"
	"github.com/shimd/shimd/integration/registry"
)

// Agents that a node can have.
const (
	Kubelet = "kubelet"
	Shimlet = "shimlet"
)

// Config says what to run.
type Config struct {
	Nodes int    // 1 when 0
	Agent string // of all nodes: Kubelet, the default, or Shimlet
	// Dir is for everything that the cluster writes; made when missing. It must not be on overlayfs, nor its path longer than MaxDir.
	Dir string
	// Images are what can be pulled, by full name. CoreDNS is started when its image is among them.
	Images images.Set
	Log    io.Writer // progress; nil for none
	// Programs is a directory that Prepare has filled; by default the one that PREPARED_CLUSTER names, else Start fills one.
	Programs string
	// NodeConfig changes a node's settings before it starts for the first time; i counts from 0.
	NodeConfig func(i int, settings *NodeSettings)
	// Begins is called with the cluster before its first program starts, for who wants to watch that.
	Begins func(*Cluster)
	// Died is called when a program ends that was not told to, besides what Log and Deaths say.
	Died func(*DeathError)
}

// MaxDir is the longest path of a cluster's directory: sockets below it must stay under the kernel's 107 characters.
const MaxDir = 60

// Cluster is a running cluster. Its methods may be called by several goroutines.
type Cluster struct {
	config   Config
	begin    time.Time
	nodes    []*Node
	registry *registry.Registry

	user      int // of the control plane
	authority *authority
	api       *api
	end       context.CancelFunc // of what goes on in the background
	routes    sync.WaitGroup

	mutex  sync.Mutex
	rack   []*component // in the order of their starts
	deaths []*DeathError
}

// Start starts a cluster and returns when its nodes are ready and its DNS serves. It must be called inside an enclosure.
func Start(ctx context.Context, config Config) (*Cluster, error) {
	c, err := newCluster(config)
	if err != nil {
		return nil, err
	}
	if config.Begins != nil {
		config.Begins(c)
	}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func newCluster(config Config) (*Cluster, error) {
	config.Nodes = max(config.Nodes, 1)
	if config.Agent == "" {
		config.Agent = Kubelet
	}
	if config.Log == nil {
		config.Log = io.Discard
	}
	switch dir, err := filepath.Abs(config.Dir); {
	case err != nil:
		return nil, fmt.Errorf("finding the cluster's directory: %w", err)
	case len(dir) > MaxDir:
		return nil, fmt.Errorf("starting a cluster in %s: the path has more than %d characters: paths of sockets below it would be too long", dir, MaxDir)
	default:
		config.Dir = dir
	}
	c := &Cluster{config: config, begin: time.Now(), end: func() {}}
	for i := range config.Nodes {
		settings := NodeSettings{Agent: config.Agent, Kubelet: map[string]any{}}
		if config.NodeConfig != nil {
			config.NodeConfig(i, &settings)
		}
		if settings.Agent != Kubelet && settings.Agent != Shimlet {
			return nil, fmt.Errorf("starting a cluster: there is no agent %q; choose %s or %s", settings.Agent, Kubelet, Shimlet)
		}
		c.nodes = append(c.nodes, newNode(c, i+1, settings))
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	if err := os.MkdirAll(c.path("log"), 0o755); err != nil {
		return fmt.Errorf("making the cluster's directory: %w", err)
	}
	// The control plane's user passes through; it can't list, and what is secret is closed in itself.
	if err := os.Chmod(c.config.Dir, 0o711); err != nil {
		return fmt.Errorf("opening the cluster's directory: %w", err)
	}
	if err := c.findPrograms(ctx); err != nil {
		return err
	}
	c.user = controlPlaneUser(c.config.Dir, c.config.Programs)
	if err := c.makeCertificates(); err != nil {
		return err
	}
	if err := errors.Join(makeBridge(), makeGroups(cgroupName(c.config.Dir, rackName))); err != nil {
		return err
	}
	var err error
	if c.registry, err = registry.Start(ctx, rackAddress+":0", c.config.Images); err != nil {
		return err
	}
	if err := c.startControlPlane(ctx); err != nil {
		return err
	}
	background, end := context.WithCancel(context.Background())
	c.end = end
	c.routes.Go(func() { c.keepRoutes(background) })
	c.progress("starting %d nodes with shimd, %s and kube-proxy", len(c.nodes), c.config.Agent)
	var group errgroup.Group
	group.Go(func() error { return c.applyManifests(ctx) })
	for _, node := range c.nodes {
		group.Go(func() error { return node.Start(ctx) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return c.awaitAddons(ctx)
}

// Close ends the cluster and removes what it made outside its directory, and the large things in there; logs and configuration stay, for the
// caller to remove.
func (c *Cluster) Close() error {
	c.end()
	c.routes.Wait()
	var err error
	for _, node := range c.nodes {
		err = errors.Join(err, node.Stop())
	}
	c.mutex.Lock()
	rack := slices.Clone(c.rack)
	c.mutex.Unlock()
	for _, p := range slices.Backward(rack) {
		p.forget()
	}
	for _, p := range slices.Backward(rack) {
		// The API server would wait a minute for its watches to end, and nothing is written that anybody wants to read again.
		err = errors.Join(err, p.stop(syscall.SIGKILL))
	}
	if c.registry != nil {
		err = errors.Join(err, c.registry.Close())
	}
	err = errors.Join(err, removeBridge(), removeGroups(cgroupName(c.config.Dir, rackName)))
	for _, dir := range []string{"nodes", "etcd"} {
		if removeErr := os.RemoveAll(c.path(dir)); removeErr != nil {
			err = errors.Join(err, fmt.Errorf("removing the cluster's files: %w", removeErr))
		}
	}
	return err
}

// Remove removes the directory of a cluster that does not run any more, and what it has left on the machine when it was killed.
func Remove(dir string) error {
	entries, err := os.ReadDir(filepath.Join(dir, "nodes"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing a cluster: %w", err)
	}
	err = nil
	for _, entry := range entries {
		err = errors.Join(err, removeGroups(cgroupName(dir, entry.Name())))
	}
	err = errors.Join(err, removeGroups(cgroupName(dir, rackName)))
	if removeErr := os.RemoveAll(dir); removeErr != nil {
		err = errors.Join(err, fmt.Errorf("removing a cluster: %w", removeErr))
	}
	return err
}

// path is a file below the cluster's directory.
func (c *Cluster) path(names ...string) string {
	return filepath.Join(append([]string{c.config.Dir}, names...)...)
}

// Dir is the cluster's directory; logs are in its log.
func (c *Cluster) Dir() string { return c.config.Dir }

// Nodes are all, running or not.
func (c *Cluster) Nodes() []*Node { return c.nodes }

// Kubeconfig is the path of the administrator's kubeconfig, valid inside the rack.
func (c *Cluster) Kubeconfig() string { return c.kubeconfig("admin") }

// WriteKubeconfig writes the administrator's for who reaches the API server in another way than the rack does. Its certificate is good for 127.0.0.1.
func (c *Cluster) WriteKubeconfig(file, server string) error {
	return writeKubeconfig(file, server, c.path("pki"), "admin")
}

// APIAddress is where the API server listens, in the rack's network.
func (c *Cluster) APIAddress() string { return rackAddress + ":" + apiPort }

// Program is the path of one of the cluster's programs: kubectl, shimd, ...
func (c *Cluster) Program(name string) string { return c.program(name) }

// Kubectl runs kubectl as the administrator and answers what it printed; its complaints are in the error.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) ([]byte, error) {
	return c.KubectlInput(ctx, nil, args...)
}

// KubectlInput is Kubectl with something on its standard input.
func (c *Cluster) KubectlInput(ctx context.Context, input io.Reader, args ...string) ([]byte, error) {
	cmd := c.KubectlCommand(ctx, args...)
	var out, complaints bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = input, &out, &complaints
	if err := cmd.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(complaints.Bytes()))
	}
	return out.Bytes(), nil
}

// KubectlCommand is kubectl as the administrator, to be run by the caller.
func (c *Cluster) KubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.program("kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
	return cmd
}

// Components are the cluster's programs, those of the control plane first.
func (c *Cluster) Components() []Component {
	c.mutex.Lock()
	rack := slices.Clone(c.rack)
	c.mutex.Unlock()
	var all []Component
	for _, p := range rack {
		all = append(all, p.describe(""))
	}
	for _, node := range c.nodes {
		all = append(all, node.components()...)
	}
	return all
}

// Deaths are the programs that ended without having been told to, first ones first.
func (c *Cluster) Deaths() []*DeathError {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return slices.Clone(c.deaths)
}

// died is called once for each death.
func (c *Cluster) died(death *DeathError) {
	c.mutex.Lock()
	c.deaths = append(c.deaths, death)
	c.mutex.Unlock()
	c.progress("%v", death)
	if c.config.Died != nil {
		c.config.Died(death)
	}
}

// patience is long for the sake of loaded machines; steps take seconds.
const patience = 5 * time.Minute

// await asks until there is no error. It fails at once when a program has died since it began.
func (c *Cluster) await(ctx context.Context, what string, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	before := len(c.Deaths())
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		if deaths := c.Deaths(); len(deaths) > before {
			return fmt.Errorf("waiting for %s: %w", what, deaths[before])
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w: %w", what, context.Cause(ctx), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (c *Cluster) progress(format string, args ...any) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	fmt.Fprintf(c.config.Log, "%6.1f s  %s\n", time.Since(c.begin).Seconds(), fmt.Sprintf(format, args...))
}
