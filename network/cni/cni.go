// Package cni attaches sandboxes by CNI plugins, through libcni.
//
// Inside belongs reading the configuration directory, running plugins under deadlines, and remembering which configuration attached which
// sandbox. What a plugin does is its own.
package cni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/shimd/shimd/network/attachment"
	"github.com/shimd/shimd/network/records"
	"github.com/shimd/shimd/network/rtnl"
)

// The deadlines of one operation over all plugins. DEL has one of its own, since the caller's is often over when what it asked for is undone.
const (
	addTimeout    = 2 * time.Minute
	delTimeout    = 1 * time.Minute
	statusTimeout = 10 * time.Second
	gcTimeout     = 1 * time.Minute
	statusHolds   = 10 * time.Second // how long a good STATUS is believed: the client asks every 5 seconds, and each answer costs processes
)

// Options configure the network.
type Options struct {
	ConfDir  string
	BinDirs  []string
	CacheDir string // of libcni: results and configurations; of this daemon alone
	StateDir string // on tmpfs, of this package alone
	Logger   *slog.Logger
	// Deadlines that differ from the defaults, for tests.
	AddTimeout, DelTimeout time.Duration
}

// Network attaches sandboxes by plugins.
type Network struct {
	opts  Options
	log   *slog.Logger
	lib   *libcni.CNIConfig
	store *records.Store[record]
	watch *watch

	mu        sync.Mutex
	conf      configuration
	records   map[string]*record
	statusFor *libcni.NetworkConfigList // what the last good STATUS was about
	statusAt  time.Time
}

// Open reads records and configuration and begins to watch the directory, which need not exist yet.
func Open(opts Options) (*Network, error) {
	opts.AddTimeout = cmp.Or(opts.AddTimeout, addTimeout)
	opts.DelTimeout = cmp.Or(opts.DelTimeout, delTimeout)
	n := &Network{
		opts: opts, log: opts.Logger, store: newStore(opts.StateDir), records: map[string]*record{},
		lib: libcni.NewCNIConfigWithCacheDir(opts.BinDirs, opts.CacheDir, &runner{}),
	}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(n.store.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the CNI state directory: %w", err)
	}
	recorded, broken, err := n.store.Load()
	if err != nil {
		return nil, err
	}
	for _, err := range broken {
		n.log.Error("a sandbox's CNI record can't be read; its plugins will not be told that it ended", "error", err)
	}
	for _, r := range recorded {
		n.records[r.Request.ID] = r
	}
	n.watch = startWatch(opts.ConfDir, n.log)
	n.current()
	return n, nil
}

// current answers the configuration of now: read again only if the watch saw a change.
func (n *Network) current() configuration {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.watch.changed() {
		return n.conf
	}
	before := n.conf
	n.conf = readDir(n.opts.ConfDir)
	n.statusFor = nil
	for _, err := range n.conf.broken {
		n.log.Warn("ignoring a CNI configuration file", "error", err)
	}
	if n.conf.path != before.path {
		n.log.Info("CNI configuration", "file", n.conf.path, "before", before.path)
	}
	return n.conf
}

// Configured says whether the directory holds any configuration, even if none can be used: then the operator wants CNI, and
// falling back to something else would hide the mistake.
func (n *Network) Configured() bool { return len(n.current().files) > 0 }

// Has says whether the sandbox was attached, whole or half, by CNI.
func (n *Network) Has(id string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.records[id] != nil
}

