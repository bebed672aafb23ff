// Package bridge is the built-in network: a Linux bridge, a veth for each sandbox, addresses out of the pod CIDR, masquerading and host
// ports by nftables. All of it is done in process, by netlink; no program is run.
//
// Inside belongs what the kernel has to be told and what has to be remembered for it. What pods are, and
// other people's CNI plugins, do not.
package bridge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/network/records"
	"github.com/shimd/shimd/network/rtnl"
)

// DefaultBridge and DefaultTable are the names of a machine's only daemon.
const (
	DefaultBridge = "shimd0"
	DefaultTable  = "shimd"
)

// Options configure the network. BridgeName and TableName must differ between daemons on one machine.
type Options struct {
	StateDir   string // on tmpfs, of this package alone
	BridgeName string
	TableName  string
	PodCIDR    string // one or two, comma separated; "": a free one is chosen
	AwaitCIDR  bool   // no sandbox is attached before SetPodCIDR has been called, by this daemon's client or an earlier one's
	MTU        int    // 0: that of the machine's default route
	Masquerade bool   // what leaves the pod CIDRs
	Logger     *slog.Logger
}

// Network is the built-in network. Lock order: setup, nft, mu.
type Network struct {
	opts    Options
	log     *slog.Logger
	records *records.Store[record]
	mtu     int
	sockets chan *rtnl.Socket // idle ones

	setup       sync.Mutex   // held while the shared parts are made
	bridgeIndex atomic.Int64 // 0: the shared parts have to be looked at
	nft         struct {
		sync.Mutex
		socket  *nftSocket // nil until needed
		table   *table
		monitor *os.File
	}

	mu         sync.Mutex // held for moments, never during a system call that waits
	pools      []*pool    // one for each current CIDR
	generation int        // counts changes of pools
	sandboxes  map[string]*sandbox
	ports      owners
	sysctls    map[string]string // what had to be set
	setupError error
}

// A sandbox is a record and what follows from it.
type sandbox struct {
	record
	bindings []binding
	closing  bool // its host ports must not be restored
}

// Open reads the state that an earlier daemon left. It touches nothing of the machine's network: the bridge is made when the first sandbox
// is attached.
func Open(opts Options) (*Network, error) {
	if err := checkName(opts.BridgeName); err != nil {
		return nil, err
	}
	n := &Network{
		opts: opts, log: opts.Logger, records: newStore(opts.StateDir), mtu: opts.MTU,
		sockets: make(chan *rtnl.Socket, 4), sandboxes: map[string]*sandbox{}, ports: owners{}, sysctls: map[string]string{},
	}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	if n.mtu == 0 {
		n.mtu = uplinkMTU()
	}
	if err := os.MkdirAll(n.records.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the network's state directory: %w", err)
	}
	n.nft.table = newTable(opts.TableName)
	return n, n.restore()
}

func checkName(name string) error {
	if name == "" || len(name) >= unix.IFNAMSIZ || name == "." || name == ".." || strings.ContainsAny(name, "/: \t\n%") {
		return fmt.Errorf("bridge name %q: must be an interface name of 1 to 15 characters: %w", name, errdefs.ErrInvalidArgument)
	}
	return nil
}

// restore fills memory from the state directory and the options.
func (n *Network) restore() error {
	cidrs := n.opts.PodCIDR
	for _, file := range []string{"chosen-cidr", "pod-cidr"} { // the client's word counts more than configuration, a choice of ours less
		b, err := os.ReadFile(filepath.Join(n.opts.StateDir, file))
		switch {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("reading the pod CIDR: %w", err)
		case err == nil && (file == "pod-cidr" || cidrs == "" && !n.opts.AwaitCIDR):
			if _, err := parseCIDRs(string(b)); err != nil {
				n.log.Warn("ignoring what was recorded as the pod CIDR", "file", file, "error", err)
				continue
			}
			cidrs = string(b)
		}
	}
	recorded, broken, err := n.records.Load()
	if err != nil {
		return err
	}
	for _, err := range broken {
		n.log.Error("a sandbox's network record can't be read; its address may be given again while it still runs", "error", err)
	}
	for _, r := range recorded {
		bs, err := bindings(r.Ports, r.Addresses)
		if err != nil {
			n.log.Error("a sandbox's recorded host ports make no sense", "sandbox", r.ID, "error", err)
		}
		n.sandboxes[r.ID] = &sandbox{record: *r, bindings: bs}
		n.ports.take(r.ID, bs)
	}
	if cidrs == "" {
		return nil
	}
	parsed, err := parseCIDRs(cidrs)
	if err == nil {
		n.setPools(parsed)
	}
	return err
}

