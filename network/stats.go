package network

import (
	"encoding/binary"
	"fmt"
	"os"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/network/rtnl"
)

// InterfaceStats are the counters of an interface since it was made.
type InterfaceStats struct {
	Name                 string
	RxBytes, TxBytes     uint64
	RxPackets, TxPackets uint64
	RxErrors, TxErrors   uint64
	RxDropped, TxDropped uint64
}

// Interfaces reads the counters of the interfaces in a network namespace, lo included, in the order of their indexes. The daemon's threads stay
// where they are.
func Interfaces(netns *os.File) ([]InterfaceStats, error) {
	s, err := rtnl.OpenAt(netns)
	if err != nil {
		return nil, fmt.Errorf("reading interface counters: %w", err)
	}
	defer s.Close()
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	var out []InterfaceStats
	err = s.Dump(req, func(data []byte) {
		if i, ok := parseInterface(data); ok {
			out = append(out, i)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("reading interface counters: %w", err)
	}
	return out, nil
}

// parseInterface reads an answer to RTM_GETLINK: struct ifinfomsg and attributes, among them struct rtnl_link_stats64.
func parseInterface(data []byte) (i InterfaceStats, ok bool) {
	if len(data) < unix.SizeofIfInfomsg {
		return i, false
	}
	attrs, err := nl.ParseRouteAttr(data[unix.SizeofIfInfomsg:])
	if err != nil {
		return i, false
	}
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.IFLA_IFNAME:
			i.Name = unix.ByteSliceToString(a.Value)
		case unix.IFLA_STATS64:
			for n, field := range []*uint64{&i.RxPackets, &i.TxPackets, &i.RxBytes, &i.TxBytes, &i.RxErrors, &i.TxErrors, &i.RxDropped, &i.TxDropped} {
				if len(a.Value) >= 8*(n+1) {
					*field = binary.NativeEndian.Uint64(a.Value[8*n:])
				}
			}
		}
	}
	return i, i.Name != ""
}
