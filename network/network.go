// Package network connects pod sandboxes to the network and publishes their host ports.
//
// It has two backends behind one interface: a built-in bridge network made by netlink and nftables in process, and CNI
// plugins run by libcni. It knows a sandbox as an ID and a network namespace, and nothing of containers or CRI.
package network

import (
	"context"

	"github.com/shimd/shimd/network/attachment"
)

// What both backends see is defined below them, in attachment.
type (
	// Request asks to attach one sandbox.
	Request = attachment.Request
	// PortMapping is a sandbox's port that is published on the host.
	PortMapping = attachment.PortMapping
	// DNS is the pod's resolver configuration, for the CNI capability "dns".
	DNS = attachment.DNS
	// Result is what a sandbox got.
	Result = attachment.Result
)

// Network attaches sandboxes. All methods may run at the same time for different sandboxes; for one sandbox the caller
// serializes them.
//
// Errors are of the kinds of github.com/containerd/errdefs: ErrUnavailable when the network is not configured or a plugin is missing,
// ErrInvalidArgument for a request that cannot be, ErrAlreadyExists for a host port in use by another sandbox, ErrResourceExhausted when
// the pod CIDR has no address left.
type Network interface {
	// Attach gives the sandbox its interfaces, lo included, addresses, routes and host ports. Intent is recorded
	// before anything is attached. It is idempotent: attaching again what is attached answers the same result. What fails half-way is undone
	// by the caller's Detach.
	Attach(ctx context.Context, req Request) (Result, error)
	// Detach undoes Attach, whole or half done, and releases the addresses. It is idempotent and works when the
	// network namespace is already gone. The caller closes the namespace itself right after; Detach need not delete what dies with it.
	Detach(ctx context.Context, id, netNSPath string) error
	// Ready says whether a sandbox could be attached now: nil, or the reason in words for an operator.
	Ready(ctx context.Context) error
	// SetPodCIDR takes the CIDRs (one or two, comma separated) that the client wants addresses from; "" changes nothing.
	SetPodCIDR(cidr string) error
	// Reconcile releases what belongs to sandboxes that are not in live: called once at the daemon's start.
	Reconcile(ctx context.Context, live []string) error
	// Info describes configuration and state for verbose Status answers; it survives JSON.
	Info() any
	// Uninstall removes what the network has set up on the machine beside the sandboxes' own: bridge, firewall table, state. No sandbox may
	// be attached.
	Uninstall(ctx context.Context) error
	// Close lets go of sockets and watches; nothing is detached.
	Close() error
}
