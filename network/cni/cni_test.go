package cni

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types/create"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/network/attachment"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestFirstUsableConfigurationCounts(t *testing.T) {
	dir := t.TempDir()
	if c := readDir(filepath.Join(dir, "nothing")); len(c.files) != 0 || c.err("x") == nil {
		t.Errorf("of a directory that is not there: %+v", c)
	}
	write(t, filepath.Join(dir, "00-notes.txt"), "no configuration")
	write(t, filepath.Join(dir, "10-broken.conf"), `{"name":"x"}`)
	write(t, filepath.Join(dir, "20-path.conflist"), `{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"../evil"}]}`)
	write(t, filepath.Join(dir, "25-name.conflist"), `{"cniVersion":"1.0.0","name":"../x","plugins":[{"type":"ok"}]}`)
	write(t, filepath.Join(dir, "30-single.conf"), `{"cniVersion":"0.4.0","name":"single","type":"bridge"}`)
	write(t, filepath.Join(dir, "40-list.conflist"), `{"cniVersion":"1.0.0","name":"list","plugins":[{"type":"ok"}]}`)
	if err := unix.Mkfifo(filepath.Join(dir, "05-fifo.conflist"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := readDir(dir)
	if c.list == nil || c.list.Name != "single" || len(c.files) != 6 || len(c.broken) != 4 {
		t.Errorf("got %+v", c)
	}
}

func TestAddressesAreThoseOfThePod(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"of eth0 only", `{"cniVersion":"1.0.0","interfaces":[{"name":"cni0"},{"name":"eth0","sandbox":"/n"},{"name":"net1","sandbox":"/n"}],
			"ips":[{"address":"10.9.0.1/16","interface":0},{"address":"10.0.0.2/16","interface":1},{"address":"fd00::2/64","interface":1},{"address":"10.7.0.2/16","interface":2}]}`, "10.0.0.2 fd00::2"},
		{"without interfaces", `{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/16"}]}`, "10.0.0.2"},
		{"of 0.2.0", `{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/16"}}`, "10.0.0.2"},
		{"none", `{"cniVersion":"1.0.0"}`, ""},
		{"of an interface that is not there", `{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/16","interface":-1}]}`, ""},
		{"null", `{"cniVersion":"1.0.0","interfaces":[null],"ips":[null,{"address":"10.0.0.2/16","interface":0}]}`, ""},
	} {
		r, err := create.CreateFromBytes([]byte(c.text))
		if err != nil {
			t.Fatal(c.name, err)
		}
		res, err := addresses(r)
		var got []string
		for _, ip := range res.IPs {
			got = append(got, ip.String())
		}
		if strings.Join(got, " ") != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: got %v %v", c.name, got, err)
		}
	}
}

func TestPluginOutputIsBounded(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "loud"), "#!/bin/sh\nhead -c 3000000 /dev/zero\nhead -c 3000000 /dev/zero >&2\nexit 3\n")
	_, err := (&runner{}).ExecPlugin(context.Background(), filepath.Join(dir, "loud"), nil, os.Environ())
	if err == nil || len(err.Error()) > 100_000 {
		t.Errorf("got an error of %d bytes", len(err.Error()))
	}
	write(t, filepath.Join(dir, "mute"), "#!/bin/sh\necho why >&2; exit 3\n")
	_, err = (&runner{}).ExecPlugin(context.Background(), filepath.Join(dir, "mute"), nil, os.Environ())
	if err == nil || !strings.Contains(err.Error(), "why") {
		t.Errorf("got %v, want what it said on stderr", err)
	}
}

func FuzzResult(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/n"}],"ips":[{"address":"10.0.0.2/16","interface":0}]}`))
	f.Add([]byte(`{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/16"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := create.CreateFromBytes(data)
		if err != nil {
			return
		}
		res, err := addresses(r)
		if err == nil && (len(res.IPs) == 0 || len(res.IPs) > maxAddresses || !res.IPs[0].IsValid()) {
			t.Errorf("got %v", res)
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"Request":{"ID":"a"},"Name":"n","Version":"1.0.0","Plugins":[{"type":"p"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRecord(data)
		if err != nil {
			return
		}
		if err := attachment.CheckID(r.Request.ID); err != nil {
			t.Error(err)
		}
		if l, err := r.list(); err != nil || check(l) != nil {
			t.Error("a record that can't be detached was taken:", err)
		}
	})
}
