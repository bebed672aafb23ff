package cni

import (
	"encoding/json"
	"net/netip"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"

	"github.com/shimd/shimd/network/attachment"
	"github.com/shimd/shimd/network/records"
)

// A record is written before the first plugin runs, with the configuration that DEL will need even if the file is changed or gone by then, and
// once more with the addresses when all have.
type record struct {
	Request attachment.Request
	Name    string            // of the network
	Version string            // of CNI
	Plugins []json.RawMessage // the plugins' configurations
	Conf    []byte            // the whole file
	IPs     []netip.Addr      // empty until attached
}

const maxRecord = 4 << 20

func newRecord(req attachment.Request, list *libcni.NetworkConfigList) *record {
	r := &record{Request: req, Name: list.Name, Version: list.CNIVersion, Conf: list.Bytes}
	for _, p := range list.Plugins {
		r.Plugins = append(r.Plugins, p.Bytes)
	}
	return r
}

// list makes the configuration that the sandbox was attached with.
func (r *record) list() (*libcni.NetworkConfigList, error) {
	l := &libcni.NetworkConfigList{Name: r.Name, CNIVersion: r.Version, Bytes: r.Conf}
	for _, b := range r.Plugins {
		p, err := libcni.NetworkPluginConfFromBytes(b)
		if err != nil {
			return nil, err
		}
		l.Plugins = append(l.Plugins, p)
	}
	return l, check(l)
}

func parseRecord(data []byte) (*record, error) {
	r := &record{}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, err
	}
	if err := attachment.CheckID(r.Request.ID); err != nil {
		return nil, err
	}
	_, err := r.list()
	return r, err
}

func newStore(stateDir string) *records.Store[record] {
	return &records.Store[record]{
		Dir: filepath.Join(stateDir, "sandboxes"), What: "CNI record", MaxSize: maxRecord,
		Parse: parseRecord, ID: func(r *record) string { return r.Request.ID },
	}
}
