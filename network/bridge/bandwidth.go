package bridge

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/network/attachment"
)

// limitBandwidth shapes a sandbox's traffic as the CNI bandwidth plugin does: a token bucket on the host's end for what the sandbox receives; what
// it sends is led through an ifb device of its own with another bucket.
func (n *Network) limitBandwidth(id string, b attachment.Bandwidth) error {
	if b == (attachment.Bandwidth{}) {
		return nil
	}
	name := n.vethName(id)
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("limiting bandwidth of %s: %w", name, err)
	}
	if b.Ingress != 0 {
		if err := tokenBucket(link, b.Ingress); err != nil {
			return fmt.Errorf("limiting ingress bandwidth by %s: %w", name, err)
		}
	}
	if b.Egress == 0 {
		return nil
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = ifbName(name), link.Attrs().MTU
	if err := netlink.LinkAdd(&netlink.Ifb{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("limiting egress bandwidth: creating %s: %w", attrs.Name, err)
	}
	ifb, err := netlink.LinkByName(attrs.Name)
	if err != nil {
		return fmt.Errorf("limiting egress bandwidth: %s: %w", attrs.Name, err)
	}
	if err := netlink.LinkSetUp(ifb); err != nil {
		return fmt.Errorf("limiting egress bandwidth: bringing %s up: %w", attrs.Name, err)
	}
	if err := tokenBucket(ifb, b.Egress); err != nil {
		return fmt.Errorf("limiting egress bandwidth by %s: %w", attrs.Name, err)
	}
	ingress := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS}}
	if err := netlink.QdiscReplace(ingress); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("limiting egress bandwidth: ingress queue of %s: %w", name, err)
	}
	redirect := &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: link.Attrs().Index, Parent: ingress.Handle, Priority: 1, Protocol: syscall.ETH_P_ALL},
		ClassId:     netlink.MakeHandle(1, 1),
		Actions:     []netlink.Action{netlink.NewMirredAction(ifb.Attrs().Index)},
	}
	if have, err := netlink.FilterList(link, ingress.Handle); err == nil && len(have) > 0 {
		return nil
	}
	if err := netlink.FilterAdd(redirect); err != nil {
		return fmt.Errorf("limiting egress bandwidth: leading %s through %s: %w", name, attrs.Name, err)
	}
	return nil
}

// ifbName is an egress bucket's device: the veth's name with another head.
func ifbName(veth string) string { return "bwif" + veth[len("veth"):] }

func tokenBucket(link netlink.Link, bitsPerSecond uint64) error {
	rate := bitsPerSecond / 8
	burst := bucketSize(rate)
	return netlink.QdiscReplace(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       rate,
		Buffer:     netlink.Xmittime(rate, burst),
		Limit:      uint32(min(rate/40+uint64(burst), 1<<32-1)), // what may wait: 25 ms, as in the plugin
	})
}

// bucketSize is what may pass at once, in bytes: 10 ms of the rate, but room for a few of the largest packets that segmentation offload makes, unless
// that lasts more than 200 seconds: the kernel counts the bucket in ticks of 64 ns in 32 bits.
func bucketSize(rate uint64) uint32 {
	return uint32(min(max(rate/100, min(256<<10, rate*200)), 1<<30))
}