// Attach runs ADD of all plugins.
func (n *Network) Attach(ctx context.Context, req attachment.Request) (attachment.Result, error) {
	if err := attachment.CheckID(req.ID); err != nil {
		return attachment.Result{}, err
	}
	rt, err := runtimeConf(req)
	if err != nil {
		return attachment.Result{}, err
	}
	r, list, err := n.record(req)
	if err != nil {
		return attachment.Result{}, err
	}
	if len(r.IPs) > 0 {
		return attachment.Result{IPs: slices.Clone(r.IPs)}, nil
	}
	if err := n.findPlugins(list); err != nil {
		return attachment.Result{}, err
	}
	if err := loopback(req.NetNSPath); err != nil {
		return attachment.Result{}, fmt.Errorf("sandbox %s: %w", req.ID, err)
	}
	ctx, cancel := context.WithTimeout(ctx, n.opts.AddTimeout)
	defer cancel()
	result, err := n.lib.AddNetworkList(ctx, list, rt)
	if err != nil {
		return attachment.Result{}, fmt.Errorf("attaching sandbox %s by CNI network %s: %w", req.ID, list.Name, kindOf(err))
	}
	res, err := addresses(result)
	if err != nil {
		return attachment.Result{}, fmt.Errorf("attaching sandbox %s by CNI network %s: %w", req.ID, list.Name, err)
	}
	done := *r
	done.IPs = slices.Clone(res.IPs)
	if err := n.store.Write(&done); err != nil {
		return attachment.Result{}, err
	}
	n.mu.Lock()
	n.records[req.ID] = &done
	n.mu.Unlock()
	return res, nil
}

// record answers the sandbox's record and the configuration to attach it with, new ones or those of an attempt before.
func (n *Network) record(req attachment.Request) (*record, *libcni.NetworkConfigList, error) {
	conf := n.current()
	n.mu.Lock()
	defer n.mu.Unlock()
	if r := n.records[req.ID]; r != nil {
		if r.Request.NetNSPath != req.NetNSPath {
			return nil, nil, fmt.Errorf("sandbox %s is attached already with network namespace %s; detach it first: %w", req.ID, r.Request.NetNSPath, errdefs.ErrAlreadyExists)
		}
		list, err := r.list()
		return r, list, err
	}
	if err := conf.err(n.opts.ConfDir); err != nil {
		return nil, nil, err
	}
	for id, other := range n.records {
		for _, a := range hostPorts(other.Request.PortMappings) {
			for _, b := range hostPorts(req.PortMappings) {
				if conflict(a, b) {
					return nil, nil, fmt.Errorf("host port %d/%s is in use by sandbox %s: %w", b.HostPort, b.Protocol, id, errdefs.ErrAlreadyExists)
				}
			}
		}
	}
	r := newRecord(req, conf.list)
	if err := n.store.Write(r); err != nil {
		return nil, nil, err
	}
	n.records[req.ID] = r
	return r, conf.list, nil
}

