package bridge

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/network/attachment"
	"github.com/shimd/shimd/network/rtnl"
)

// Attach connects a sandbox:
//
//  1. reserve addresses and host ports, in memory
//  2. record them
//  3. make what all sandboxes share, the first time
//  4. create the veth, and addresses and routes inside
//  5. limit bandwidth, publish host ports
//
// Every step may be done again. What fails half-way is undone by Detach.
func (n *Network) Attach(ctx context.Context, req attachment.Request) (attachment.Result, error) {
	if err := attachment.CheckID(req.ID); err != nil {
		return attachment.Result{}, err
	}
	bandwidth, err := attachment.BandwidthOf(req.Annotations)
	if err != nil {
		return attachment.Result{}, err
	}
	ns, err := rtnl.OpenNamespace(req.NetNSPath)
	if err != nil {
		return attachment.Result{}, fmt.Errorf("network namespace of sandbox %s: %w: %w", req.ID, err, errdefs.ErrInvalidArgument)
	}
	defer ns.Close()
	s, err := n.socket()
	if err != nil {
		return attachment.Result{}, err
	}
	defer n.giveBack(s)
	if err := n.chooseDefault(s); err != nil {
		return attachment.Result{}, err
	}

	sb, err := n.reserve(req, bandwidth)
	if err != nil {
		return attachment.Result{}, err
	}
	index, err := n.ensure(ctx, s)
	if err != nil {
		return attachment.Result{}, err
	}
	if err := ctx.Err(); err != nil {
		return attachment.Result{}, fmt.Errorf("attaching sandbox %s: %w", req.ID, err)
	}
	if err := n.connect(s, ns, index, &sb.record); err != nil {
		return attachment.Result{}, err
	}
	if err := n.limitBandwidth(req.ID, sb.Bandwidth); err != nil {
		return attachment.Result{}, err
	}
	if err := n.publish(sb.bindings); err != nil {
		return attachment.Result{}, err
	}
	return sb.result(), nil
}

// reserve answers the sandbox that is known by this ID or makes one, in memory and as a record.
func (n *Network) reserve(req attachment.Request, bandwidth attachment.Bandwidth) (*sandbox, error) {
	sb, known, err := n.allocate(req, bandwidth)
	if err != nil || known {
		return sb, err
	}
	if err := n.records.Write(&sb.record); err != nil {
		n.release(sb)
		return nil, err
	}
	return sb, nil
}

func (n *Network) allocate(req attachment.Request, bandwidth attachment.Bandwidth) (sb *sandbox, known bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if sb := n.sandboxes[req.ID]; sb != nil {
		if sb.NetNSPath != req.NetNSPath || !slices.Equal(sb.Ports, req.PortMappings) {
			return nil, true, fmt.Errorf("sandbox %s is attached already with network namespace %s and %d host ports; detach it first: %w", req.ID, sb.NetNSPath, len(sb.Ports), errdefs.ErrAlreadyExists)
		}
		return sb, true, nil
	}
	sb = &sandbox{record: record{ID: req.ID, NetNSPath: req.NetNSPath, Ports: req.PortMappings, Bandwidth: bandwidth}}
	for i, p := range n.pools {
		a, err := p.allocate(req.ID)
		if err != nil {
			n.freeAddresses(&sb.record, n.pools[:i])
			return nil, false, err
		}
		sb.Addresses = append(sb.Addresses, netip.PrefixFrom(a, p.prefix.Bits()))
		sb.Gateways = append(sb.Gateways, p.gateway().Addr())
	}
	sb.bindings, err = bindings(req.PortMappings, sb.Addresses)
	if err == nil {
		err = n.ports.conflict(req.ID, sb.bindings)
	}
	if err != nil {
		n.freeAddresses(&sb.record, n.pools)
		return nil, false, err
	}
	n.ports.take(req.ID, sb.bindings)
	n.sandboxes[req.ID] = sb
	return sb, false, nil
}

func (n *Network) freeAddresses(r *record, pools []*pool) {
	for _, p := range pools {
		for _, a := range r.Addresses {
			p.release(a.Addr(), r.ID)
		}
	}
}

// release forgets a sandbox.
func (n *Network) release(sb *sandbox) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.freeAddresses(&sb.record, n.pools)
	n.ports.release(sb.ID, sb.bindings)
	delete(n.sandboxes, sb.ID)
}

