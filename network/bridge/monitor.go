package bridge

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// startMonitor begins to listen for the removal of our table, by an operator's "nft flush ruleset" or a reload of the machine's firewall. Host
// ports and masquerading would be gone, and worse, the guard of 127.0.0.0/8 while the bridge still has route_localnet (CVE-2020-8558). So
// the table is put back at once, not with the next sandbox. n.nft is held.
func (n *Network) startMonitor() error {
	if n.nft.monitor != nil {
		return nil
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("watching nftables: %w", err)
	}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.NFNLGRP_NFTABLES)
	}
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("watching nftables: %w", err)
	}
	n.nft.monitor = os.NewFile(uintptr(fd), "nftables events")
	go n.watchTable(n.nft.monitor)
	return nil
}

func (n *Network) watchTable(events *os.File) {
	buf := make([]byte, 64<<10)
	for {
		k, err := events.Read(buf)
		lost := errors.Is(err, unix.ENOBUFS) // somebody changes a lot; we may have missed it
		if err != nil && !lost {
			return // closed
		}
		if !lost && !removesTable(buf[:k], n.opts.TableName) {
			continue
		}
		if err := n.restoreTable(); err != nil {
			n.log.Error("somebody removed the nftables table of the pod network, and it can't be put back", "table", n.opts.TableName, "error", err)
		}
	}
}

// removesTable says whether a message tells of the removal of a table of this name.
func removesTable(data []byte, name string) bool {
	msgs, err := syscall.ParseNetlinkMessage(data)
	if err != nil {
		return true // look rather once too often
	}
	for _, m := range msgs {
		const nfgenmsg = 4
		if m.Header.Type != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELTABLE || len(m.Data) < nfgenmsg {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m.Data[nfgenmsg:])
		if err != nil {
			return true
		}
		for _, a := range attrs {
			if a.Attr.Type == unix.NFTA_TABLE_NAME && unix.ByteSliceToString(a.Value) == name {
				return true
			}
		}
	}
	return false
}

// restoreTable puts the table back if it is not there: our own replacing of it is also a removal.
func (n *Network) restoreTable() error {
	if n.bridgeIndex.Load() == 0 {
		return nil // it will be looked at before it is needed
	}
	n.nft.Lock()
	err := n.transact(func(c *nftables.Conn) error {
		_, err := c.ListTableOfFamily(n.opts.TableName, nftables.TableFamilyINet)
		return err
	})
	n.nft.Unlock()
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	n.log.Warn("somebody removed the nftables table of the pod network; putting it back", "table", n.opts.TableName)
	return n.installTable()
}

// warnOfDrops tells which chains of others drop what the machine forwards. An accept in our own table would not overrule them.
func (n *Network) warnOfDrops() {
	n.nft.Lock()
	var chains []*nftables.Chain
	err := n.transact(func(c *nftables.Conn) (err error) {
		chains, err = c.ListChains()
		return err
	})
	n.nft.Unlock()
	if err != nil {
		return // nothing depends on it
	}
	for _, c := range chains {
		if c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookForward || c.Policy == nil || *c.Policy != nftables.ChainPolicyDrop || c.Table.Name == n.opts.TableName {
			continue
		}
		n.log.Warn("a chain of this machine's firewall drops what is forwarded by default: let the pod bridge through it, or pods reach nothing outside and nothing reaches their host ports",
			"table", c.Table.Name, "chain", c.Name, "bridge", n.opts.BridgeName)
	}
}
