package runtime

import (
	"os"

	"github.com/shimd/shimd/runtime/request"
)

// privateDir makes a directory of a sandbox or a container, out of reach of the host's other users: root of a container can leave a set-user-ID
// program in any file that it may write, and types into the stdin of any whose FIFO it may open. IDs are no secret, /proc/PID/cgroup tells them (CVE-2021-41103).
//
// With a user namespace, its root may pass through but not list: external runtimes open the bundle's mounts as that user. No process outside of the pod has that group.
func privateDir(path string, user *request.UserNamespace) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	mode, gid := os.FileMode(0o700), 0
	if user != nil {
		if _, root := rootOnHost(user); root != 0 {
			mode, gid = 0o710, int(root)
		}
	}
	if err := os.Chown(path, 0, gid); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}
