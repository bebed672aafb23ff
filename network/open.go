package network

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/shimd/shimd/network/bridge"
	"github.com/shimd/shimd/network/cni"
)

// DefaultStateDir is the state directory of a machine's only daemon, whose bridge and nftables table have the plain names.
const DefaultStateDir = "/run/shimd/network"

// Options configure the network. The zero value of a field is its default.
type Options struct {
	StateDir    string   // on tmpfs, of this package alone; must be given
	CNIConfDir  string   // "": no CNI
	CNIBinDirs  []string // /opt/cni/bin and /usr/lib/cni
	CNICacheDir string   // StateDir/cni/cache
	PodCIDR     string   // of the built-in network: one or two, comma separated; "": one that is free here; FromClient: what SetPodCIDR says
	BridgeName  string   // shimd0; for another StateDir than the default, a name derived from that
	TableName   string   // of nftables; likewise
	MTU         int      // 0: that of the machine's default route
	NoIPMasq    bool     // do not masquerade what pods send to places outside of the pod CIDR
	Logger      *slog.Logger
}

// Open opens the network: CNI while the configuration directory has any, else the built-in bridge. Both are open all the time, since configuration may appear and vanish;
// a sandbox stays with what attached it. Nothing of the machine's network is touched until the first sandbox is attached.
func Open(_ context.Context, opts Options) (Network, error) {
	if opts.StateDir == "" {
		return nil, errors.New("opening the network: no state directory was given")
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if len(opts.CNIBinDirs) == 0 {
		opts.CNIBinDirs = []string{"/opt/cni/bin", "/usr/lib/cni"}
	}
	if opts.CNICacheDir == "" {
		opts.CNICacheDir = filepath.Join(opts.StateDir, "cni", "cache")
	}
	name, table := names(opts.StateDir)
	if opts.BridgeName == "" {
		opts.BridgeName = name
	}
	if opts.TableName == "" {
		opts.TableName = table
	}
	await := opts.PodCIDR == FromClient
	if await {
		opts.PodCIDR = ""
	}
	b, err := bridge.Open(bridge.Options{
		StateDir: filepath.Join(opts.StateDir, "bridge"), BridgeName: opts.BridgeName, TableName: opts.TableName,
		PodCIDR: opts.PodCIDR, AwaitCIDR: await, MTU: opts.MTU, Masquerade: !opts.NoIPMasq, Logger: opts.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("opening the built-in network: %w", err)
	}
	n := &network{bridge: b}
	if n.cni, err = cni.Open(cni.Options{
		StateDir: filepath.Join(opts.StateDir, "cni"), ConfDir: opts.CNIConfDir, BinDirs: opts.CNIBinDirs,
		CacheDir: opts.CNICacheDir, Logger: opts.Logger,
	}); err != nil {
		return nil, errors.Join(fmt.Errorf("opening CNI: %w", err), b.Close())
	}
	return n, nil
}

// FromClient as Options.PodCIDR makes sandboxes wait for the client's pod CIDR.
const FromClient = "client"

// names derives the names of bridge and table from the state directory, so that daemons side by side do not take each other's.
func names(stateDir string) (bridgeName, table string) {
	if filepath.Clean(stateDir) == DefaultStateDir {
		return bridge.DefaultBridge, bridge.DefaultTable
	}
	sum := sha256.Sum256([]byte(filepath.Clean(stateDir)))
	tag := hex.EncodeToString(sum[:4])
	return "shimd" + tag, bridge.DefaultTable + "_" + tag
}

// network is the choice between the two backends.
type network struct {
	cni    *cni.Network
	bridge *bridge.Network
}

func (n *network) Attach(ctx context.Context, req Request) (Result, error) {
	switch {
	case n.cni.Has(req.ID):
		return n.cni.Attach(ctx, req)
	case n.bridge.Has(req.ID), !n.cni.Configured():
		return n.bridge.Attach(ctx, req)
	}
	return n.cni.Attach(ctx, req)
}

func (n *network) Detach(ctx context.Context, id, _ string) error {
	return errors.Join(n.cni.Detach(ctx, id), n.bridge.Detach(ctx, id))
}

func (n *network) Ready(ctx context.Context) error {
	if n.cni.Configured() {
		return n.cni.Ready(ctx)
	}
	return n.bridge.Ready(ctx)
}

func (n *network) SetPodCIDR(cidr string) error { return n.bridge.SetPodCIDR(cidr) }

func (n *network) Reconcile(ctx context.Context, live []string) error {
	return errors.Join(n.cni.Reconcile(ctx, live), n.bridge.Reconcile(ctx, live))
}

// Info is what Network.Info answers.
type Info struct {
	Serving string      `json:"serving"` // "cni" or "bridge": what the next sandbox is attached by
	CNI     cni.Info    `json:"cni"`
	Bridge  bridge.Info `json:"bridge"`
}

func (n *network) Info() any {
	info := Info{"bridge", n.cni.Info(), n.bridge.Info()}
	if n.cni.Configured() {
		info.Serving = "cni"
	}
	return info
}

func (n *network) Uninstall(ctx context.Context) error { return n.bridge.Uninstall(ctx) }

func (n *network) Close() error { return errors.Join(n.cni.Close(), n.bridge.Close()) }
