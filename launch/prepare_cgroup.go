package launch

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/launch/mounts"
)

// unified tells whether the host has cgroup v2 alone.
func (b *containerBuilder) unified() bool {
	var st unix.Statfs_t
	return unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// cgroupHierarchies lays out /sys/fs/cgroup as it is on a v1 host: a directory for each hierarchy, bound from the container's own cgroup in
// it, read-only if asked (CVE-2023-25809), and the links that the host has for controllers that share one.
func (b *containerBuilder) cgroupHierarchies(tree *mounts.Tree, destination string, o mounts.Options) error {
	for _, tasks := range b.in.CgroupTasks {
		file, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(tasks.Fd())))
		if err != nil {
			return fmt.Errorf("finding a cgroup: %w", err)
		}
		dir := filepath.Dir(file)
		name, ok := hierarchyOf(dir)
		if !ok {
			return fmt.Errorf("cgroup %s is not below /sys/fs/cgroup", dir)
		}
		m, err := mounts.Clone(dir, false)
		if err != nil {
			return err
		}
		b.fds.owned = append(b.fds.owned, m)
		if err := mounts.Apply(m, mounts.Options{Set: o.Set | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}); err != nil {
			return err
		}
		at, err := tree.Directory(path.Join(destination, name))
		if err != nil {
			return err
		}
		planned := plannedMount{destination: at.Real, at: b.place(at.Real, at), fd: b.fds.add(name, m)}
		b.plan.mounts = append(b.plan.mounts, planned)
		tree.Attach(at, m)
		if err := controllerLinks(tree, destination, name); err != nil {
			return err
		}
	}
	return nil
}

// hierarchyOf is the name of a hierarchy's directory: the component below /sys/fs/cgroup.
func hierarchyOf(dir string) (string, bool) {
	rest, ok := strings.CutPrefix(dir, "/sys/fs/cgroup/")
	name, _, _ := strings.Cut(rest, "/")
	return name, ok && name != ""
}

func controllerLinks(tree *mounts.Tree, destination, name string) error {
	controllers := strings.Split(name, ",")
	if len(controllers) < 2 {
		return nil
	}
	at, err := tree.Directory(destination)
	if err != nil {
		return err
	}
	defer at.File.Close()
	for _, c := range controllers {
		if err := unix.Symlinkat(name, int(at.File.Fd()), c); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("linking controller %s: %w", c, err)
		}
	}
	return nil
}
