package cni

import (
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/shimd/shimd/network/attachment"
)

// maxAddresses bounds what a plugin may claim that one sandbox has.
const maxAddresses = 64

// addresses reads a plugin's result: those of the sandbox's eth0 first; addresses that name no interface, as of older
// plugins, count as eth0's. Others, of further interfaces or of the host's side, are no addresses of the pod.
func addresses(result types.Result) (attachment.Result, error) {
	r, err := types100.GetResult(result)
	if err != nil {
		return attachment.Result{}, fmt.Errorf("reading the CNI result: %w", err)
	}
	if len(r.IPs) > maxAddresses {
		return attachment.Result{}, fmt.Errorf("reading the CNI result: it has %d addresses: %w", len(r.IPs), errdefs.ErrInvalidArgument)
	}
	var res attachment.Result
	for _, ip := range r.IPs {
		if ip == nil {
			continue
		}
		if ip.Interface != nil {
			i := *ip.Interface
			if i < 0 || i >= len(r.Interfaces) || r.Interfaces[i] == nil {
				return attachment.Result{}, fmt.Errorf("reading the CNI result: address %s is of interface %d, and there are %d: %w", ip.Address.IP, i, len(r.Interfaces), errdefs.ErrInvalidArgument)
			}
			if f := r.Interfaces[i]; f.Name != podInterface || f.Sandbox == "" {
				continue
			}
		}
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok || addr.IsUnspecified() {
			return attachment.Result{}, fmt.Errorf("reading the CNI result: %q is no address: %w", ip.Address.IP, errdefs.ErrInvalidArgument)
		}
		res.IPs = append(res.IPs, addr.Unmap())
	}
	if len(res.IPs) == 0 {
		return attachment.Result{}, fmt.Errorf("the CNI plugins gave %s no address: %w", podInterface, errdefs.ErrUnavailable)
	}
	return res, nil
}