// connect makes the veth and sets up the inside of the namespace.
func (n *Network) connect(s *rtnl.Socket, ns *os.File, bridge int, r *record) error {
	name := n.vethName(r.ID)
	steps := vethSteps(name, bridge, n.mtu, macOf(r.Addresses[0].Addr()), ns)
	created := s.Do(steps...)
	if created != nil && !errors.Is(created, unix.EEXIST) {
		return fmt.Errorf("connecting sandbox %s: %w", r.ID, created)
	}
	if err := ignoreRouterAdvertisements(name); err != nil {
		return fmt.Errorf("connecting sandbox %s: %w", r.ID, err)
	}
	inside, index, err := enter(ns)
	if errors.Is(err, unix.ENODEV) && created != nil {
		// The host's end is there, but its peer is not in this namespace: something else uses our name, or a crash left it.
		if err := s.Do(append([]rtnl.Step{deleteLinkStep(name)}, steps...)...); err != nil {
			return fmt.Errorf("connecting sandbox %s: %w", r.ID, err)
		}
		if err := ignoreRouterAdvertisements(name); err != nil {
			return fmt.Errorf("connecting sandbox %s: %w", r.ID, err)
		}
		inside, index, err = enter(ns)
	}
	if err != nil {
		return fmt.Errorf("connecting sandbox %s: %w", r.ID, err)
	}
	defer inside.Close()
	if created != nil {
		if _, err := s.Index(name); err != nil {
			return fmt.Errorf("connecting sandbox %s: its namespace has an %s that is not ours: %w", r.ID, podInterface, errdefs.ErrAlreadyExists)
		}
	}
	if err := inside.Do(podSteps(index, r)...); err != nil {
		return fmt.Errorf("setting up the inside of sandbox %s: %w", r.ID, err)
	}
	return nil
}

// enter opens a socket inside the namespace, prepares eth0 and finds its index there.
func enter(ns *os.File) (s *rtnl.Socket, index int, err error) {
	err = rtnl.Inside(ns, func() (err error) {
		if s, err = rtnl.Open(); err != nil {
			return err
		}
		if index, err = s.Index(podInterface); err == nil {
			err = quietIPv6(podInterface)
		}
		return err
	})
	if err != nil && s != nil {
		s.Close()
	}
	return s, index, err
}

// Detach releases what a sandbox has. The veth goes with the network namespace, whose last descriptor the caller closes right after:
// deleting it by a message would wait for an RCU grace period and more, 27 ms.
func (n *Network) Detach(_ context.Context, id string) error {
	n.mu.Lock()
	sb := n.sandboxes[id]
	if sb != nil {
		sb.closing = true
	}
	n.mu.Unlock()
	if sb == nil {
		return nil
	}
	err := n.unpublish(sb.bindings)
	if sb.Bandwidth.Egress != 0 {
		err = errors.Join(err, n.deleteLink(ifbName(n.vethName(id))))
	}
	if err != nil {
		return fmt.Errorf("detaching sandbox %s: %w", id, err) // still recorded: to be tried again
	}
	if err := n.records.Remove(id); err != nil {
		return err
	}
	n.release(sb)
	return nil
}

func (n *Network) deleteLink(name string) error {
	s, err := n.socket()
	if err != nil {
		return err
	}
	defer n.giveBack(s)
	return s.Do(deleteLinkStep(name))
}

// Reconcile detaches the sandboxes that are not live and removes the veths that no live one owns; then it looks after what all share,
// so that host ports that a crash kept from being published are.
func (n *Network) Reconcile(ctx context.Context, live []string) error {
	n.mu.Lock()
	var gone []string
	for id := range n.sandboxes {
		if !slices.Contains(live, id) {
			gone = append(gone, id)
		}
	}
	n.mu.Unlock()
	var errs []error
	for _, id := range gone {
		errs = append(errs, n.Detach(ctx, id))
	}
	s, err := n.socket()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	defer n.giveBack(s)
	errs = append(errs, n.removeStrays(s))
	n.mu.Lock()
	left := len(n.sandboxes)
	n.mu.Unlock()
	n.bridgeIndex.Store(0) // look at everything again: gateways of former CIDRs may have lost their last sandbox
	if left > 0 {
		_, err := n.ensure(ctx, s)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// removeStrays deletes the bridge's veths that belong to no sandbox. They are of sandboxes whose namespace something still holds.
func (n *Network) removeStrays(s *rtnl.Socket) error {
	bridge, err := s.Index(n.opts.BridgeName)
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return err
	}
	ports, err := portsOf(s, bridge)
	if err != nil {
		return err
	}
	owned := map[string]bool{}
	n.mu.Lock()
	for id := range n.sandboxes {
		owned[n.vethName(id)] = true
	}
	n.mu.Unlock()
	var steps []rtnl.Step
	for _, name := range ports {
		if !owned[name] && len(name) == len("veth")+10 && name[:4] == "veth" {
			n.log.Warn("removing a veth of a sandbox that is gone", "interface", name)
			steps = append(steps, deleteLinkStep(name))
		}
	}
	return s.Do(steps...)
}