// setPools makes these the CIDRs for new sandboxes. n.mu is held, or nobody else has n yet.
func (n *Network) setPools(cidrs []netip.Prefix) {
	n.pools = nil
	for _, c := range cidrs {
		p := newPool(c)
		for id, sb := range n.sandboxes {
			for _, a := range sb.Addresses {
				p.take(a.Addr(), id)
				if p.used[a.Addr()] == id && !a.Addr().Less(p.next) {
					p.next = a.Addr().Next()
				}
			}
		}
		if !p.prefix.Contains(p.next) {
			p.next = p.prefix.Addr()
		}
		n.pools = append(n.pools, p)
	}
	n.generation++
	n.bridgeIndex.Store(0)
}

// SetPodCIDR replaces the CIDRs for new sandboxes; those that are attached keep their addresses. It is remembered for the next daemon. From then on
// the machine is a node of a network of nodes, which routes for the pods of others (node ports) also while it has none.
func (n *Network) SetPodCIDR(cidr string) error {
	if cidr == "" {
		return nil
	}
	parsed, err := parseCIDRs(cidr)
	if err != nil {
		return err
	}
	if err := n.recordCIDR(parsed); err != nil {
		return err
	}
	if err := n.enableForwarding(families(parsed)); err != nil {
		n.log.Warn("this node does not route for others' pods", "error", err) // its own will fail, and say so
	}
	return nil
}

func (n *Network) recordCIDR(parsed []netip.Prefix) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	current := make([]netip.Prefix, 0, 2)
	for _, p := range n.pools {
		current = append(current, p.prefix)
	}
	if err := records.WriteWhole(filepath.Join(n.opts.StateDir, "pod-cidr"), []byte(joinCIDRs(parsed))); err != nil {
		return fmt.Errorf("recording the pod CIDR: %w", err)
	}
	if !slices.Equal(current, parsed) {
		n.log.Info("new pod CIDR", "cidr", joinCIDRs(parsed), "before", joinCIDRs(current))
		n.setPools(parsed)
	}
	return nil
}

var errNoCIDR = fmt.Errorf("the client has not sent a pod CIDR yet, and network.pod_cidr says to wait for it: %w", errdefs.ErrUnavailable)

// chooseDefault makes sure that there is a CIDR. The choice is late, so that it sees the routes of daemons that
// were started beside this one.
func (n *Network) chooseDefault(s *rtnl.Socket) error {
	n.mu.Lock()
	chosen := len(n.pools) > 0
	n.mu.Unlock()
	if chosen {
		return nil
	}
	if n.opts.AwaitCIDR {
		return errNoCIDR
	}
	own, _ := s.Index(n.opts.BridgeName)
	taken, err := routed(s, own)
	if err != nil {
		return err
	}
	cidrs, err := chooseCIDRs(n.opts.BridgeName, taken, ipv6Enabled())
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.pools) > 0 {
		return nil
	}
	if err := records.WriteWhole(filepath.Join(n.opts.StateDir, "chosen-cidr"), []byte(joinCIDRs(cidrs))); err != nil {
		return fmt.Errorf("recording the pod CIDR: %w", err)
	}
	n.log.Info("no pod CIDR was configured; chose one", "cidr", joinCIDRs(cidrs))
	n.setPools(cidrs)
	return nil
}

