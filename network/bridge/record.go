package bridge

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/shimd/shimd/network/attachment"
	"github.com/shimd/shimd/network/records"
)

// A record says what a sandbox has or is about to get. It is written, whole and renamed, before anything of it exists, on a
// file system that lives as long as the boot: no fsync.
type record struct {
	ID        string
	NetNSPath string
	Addresses []netip.Prefix // with the prefix length of the CIDR
	Gateways  []netip.Addr   // one for each address
	Ports     []attachment.PortMapping
	Bandwidth attachment.Bandwidth
}

// maxRecord bounds what is read back: a pod of 250 ports needs 25 KiB.
const maxRecord = 1 << 20

func parseRecord(data []byte) (*record, error) {
	r := &record{}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, err
	}
	if err := attachment.CheckID(r.ID); err != nil {
		return nil, err
	}
	if len(r.Addresses) == 0 || len(r.Addresses) > 2 || len(r.Gateways) != len(r.Addresses) {
		return nil, fmt.Errorf("%d addresses and %d gateways", len(r.Addresses), len(r.Gateways))
	}
	for i, a := range r.Addresses {
		if !a.IsValid() || !a.Contains(r.Gateways[i]) {
			return nil, fmt.Errorf("address %s with gateway %s", a, r.Gateways[i])
		}
	}
	for _, p := range r.Ports {
		if _, err := protocolNumber(p.Protocol); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *record) result() attachment.Result {
	var res attachment.Result
	for _, a := range r.Addresses {
		res.IPs = append(res.IPs, a.Addr())
	}
	return res
}

func newStore(stateDir string) *records.Store[record] {
	return &records.Store[record]{
		Dir: filepath.Join(stateDir, "sandboxes"), What: "network record", MaxSize: maxRecord,
		Parse: parseRecord, ID: func(r *record) string { return r.ID },
	}
}
