package bridge

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Uninstall removes the bridge, the nftables table and what is recorded. ErrFailedPrecondition while sandboxes are attached. Sysctls that were set
// stay: something else may rely on them by now.
func (n *Network) Uninstall(context.Context) error {
	n.mu.Lock()
	attached := len(n.sandboxes)
	n.mu.Unlock()
	if attached > 0 {
		return fmt.Errorf("removing the pod network: %d sandboxes are attached: %w", attached, errdefs.ErrFailedPrecondition)
	}
	// First of all, or the monitor would put the table back.
	n.bridgeIndex.Store(0)
	s, err := n.socket()
	if err != nil {
		return err
	}
	defer n.giveBack(s)
	var errs []error
	if err := s.Do(deleteLinkStep(n.opts.BridgeName)); err != nil && !errors.Is(err, unix.ENODEV) {
		errs = append(errs, fmt.Errorf("removing the bridge %s: %w", n.opts.BridgeName, err))
	}
	n.nft.Lock()
	err = n.transact(func(c *nftables.Conn) error {
		c.DelTable(n.nft.table.table)
		return nil
	})
	n.nft.Unlock()
	if err != nil && !errors.Is(err, unix.ENOENT) {
		errs = append(errs, fmt.Errorf("removing the nftables table %s: %w", n.opts.TableName, err))
	}
	return errors.Join(append(errs, os.RemoveAll(n.opts.StateDir))...)
}
