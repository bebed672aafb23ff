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
	Domain   string // "": the pod has no fully qualified name
}

// Run is what the mounts of one run of a container depend on beside the pod.
type Run struct {
	Attempt uint32
	Hosts   Hosts
	// Expand is given subPathExpr, and answers it with the container's environment filled in; a name that is not known is an error.
	Expand func(string) (string, error)
	// RecursiveReadOnly says that the runtime can do that.
	RecursiveReadOnly bool
	// Images are what image volumes, by name, were pulled as.
	Images map[string]*criv1.ImageSpec
}

// Mounts answers the mounts of one run of a container, and makes the files that they need.
func (s *Store) Mounts(pod *corev1.Pod, c *corev1.Container, run Run) ([]*criv1.Mount, error) {
	var mounts []*criv1.Mount
	taken := map[string]bool{}
	for i := range c.VolumeMounts {
		mount, err := s.volumeMount(pod, c, i, run)
		if err != nil {
			return nil, fmt.Errorf("preparing mount %s of container %s: %w", c.VolumeMounts[i].MountPath, c.Name, err)
		}
		taken[path.Clean(mount.ContainerPath)] = true
		mounts = append(mounts, mount)
	}
	uid := string(pod.UID)
	if !taken[etcHosts] {
		file := HostsFile(s.root, uid)
		if err := writeHosts(file, pod, run.Hosts); err != nil {
			return nil, err
		}
		mounts = append(mounts, &criv1.Mount{HostPath: file, ContainerPath: etcHosts, SelinuxRelabel: true})
	}
	if c.TerminationMessagePath != "" && !taken[path.Clean(c.TerminationMessagePath)] {
		file := s.messageFile(uid, c.Name, run.Attempt)
		if err := os.MkdirAll(filepath.Dir(file), 0o711); err != nil {
			return nil, fmt.Errorf("making the directory of container %s: %w", c.Name, err)
		}
		if err := replace(file, nil, 0o666); err != nil { // whoever the container runs as
			return nil, err
		}
		mounts = append(mounts, &criv1.Mount{HostPath: file, ContainerPath: c.TerminationMessagePath, SelinuxRelabel: true})
	}
	return mounts, nil
}

// Devices answers the block devices that a container asks for, from claims of that mode.
func (s *Store) Devices(pod *corev1.Pod, c *corev1.Container) ([]*criv1.Device, error) {
	var devices []*criv1.Device
	for _, wanted := range c.VolumeDevices {
		found, err := s.claimed(string(pod.UID), wanted.Name)
		if err == nil && !found.Block {
			err = fmt.Errorf("volume %s is not a block device: %w", wanted.Name, errdefs.ErrInvalidArgument)
		}
		if err != nil {
			return nil, fmt.Errorf("preparing device %s of container %s: %w", wanted.DevicePath, c.Name, err)
		}
		permissions := "mrw"
		if found.ReadOnly {
			permissions = "r"
		}
		devices = append(devices, &criv1.Device{HostPath: found.Path, ContainerPath: wanted.DevicePath, Permissions: permissions})
	}
	return devices, nil
}

func (s *Store) messageFile(uid, container string, attempt uint32) string {
	return s.pod(uid, "containers", container, strconv.FormatUint(uint64(attempt), 10)+".message")
}

func (s *Store) volumeMount(pod *corev1.Pod, c *corev1.Container, index int, run Run) (*criv1.Mount, error) {
	wanted := &c.VolumeMounts[index]
	mount := &criv1.Mount{ContainerPath: wanted.MountPath, Readonly: wanted.ReadOnly, Propagation: propagation(wanted.MountPropagation)}
	if !path.IsAbs(mount.ContainerPath) {
		mount.ContainerPath = "/" + mount.ContainerPath
	}
	volume := volumeOf(pod, wanted.Name)
	if volume == nil {
		return nil, fmt.Errorf("there is no volume %q: %w", wanted.Name, errdefs.ErrInvalidArgument)
	}
	sub, err := subPathOf(wanted, run)
	if err != nil {
		return nil, err
	}
	if mount.RecursiveReadOnly, err = recursiveReadOnly(wanted, run.RecursiveReadOnly); err != nil {
		return nil, err
	}
	if volume.Image != nil {
		return imageMount(mount, wanted.Name, sub, run)
	}
	if err := s.source(mount, pod, volume); err != nil {
		return nil, err
	}
	if sub != "" {
		if mount.HostPath, err = s.subPath(string(pod.UID), c.Name, index, mount.HostPath, sub); err != nil {
			return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", wanted.Name, c.Name, err)
		}
	}
	return mount, nil
}

