package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/shimd/shimd/node"
	"github.com/shimd/shimd/node/cluster"
	"github.com/shimd/shimd/node/criclient"
	"github.com/shimd/shimd/node/eviction"
	"github.com/shimd/shimd/node/metrics"
	"github.com/shimd/shimd/node/qos"
	"github.com/shimd/shimd/node/register"
)

// member is what makes the agent a node of a cluster.
type member struct {
	*options
	connection *cluster.Connection
	door       *cluster.Cluster
	machine    register.Machine
	runtime    *criclient.Client
	tree       *qos.Tree
	evictions  atomic.Pointer[eviction.Manager]
	agent      atomic.Pointer[node.Agent] // set by start
	changed    chan struct{}              // of one place
}

// join prepares what the agent has to be given: the API server, and cgroups for pods. close ends it.
func (o *options) join(ctx context.Context) (*member, error) {
	m := &member{options: o, changed: make(chan struct{}, 1)}
	if err := m.prepare(ctx); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

func (m *member) prepare(ctx context.Context) error {
	err := m.bootstrap(ctx)
	if err != nil {
		return err
	}
	if m.connection, err = m.connect(); err != nil {
		return err
	}
	m.door = cluster.New(m.connection, m.NodeName, m.Log)
	m.Cluster = m.door
	if err := os.MkdirAll(m.RootDir, 0o711); err != nil {
		return fmt.Errorf("making the agent's directory: %w", err)
	}
	if m.machine, err = register.ReadMachine("/", m.RootDir); err != nil {
		return err
	}
	if m.runtime, err = criclient.Dial(m.Endpoint); err != nil {
		return err
	}
	m.Changed = func() {
		select {
		case m.changed <- struct{}{}:
		default:
		}
	}
	m.Config.Pressure = m.underPressure
	m.Metrics = metrics.New(m.NodeName, func() metrics.Counts {
		if agent := m.agent.Load(); agent != nil {
			return agent.Counts()
		}
		return metrics.Counts{}
	})
	return m.groups(ctx)
}

func (m *member) close() {
	if m.tree != nil {
		if err := m.tree.Close(); err != nil {
			m.Log.Warn("closing the cgroups", "error", err)
		}
	}
	if m.runtime != nil {
		if err := m.runtime.Close(); err != nil {
			m.Log.Warn("closing the connection to the runtime", "error", err)
		}
	}
	if m.door != nil {
		if err := m.door.Close(); err != nil {
			m.Log.Warn("closing the connection to the API server", "error", err)
		}
	}
}

func (m *member) connect() (*cluster.Connection, error) {
	k := m.kubelet
	c := cluster.Options{Kubeconfig: m.kubeconfig, UserAgent: "shimlet/" + version, Burst: int(k.KubeAPIBurst), EventBurst: int(k.EventBurst)}
	if k.KubeAPIQPS != nil {
		c.QPS = float32(*k.KubeAPIQPS)
	}
	if k.EventRecordQPS != nil {
		c.EventQPS = float32(*k.EventRecordQPS)
		if *k.EventRecordQPS == 0 { // the kubelet's spelling of no limit
			c.EventQPS = -1
		}
	}
	return cluster.Connect(c)
}

// groups makes the cgroups of pods, with the driver that the runtime has.
func (m *member) groups(ctx context.Context) error {
	k := m.kubelet
	if k.CgroupsPerQOS != nil && !*k.CgroupsPerQOS {
		return nil
	}
	limits := qos.Limits{Quota: k.CPUCFSQuota == nil || *k.CPUCFSQuota, Period: 100000}
	if k.CPUCFSQuotaPeriod != nil {
		limits.Period = uint64(k.CPUCFSQuotaPeriod.Duration / time.Microsecond)
	}
	if k.PodPidsLimit != nil {
		limits.Pids = *k.PodPidsLimit
	}
	tree, err := qos.Open(ctx, qos.Config{
		Driver: m.driver(ctx), Root: m.cgroupRoot, Allocatable: m.forPods(), Limits: limits, Log: m.Log,
	})
	if err != nil {
		return err
	}
	m.tree, m.Cgroups = tree, tree
	return nil
}

// driver is the runtime's word, as the kubelet has it: the configuration's counts when the runtime says nothing.
func (m *member) driver(ctx context.Context) string {
	const patience = 10 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := m.runtime.Version(ctx); err != nil { // waits for one that is just starting
		m.Log.Warn("the container runtime does not answer yet", "error", err)
	}
	driver, err := m.runtime.CgroupDriver(ctx)
	if err != nil {
		m.Log.Warn("the runtime does not tell its cgroup driver; the configuration's is used", "driver", m.kubelet.CgroupDriver, "error", err)
		return m.kubelet.CgroupDriver
	}
	return driver
}

// follow tells the runtime the addresses of the node's pods whenever they, or the runtime, may have changed.
func (m *member) follow(ctx context.Context, cri register.CRI, registration *register.Registration) {
	const again = time.Second
	told := ""
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.changed:
		case <-retry:
		}
		retry = nil
		registration.Look()
		n, err := m.door.Node()
		if err != nil {
			continue // the change to the first word about it comes here again
		}
		cidrs := register.PodCIDRs(n)
		if cidrs == "" {
			continue
		}
		if err := cri.SetPodCIDR(ctx, cidrs); err != nil && ctx.Err() == nil {
			m.Log.Warn("the network of pods", "error", err)
			retry = time.After(again)
		} else if told != cidrs {
			told = cidrs
			m.Log.Info("the runtime knows the addresses of pods", "cidrs", cidrs)
		}
	}
}

// pairs reads KEY=VALUE,...
func pairs(text string) (map[string]string, error) {
	found := map[string]string{}
	for part := range strings.SplitSeq(text, ",") {
		if part == "" {
			continue
		}
		key, value, ok := strings.Cut(part, "=")
		if !ok {
			return nil, fmt.Errorf("%q is not KEY=VALUE: %w", part, errdefs.ErrInvalidArgument)
		}
		found[key] = value
	}
	return found, nil
}