// socket takes an idle socket or opens one; giveBack returns it.
func (n *Network) socket() (*rtnl.Socket, error) {
	select {
	case s := <-n.sockets:
		return s, nil
	default:
		return rtnl.Open()
	}
}

func (n *Network) giveBack(s *rtnl.Socket) {
	select {
	case n.sockets <- s:
	default:
		s.Close()
	}
}

// Has says whether the sandbox was attached, whole or half, by this network.
func (n *Network) Has(id string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sandboxes[id] != nil
}

// Ready says whether a sandbox could be attached. What failed last is tried again, or it would stay so until the next sandbox.
func (n *Network) Ready(ctx context.Context) error {
	n.mu.Lock()
	failed, waiting := n.setupError, n.opts.AwaitCIDR && len(n.pools) == 0
	n.mu.Unlock()
	if waiting {
		return errNoCIDR
	}
	if failed == nil {
		return nil
	}
	s, err := n.socket()
	if err != nil {
		return err
	}
	defer n.giveBack(s)
	_, err = n.ensure(ctx, s)
	return err
}

// installTable puts the whole nftables table in place, as the records say.
func (n *Network) installTable() error {
	n.nft.Lock()
	defer n.nft.Unlock()
	n.mu.Lock()
	var cidrs []netip.Prefix
	include := func(p netip.Prefix) {
		// Sets of intervals refuse overlaps. CIDRs overlap only by holding one another.
		if slices.ContainsFunc(cidrs, func(c netip.Prefix) bool { return c.Overlaps(p) && c.Bits() <= p.Bits() }) {
			return
		}
		cidrs = append(slices.DeleteFunc(cidrs, p.Overlaps), p)
	}
	for _, p := range n.pools {
		include(p.prefix)
	}
	var elements []element
	for _, sb := range n.sandboxes {
		for _, a := range sb.Addresses {
			include(a.Masked())
		}
		if !sb.closing {
			elements = append(elements, n.nft.table.elements(sb.bindings)...)
		}
	}
	n.mu.Unlock()
	if err := n.startMonitor(); err != nil {
		return err
	}
	if err := n.transact(func(c *nftables.Conn) error {
		return n.nft.table.install(c, n.opts.BridgeName, n.opts.Masquerade, cidrs, elements)
	}); err != nil {
		return fmt.Errorf("installing nftables table inet %s: %w: %w", n.opts.TableName, err, errdefs.ErrUnavailable)
	}
	return nil
}

// Info describes the network for an operator.
type Info struct {
	Backend    string            `json:"backend"`
	Bridge     string            `json:"bridge"`
	Table      string            `json:"nftablesTable"`
	PodCIDRs   []string          `json:"podCIDRs"`
	MTU        int               `json:"mtu"`
	Masquerade bool              `json:"masquerade"`
	Sandboxes  int               `json:"sandboxes"`
	Sysctls    map[string]string `json:"sysctlsSet"`
	Error      string            `json:"error,omitempty"`
}

// Info answers configuration and state.
func (n *Network) Info() Info {
	n.mu.Lock()
	defer n.mu.Unlock()
	i := Info{Backend: "bridge", Bridge: n.opts.BridgeName, Table: n.opts.TableName, MTU: n.mtu, Masquerade: n.opts.Masquerade, Sandboxes: len(n.sandboxes), Sysctls: map[string]string{}}
	for _, p := range n.pools {
		i.PodCIDRs = append(i.PodCIDRs, p.prefix.String())
	}
	for k, v := range n.sysctls {
		i.Sysctls[k] = v
	}
	if n.setupError != nil {
		i.Error = n.setupError.Error()
	}
	return i
}

// Close lets go of the sockets. Nothing is detached.
func (n *Network) Close() error {
	for {
		select {
		case s := <-n.sockets:
			s.Close()
		default:
			return n.closeNFT()
		}
	}
}
