package volume

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
)

// nestedMountPoints makes directories where other volumes are mounted within this one: a runtime cannot make them in a read-only volume.
func nestedMountPoints(root *os.Root, pod *corev1.Pod, volume string) error {
	for c := range containers(pod) {
		for _, mount := range c.VolumeMounts {
			if mount.Name != volume {
				continue
			}
			for _, below := range mountedBelow(mount.MountPath, c.VolumeMounts) {
				if checkPath(below) != nil {
					return fmt.Errorf("container %s: mount path %q within %q: %w", c.Name, below, mount.MountPath, errdefs.ErrInvalidArgument)
				}
				if err := root.MkdirAll(below, 0o755); err != nil {
					return fmt.Errorf("making mount point %s: %w", below, err)
				}
			}
		}
	}
	return nil
}

// mountedBelow are the paths, from a mount path on, where other mounts are, without those that are within another one of them.
func mountedBelow(at string, mounts []corev1.VolumeMount) []string {
	prefix := strings.TrimSuffix(path.Clean(at), "/") + "/"
	var all []string
	for _, mount := range mounts {
		if below, ok := strings.CutPrefix(path.Clean(mount.MountPath), prefix); ok && below != "" {
			all = append(all, below)
		}
	}
	slices.Sort(all)
	var found []string
	for _, below := range all {
		if !slices.ContainsFunc(found, func(outer string) bool { return strings.HasPrefix(below, outer+"/") }) {
			found = append(found, below)
		}
	}
	return found
}
