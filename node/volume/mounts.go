package volume

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const etcHosts = "/etc/hosts"

// Hosts is what a pod's /etc/hosts is made of.
type Hosts struct {
	IPs      []string
	Hostname string
}

// Mounts answers the mounts of one run of a container, and makes the files that they need.
func (s *Store) Mounts(pod *corev1.Pod, c *corev1.Container, attempt uint32, hosts Hosts) ([]*criv1.Mount, error) {
	var mounts []*criv1.Mount
	taken := map[string]bool{}
	for i := range c.VolumeMounts {
		mount, err := s.volumeMount(pod, c, i)
		if err != nil {
			return nil, fmt.Errorf("preparing mount %s of container %s: %w", c.VolumeMounts[i].MountPath, c.Name, err)
		}
		taken[path.Clean(mount.ContainerPath)] = true
		mounts = append(mounts, mount)
	}
	uid := string(pod.UID)
	if !taken[etcHosts] {
		file := s.pod(uid, "etc-hosts")
		if err := writeHosts(file, pod, hosts); err != nil {
			return nil, err
		}
		mounts = append(mounts, &criv1.Mount{HostPath: file, ContainerPath: etcHosts})
	}
	if c.TerminationMessagePath != "" && !taken[path.Clean(c.TerminationMessagePath)] {
		file := s.messageFile(uid, c.Name, attempt)
		if err := os.MkdirAll(filepath.Dir(file), 0o711); err != nil {
			return nil, fmt.Errorf("making the directory of container %s: %w", c.Name, err)
		}
		if err := replace(file, nil, 0o666); err != nil { // whoever the container runs as
			return nil, err
		}
		mounts = append(mounts, &criv1.Mount{HostPath: file, ContainerPath: c.TerminationMessagePath})
	}
	return mounts, nil
}

func (s *Store) messageFile(uid, container string, attempt uint32) string {
	return s.pod(uid, "containers", container, strconv.FormatUint(uint64(attempt), 10)+".message")
}

func (s *Store) volumeMount(pod *corev1.Pod, c *corev1.Container, index int) (*criv1.Mount, error) {
	wanted := &c.VolumeMounts[index]
	mount := &criv1.Mount{ContainerPath: wanted.MountPath, Readonly: wanted.ReadOnly, Propagation: propagation(wanted.MountPropagation)}
	if !path.IsAbs(mount.ContainerPath) {
		mount.ContainerPath = "/" + mount.ContainerPath
	}
	for i := range pod.Spec.Volumes {
		volume := &pod.Spec.Volumes[i]
		if volume.Name != wanted.Name {
			continue
		}
		switch {
		case volume.HostPath != nil:
			mount.HostPath = volume.HostPath.Path
		case volume.EmptyDir != nil:
			mount.HostPath = s.pod(string(pod.UID), "volumes", volume.Name)
			mount.SelinuxRelabel = true // it is the pod's alone; files of the node's are never relabelled (CVE-2021-43816)
		}
	}
	if mount.HostPath == "" {
		return nil, fmt.Errorf("there is no volume %q: %w", wanted.Name, errdefs.ErrInvalidArgument)
	}
	if wanted.SubPath != "" {
		bound, err := s.subPath(string(pod.UID), c.Name, index, mount.HostPath, wanted.SubPath)
		if err != nil {
			return nil, err
		}
		mount.HostPath = bound
	}
	return mount, nil
}

func propagation(mode *corev1.MountPropagationMode) criv1.MountPropagation {
	switch {
	case mode == nil || *mode == corev1.MountPropagationNone:
		return criv1.MountPropagation_PROPAGATION_PRIVATE
	case *mode == corev1.MountPropagationHostToContainer:
		return criv1.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	default:
		return criv1.MountPropagation_PROPAGATION_BIDIRECTIONAL
	}
}
