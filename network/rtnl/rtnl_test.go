package rtnl_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/network/nettest"
	"github.com/shimd/shimd/network/rtnl"
)

func TestMain(m *testing.M) { nettest.Main(m) }

func bringUp(index int32) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index, msg.Flags, msg.Change = index, unix.IFF_UP, unix.IFF_UP
	req.AddData(msg)
	return req
}

func TestBatchReportsTheFirstErrorAndGoesOn(t *testing.T) {
	nettest.Require(t)
	ns := nettest.NewNamespace(t)
	s, err := rtnl.OpenAt(ns.File)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = s.Do(
		rtnl.Step{What: "allowed", Request: bringUp(4242), Allow: []unix.Errno{unix.ENODEV}},
		rtnl.Step{What: "the first", Request: bringUp(4243)},
		rtnl.Step{What: "the second", Request: bringUp(4244)},
		rtnl.LoopbackUp(),
	)
	if !errors.Is(err, unix.ENODEV) || err.Error()[:9] != "the first" {
		t.Errorf("got %v", err)
	}
	ns.Listen("tcp", "127.0.0.1:80") // lo is up all the same
	if _, err := ns.Ask("tcp", "127.0.0.1:80"); err != nil {
		t.Error(err)
	}
	if err := s.Do(); err != nil {
		t.Error(err)
	}
	if _, err := s.Index("eth7"); !errors.Is(err, unix.ENODEV) {
		t.Errorf("got %v", err)
	}
	if i, err := s.Index("lo"); err != nil || i != 1 {
		t.Errorf("got %d %v", i, err)
	}
}

func TestOpenNamespaceRefusesWhatIsNone(t *testing.T) {
	dir := t.TempDir()
	file, fifo := filepath.Join(dir, "file"), filepath.Join(dir, "fifo")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), unix.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, fifo, dir, filepath.Join(dir, "nothing")} {
		if f, err := rtnl.OpenNamespace(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v %v", path, f, err)
		}
	}
	f, err := rtnl.OpenNamespace("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}