// source fills in where a volume's content is, and what may be done to it. Files of the node's are never relabelled (CVE-2021-43816).
func (s *Store) source(mount *criv1.Mount, pod *corev1.Pod, volume *corev1.Volume) error {
	mount.HostPath = s.Path(pod, volume)
	switch {
	case volume.HostPath != nil:
	case volume.PersistentVolumeClaim != nil || volume.Ephemeral != nil:
		found, err := s.claimed(string(pod.UID), volume.Name)
		if err != nil {
			return err
		}
		if found.Block {
			return fmt.Errorf("volume %s is a block device, which is not mounted; it belongs into volumeDevices: %w", volume.Name, errdefs.ErrInvalidArgument)
		}
		mount.Readonly = mount.Readonly || found.ReadOnly
		mount.SelinuxRelabel = found.Managed && !found.ReadOnly
	default:
		mount.Readonly = mount.Readonly || isLive(&volume.VolumeSource)
		mount.SelinuxRelabel = true // it is the pod's alone
	}
	if mount.HostPath == "" {
		return fmt.Errorf("volume %q cannot be mounted here: %w", volume.Name, errdefs.ErrNotImplemented)
	}
	return nil
}

func imageMount(mount *criv1.Mount, volume, sub string, run Run) (*criv1.Mount, error) {
	image := run.Images[volume]
	if image == nil {
		return nil, fmt.Errorf("the image of volume %q was not pulled: %w", volume, errdefs.ErrFailedPrecondition)
	}
	mount.Image, mount.ImageSubPath, mount.Readonly, mount.SelinuxRelabel = image, sub, true, true
	return mount, nil
}

func volumeOf(pod *corev1.Pod, name string) *corev1.Volume {
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Name == name {
			return &pod.Spec.Volumes[i]
		}
	}
	return nil
}

// subPathOf is the path within the volume; "" is all of it. One that comes of the environment is checked as one that was written.
func subPathOf(wanted *corev1.VolumeMount, run Run) (string, error) {
	sub := wanted.SubPath
	if wanted.SubPathExpr != "" {
		if run.Expand == nil {
			return "", fmt.Errorf("subPathExpr %q: nothing is known to expand it with: %w", wanted.SubPathExpr, errdefs.ErrNotImplemented)
		}
		var err error
		if sub, err = run.Expand(wanted.SubPathExpr); err != nil {
			return "", fmt.Errorf("subPathExpr %q: %w", wanted.SubPathExpr, err)
		}
		if sub == "" {
			return "", nil
		}
	}
	if path.IsAbs(sub) {
		return "", fmt.Errorf("error SubPath `%s` must not be an absolute path: %w", sub, errdefs.ErrInvalidArgument)
	}
	if leadsUp(sub) {
		return "", fmt.Errorf("unable to provision SubPath `%s`: must not contain '..': %w", sub, errdefs.ErrInvalidArgument)
	}
	return sub, nil
}

// recursiveReadOnly is the kubelet's resolveRecursiveReadOnly.
func recursiveReadOnly(wanted *corev1.VolumeMount, supported bool) (bool, error) {
	if wanted.RecursiveReadOnly == nil || *wanted.RecursiveReadOnly == corev1.RecursiveReadOnlyDisabled {
		return false, nil
	}
	if !wanted.ReadOnly {
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not read-only: %w", wanted.Name, errdefs.ErrInvalidArgument)
	}
	if wanted.MountPropagation != nil && *wanted.MountPropagation != corev1.MountPropagationNone {
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not compatible with propagation %q: %w", wanted.Name, *wanted.MountPropagation, errdefs.ErrInvalidArgument)
	}
	switch mode := *wanted.RecursiveReadOnly; {
	case mode == corev1.RecursiveReadOnlyIfPossible:
		return supported, nil
	case mode == corev1.RecursiveReadOnlyEnabled && supported:
		return true, nil
	case mode == corev1.RecursiveReadOnlyEnabled:
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not supported by the runtime: %w", wanted.Name, errdefs.ErrNotImplemented)
	default:
		return false, fmt.Errorf("unknown recursive read-only mode %q: %w", mode, errdefs.ErrInvalidArgument)
	}
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
