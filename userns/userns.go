// Package userns lets the host work on files as the root of a user namespace would.
//
// How IDs are mapped, and how user namespaces are made and pinned, belongs to those that own them.
package userns

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// BecomeRoot gives the calling thread the file system identity of uid and gid, which are ID 0 of a user namespace: what it makes belongs to
// them, also on idmapped mounts, where the host's root has no name (EOVERFLOW). The capabilities that the kernel takes away with the
// identity are taken back. The caller's goroutine is locked to the thread and never unlocked, so that the thread ends with it.
func BecomeRoot(uid, gid int) error {
	if err := errors.Join(unix.Setfsgid(gid), unix.Setfsuid(uid)); err != nil {
		return fmt.Errorf("becoming the user namespace's root on file systems: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("reading capabilities: %w", err)
	}
	for i := range data {
		data[i].Effective = data[i].Permitted
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("keeping capabilities: %w", err)
	}
	return nil
}
