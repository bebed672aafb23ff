package bridge

import (
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
)

const (
	nftTimeout = 30 * time.Second
	nftBuffer  = 16 << 20 // a transaction is one send: 100 bytes for an element, 4 elements for a host port
)

// An nftSocket is a socket for nftables transactions. It is kept open: closing one waits until the kernel has destroyed what was deleted before,
// whoever did that, which takes an RCU grace period or two (10 ms).
type nftSocket struct {
	*nftables.Conn
	raw *netlink.Conn
}

func openNFT() (*nftSocket, error) {
	s := &nftSocket{}
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(raw *netlink.Conn) error {
		s.raw = raw
		return raw.SetWriteBuffer(nftBuffer)
	}))
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket for nftables: %w: %w", err, errdefs.ErrUnavailable)
	}
	s.Conn = conn
	return s, nil
}

// transact gathers changes by f and makes them all or none. n.nft is held.
//
// After an error the socket is thrown away: answers that were not read must not be taken for those to the next transaction. It is closed behind our back,
// for the reason above.
func (n *Network) transact(f func(*nftables.Conn) error) error {
	s := n.nft.socket
	if s == nil {
		var err error
		if s, err = openNFT(); err != nil {
			return err
		}
		n.nft.socket = s
	}
	if err := s.raw.SetDeadline(time.Now().Add(nftTimeout)); err != nil {
		return fmt.Errorf("setting a deadline for nftables: %w", err)
	}
	err := f(s.Conn)
	if err == nil {
		err = s.Flush()
	}
	if err != nil {
		n.nft.socket = nil
		go func() { _ = s.CloseLasting() }()
	}
	return err
}

// closeNFT closes the socket and ends the monitor.
func (n *Network) closeNFT() error {
	n.nft.Lock()
	defer n.nft.Unlock()
	var errs []error
	if n.nft.monitor != nil {
		errs = append(errs, n.nft.monitor.Close())
		n.nft.monitor = nil
	}
	if n.nft.socket != nil {
		errs = append(errs, n.nft.socket.CloseLasting())
		n.nft.socket = nil
	}
	return errors.Join(errs...)
}
