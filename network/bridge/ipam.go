package bridge

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
)

// A pool hands out the addresses of one CIDR in turn, so that one just released is the last to be used again: peers may still have
// connections to it, and neighbours an entry for it. It is pure; the records on disk are the truth that it is filled from.
type pool struct {
	prefix netip.Prefix
	used   map[netip.Addr]string // to the sandbox's ID
	next   netip.Addr            // where to look first
}

func newPool(prefix netip.Prefix) *pool {
	prefix = prefix.Masked()
	return &pool{prefix: prefix, used: map[netip.Addr]string{}, next: prefix.Addr().Next().Next()}
}

// gateway is the bridge's own address: the first of the CIDR.
func (p *pool) gateway() netip.Prefix {
	return netip.PrefixFrom(p.prefix.Addr().Next(), p.prefix.Bits())
}

// capacity is the number of addresses for sandboxes, without the network's, the gateway's and the broadcast address.
func (p *pool) capacity() int {
	bits := p.prefix.Addr().BitLen() - p.prefix.Bits()
	if bits > 24 {
		bits = 24 // more sandboxes than a machine can have
	}
	if p.prefix.Addr().Is4() {
		return 1<<bits - 3
	}
	return 1<<bits - 2
}

func (p *pool) allocatable(a netip.Addr) bool {
	if !p.prefix.Contains(a) || a == p.prefix.Addr() || a == p.gateway().Addr() {
		return false
	}
	return !a.Is4() || p.prefix.Contains(a.Next()) // the last one is the broadcast address
}

func (p *pool) allocate(id string) (netip.Addr, error) {
	if len(p.used) >= p.capacity() {
		return netip.Addr{}, fmt.Errorf("pod CIDR %s: all %d addresses are in use; remove sandboxes or give this node a larger CIDR: %w", p.prefix, p.capacity(), errdefs.ErrResourceExhausted)
	}
	a := p.next
	for !p.allocatable(a) || p.used[a] != "" {
		if a = a.Next(); !p.prefix.Contains(a) {
			a = p.prefix.Addr()
		}
	}
	p.used[a] = id
	p.next = a.Next()
	if !p.prefix.Contains(p.next) {
		p.next = p.prefix.Addr()
	}
	return a, nil
}

// take marks an address as used; one outside of the CIDR is of no concern.
func (p *pool) take(a netip.Addr, id string) {
	if p.allocatable(a) {
		p.used[a] = id
	}
}

func (p *pool) release(a netip.Addr, id string) {
	if p.used[a] == id {
		delete(p.used, a)
	}
}

// parseCIDRs reads one CIDR, or two of different families, comma separated.
func parseCIDRs(text string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, part := range strings.Split(text, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("pod CIDR %q: %w: %w", text, err, errdefs.ErrInvalidArgument)
		}
		if p.Addr().Is4In6() || p.Addr().IsMulticast() || p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast() {
			return nil, fmt.Errorf("pod CIDR %q: %s is not a range for pods: %w", text, p, errdefs.ErrInvalidArgument)
		}
		if p.Bits() > p.Addr().BitLen()-2 || p.Bits() < 4 {
			return nil, fmt.Errorf("pod CIDR %q: %s is too small or too large: %w", text, p, errdefs.ErrInvalidArgument)
		}
		out = append(out, p.Masked())
	}
	if len(out) > 2 || len(out) == 2 && out[0].Addr().Is4() == out[1].Addr().Is4() {
		return nil, fmt.Errorf("pod CIDR %q: give one, or one of each family: %w", text, errdefs.ErrInvalidArgument)
	}
	return out, nil
}

func joinCIDRs(cidrs []netip.Prefix) string {
	parts := make([]string, len(cidrs))
	for i, c := range cidrs {
		parts[i] = c.String()
	}
	return strings.Join(parts, ",")
}