// loopback brings lo up, which others run a plugin for.
func loopback(path string) error {
	ns, err := rtnl.OpenNamespace(path)
	if err != nil {
		return fmt.Errorf("network namespace: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	defer ns.Close()
	s, err := rtnl.OpenAt(ns)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Do(rtnl.LoopbackUp())
}

func (n *Network) findPlugins(list *libcni.NetworkConfigList) error {
	for _, p := range list.Plugins {
		if _, err := (&runner{}).FindInPath(p.Network.Type, n.opts.BinDirs); err != nil {
			return fmt.Errorf("CNI plugin %q of network %s is in none of %v: install it there: %w", p.Network.Type, list.Name, n.opts.BinDirs, errdefs.ErrUnavailable)
		}
	}
	return nil
}

// kindOf adds the kind to what a plugin reported.
func kindOf(err error) error {
	var e *types.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &e) && (e.Code == types.ErrInvalidNetworkConfig || e.Code == types.ErrUnsupportedField || e.Code == types.ErrIncompatibleCNIVersion):
		return fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
}

// Detach runs DEL of all plugins, with the configuration that the sandbox was attached with.
func (n *Network) Detach(ctx context.Context, id string) error {
	n.mu.Lock()
	r := n.records[id]
	n.mu.Unlock()
	if r == nil {
		return nil
	}
	list, err := r.list()
	if err != nil {
		return fmt.Errorf("detaching sandbox %s: its CNI configuration: %w", id, err)
	}
	rt, err := runtimeConf(r.Request)
	if err != nil {
		return fmt.Errorf("detaching sandbox %s: %w", id, err)
	}
	if ns, err := rtnl.OpenNamespace(r.Request.NetNSPath); err != nil {
		rt.NetNS = "" // as the specification has it: release what is not inside
	} else {
		ns.Close()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.opts.DelTimeout)
	defer cancel()
	if err := n.lib.DelNetworkList(ctx, list, rt); err != nil {
		return fmt.Errorf("detaching sandbox %s by CNI network %s: %w", id, list.Name, kindOf(err))
	}
	if err := n.store.Remove(id); err != nil {
		return err
	}
	n.mu.Lock()
	delete(n.records, id)
	n.mu.Unlock()
	return nil
}

// Ready says whether there is a configuration whose plugins are there and, from CNI 1.1 on, say themselves that they are ready.
func (n *Network) Ready(ctx context.Context) error {
	conf := n.current()
	if err := conf.err(n.opts.ConfDir); err != nil {
		return err
	}
	if err := n.findPlugins(conf.list); err != nil {
		return err
	}
	if ok, err := version.GreaterThanOrEqualTo(conf.list.CNIVersion, "1.1.0"); err != nil || !ok {
		return nil
	}
	n.mu.Lock()
	fresh := n.statusFor == conf.list && time.Since(n.statusAt) < statusHolds
	n.mu.Unlock()
	if fresh {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	if err := n.lib.GetStatusNetworkList(ctx, conf.list); err != nil {
		return fmt.Errorf("CNI network %s (%s) is not ready: %w: %w", conf.list.Name, conf.path, err, errdefs.ErrUnavailable)
	}
	n.mu.Lock()
	n.statusFor, n.statusAt = conf.list, time.Now()
	n.mu.Unlock()
	return nil
}

// Reconcile detaches what is not live and lets plugins that can (CNI 1.1) collect what they lost track of. By the specification a network's name
// belongs to one runtime; "disableGC" in the configuration says otherwise.
func (n *Network) Reconcile(ctx context.Context, live []string) error {
	n.mu.Lock()
	ids := slices.Sorted(maps.Keys(n.records))
	n.mu.Unlock()
	var errs []error
	args := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}
	for _, id := range ids {
		if slices.Contains(live, id) {
			args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: id, IfName: podInterface})
			continue
		}
		errs = append(errs, n.Detach(ctx, id))
	}
	conf := n.current()
	if conf.list == nil || n.findPlugins(conf.list) != nil {
		return errors.Join(errs...)
	}
	if ok, err := version.GreaterThanOrEqualTo(conf.list.CNIVersion, "1.1.0"); err != nil || !ok {
		return errors.Join(errs...)
	}
	ctx, cancel := context.WithTimeout(ctx, gcTimeout)
	defer cancel()
	if err := n.lib.GCNetworkList(ctx, conf.list, args); err != nil {
		errs = append(errs, fmt.Errorf("collecting garbage of CNI network %s: %w", conf.list.Name, err))
	}
	return errors.Join(errs...)
}

// Info describes the network for an operator.
type Info struct {
	Backend    string   `json:"backend"`
	ConfDir    string   `json:"confDir"`
	BinDirs    []string `json:"binDirs"`
	File       string   `json:"file,omitempty"`
	Network    string   `json:"network,omitempty"`
	CNIVersion string   `json:"cniVersion,omitempty"`
	Plugins    []string `json:"plugins,omitempty"`
	Ignored    []string `json:"ignored,omitempty"`
	Sandboxes  int      `json:"sandboxes"`
}

// Info answers configuration and state.
func (n *Network) Info() Info {
	conf := n.current()
	i := Info{Backend: "cni", ConfDir: n.opts.ConfDir, BinDirs: n.opts.BinDirs, File: conf.path}
	if conf.list != nil {
		i.Network, i.CNIVersion = conf.list.Name, conf.list.CNIVersion
		for _, p := range conf.list.Plugins {
			i.Plugins = append(i.Plugins, p.Network.Type)
		}
	}
	for _, err := range conf.broken {
		i.Ignored = append(i.Ignored, err.Error())
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	i.Sandboxes = len(n.records)
	return i
}

// Close ends the watch.
func (n *Network) Close() error { return n.watch.close() }
