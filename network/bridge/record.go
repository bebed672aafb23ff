package bridge

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/shimd/shimd/network/attachment"
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

// A store is the directory of records.
type store struct{ dir string }

func (s store) path(id string) string { return filepath.Join(s.dir, id+".json") }

func (s store) write(r *record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding the record of sandbox %s: %w", r.ID, err)
	}
	return writeWhole(s.path(r.ID), data)
}

func (s store) remove(id string) error {
	if err := os.Remove(s.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the record of sandbox %s: %w", id, err)
	}
	return nil
}

// load reads all records. What can't be read is set aside as NAME.broken and named in the second result: the daemon always starts.
func (s store) load() (records []*record, broken []error, err error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("listing network records: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(s.dir, e.Name())
		switch filepath.Ext(e.Name()) {
		case ".tmp": // a crash between write and rename: nothing of it was attached
			_ = os.Remove(path)
			continue
		case ".json":
		default:
			continue
		}
		r, err := readRecord(path)
		if err == nil && r.ID != strings.TrimSuffix(e.Name(), ".json") {
			err = fmt.Errorf("it is of sandbox %s", r.ID)
		}
		if err != nil {
			broken = append(broken, fmt.Errorf("network record %s set aside as %s.broken: %w", path, path, errors.Join(err, os.Rename(path, path+".broken"))))
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

func writeWhole(path string, data []byte) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
