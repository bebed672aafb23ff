package volume

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"syscall"

	corev1 "k8s.io/api/core/v1"
)

// What a pod's group may do in a volume that is given to it: the kubelet's masks.
const (
	groupReads  fs.FileMode = 0o440
	groupWrites fs.FileMode = 0o660
	groupEnters             = fs.ModeSetgid | 0o110
)

// giveDirectory sets a directory's mode, and lets the pod's group in.
func giveDirectory(root *os.Root, name string, mode fs.FileMode, group *int64) error {
	if group != nil {
		if err := root.Chown(name, -1, int(*group)); err != nil {
			return err
		}
		mode |= groupReads | groupEnters
	}
	return root.Chmod(name, mode)
}

// giveAll gives a directory and everything in it to the pod's group, unless the policy is content with the directory's own group and mode.
// Other pods may be at work in it: links are given, never followed, and nothing outside can be reached (os.Root).
func giveAll(dir string, group *int64, policy *corev1.PodFSGroupChangePolicy) error {
	if group == nil {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if policy != nil && *policy == corev1.FSGroupChangeOnRootMismatch && belongsTo(root, *group) {
		return nil
	}
	return give(root, ".", int(*group))
}

// belongsTo is the kubelet's requiresPermissionChange, the other way round.
func belongsTo(root *os.Root, group int64) bool {
	const needed = groupWrites | 0o110
	info, err := root.Stat(".")
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int64(stat.Gid) == group && info.Mode()&fs.ModeSetgid != 0 && info.Mode().Perm()&needed == needed
}

// give goes through the content first, so that a directory that belongs to the group says that all below it does.
func give(root *os.Root, name string, group int) error {
	info, err := root.Lstat(name)
	if os.IsNotExist(err) && name != "." {
		return nil // removed meanwhile
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		entries, err := fs.ReadDir(root.FS(), name)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if err := give(root, path.Join(name, entry.Name()), group); err != nil {
				return err
			}
		}
	}
	if err := root.Lchown(name, -1, group); err != nil {
		return fmt.Errorf("giving %s to group %d: %w", name, group, err)
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return nil
	}
	mode := info.Mode() | groupWrites
	if info.IsDir() {
		mode |= groupEnters
	}
	if err := root.Chmod(name, mode); err != nil {
		return fmt.Errorf("giving %s to group %d: %w", name, group, err)
	}
	return nil
}

// commonUser is the user whom all containers of a pod run as, if they do: service account tokens are theirs alone.
func commonUser(pod *corev1.Pod) int {
	user := noOwner
	for c := range containers(pod) {
		own := runAsUser(pod, c)
		if own == nil || (user != noOwner && user != int(*own)) {
			return noOwner
		}
		user = int(*own)
	}
	return user
}

func runAsUser(pod *corev1.Pod, c *corev1.Container) *int64 {
	if c.SecurityContext != nil && c.SecurityContext.RunAsUser != nil {
		return c.SecurityContext.RunAsUser
	}
	if pod.Spec.SecurityContext != nil {
		return pod.Spec.SecurityContext.RunAsUser
	}
	return nil
}

// containers are all of a pod's, of every kind.
func containers(pod *corev1.Pod) func(yield func(*corev1.Container) bool) {
	return func(yield func(*corev1.Container) bool) {
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				if !yield(&list[i]) {
					return
				}
			}
		}
		for i := range pod.Spec.EphemeralContainers {
			c := corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
			if !yield(&c) {
				return
			}
		}
	}
}

func fsGroup(pod *corev1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}
