package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"github.com/shimd/shimd/network/attachment"
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

type store struct{ dir string }

func (s store) path(id string) string { return filepath.Join(s.dir, id+".json") }

func (s store) write(r *record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding the CNI record of sandbox %s: %w", r.Request.ID, err)
	}
	path := s.path(r.Request.ID)
	if err := os.WriteFile(path+".tmp", data, 0o600); err != nil {
		return fmt.Errorf("recording sandbox %s: %w", r.Request.ID, err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("recording sandbox %s: %w", r.Request.ID, err)
	}
	return nil
}

func (s store) remove(id string) error {
	if err := os.Remove(s.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the CNI record of sandbox %s: %w", id, err)
	}
	return nil
}

// load reads all records; what can't be read is set aside as NAME.broken and named.
func (s store) load() (records []*record, broken []error, err error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("listing CNI records: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(s.dir, e.Name())
		switch filepath.Ext(path) {
		case ".tmp":
			_ = os.Remove(path)
			continue
		case ".json":
		default:
			continue
		}
		r, err := readRecord(path)
		if err == nil && r.Request.ID != strings.TrimSuffix(e.Name(), ".json") {
			err = fmt.Errorf("it is of sandbox %s", r.Request.ID)
		}
		if err != nil {
			broken = append(broken, fmt.Errorf("CNI record %s set aside as %s.broken: %w", path, path, errors.Join(err, os.Rename(path, path+".broken"))))
			continue
		}
		records = append(records, r)
	}
	return records, broken, nil
}

func readRecord(path string) (*record, error) {
	if fi, err := os.Lstat(path); err != nil || !fi.Mode().IsRegular() || fi.Size() > maxRecord {
		return nil, errors.Join(err, errors.New("not a regular file of a sensible size"))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseRecord(data)
}
