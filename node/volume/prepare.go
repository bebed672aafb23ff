package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// Prepare makes a pod's volumes. It is idempotent: what is there stays, with its content.
func (s *Store) Prepare(pod *corev1.Pod) error {
	for i := range pod.Spec.Volumes {
		volume := &pod.Spec.Volumes[i]
		var err error
		switch {
		case volume.EmptyDir != nil:
			err = s.emptyDir(pod, volume)
		case volume.HostPath != nil:
			err = hostPath(volume.HostPath)
		}
		if err != nil {
			return fmt.Errorf("preparing volume %s: %w", volume.Name, err)
		}
	}
	return nil
}

func (s *Store) emptyDir(pod *corev1.Pod, volume *corev1.Volume) error {
	dir := s.pod(string(pod.UID), "volumes", volume.Name)
	if err := os.MkdirAll(filepath.Dir(dir), 0o711); err != nil {
		return err
	}
	err := os.Mkdir(dir, 0o700)
	made := err == nil
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if volume.EmptyDir.Medium == corev1.StorageMediumMemory {
		mounted, err := isMountPoint(dir)
		if err != nil {
			return err
		}
		if !mounted {
			if err := mountTmpfs(dir, volume.EmptyDir); err != nil {
				return err
			}
			made = true
		}
	}
	if !made {
		return nil
	}
	mode := fs.FileMode(0o777)
	if volume.EmptyDir.Mode != nil {
		mode = fs.FileMode(*volume.EmptyDir.Mode)
	}
	return own(dir, mode, pod.Spec.SecurityContext.FSGroup)
}

// own gives a new volume to the pod's group: what is made in it belongs to the group too.
func own(dir string, mode fs.FileMode, group *int64) error {
	const setgid = 0o2000
	if group != nil {
		if err := os.Chown(dir, 0, int(*group)); err != nil {
			return err
		}
		mode |= setgid | 0o070
	}
	return unix.Chmod(dir, uint32(mode)) // not os.Chmod, which spells setgid otherwise
}

func mountTmpfs(dir string, source *corev1.EmptyDirVolumeSource) error {
	options := ""
	if source.SizeLimit != nil && source.SizeLimit.Sign() > 0 {
		options = "size=" + strconv.FormatInt(source.SizeLimit.Value(), 10)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mounting a tmpfs on %s: %w", dir, err)
	}
	return nil
}

// isMountPoint compares mount IDs with the parent's, which tells bind mounts of the same file system too.
func isMountPoint(path string) (bool, error) {
	var here, parent unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &here); err != nil {
		return false, fmt.Errorf("looking at %s: %w", path, err)
	}
	if err := unix.Statx(unix.AT_FDCWD, filepath.Dir(path), unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &parent); err != nil {
		return false, fmt.Errorf("looking at %s: %w", filepath.Dir(path), err)
	}
	return here.Mnt_id != parent.Mnt_id, nil
}

// hostPath checks, and for the OrCreate types makes, what a hostPath volume names.
func hostPath(source *corev1.HostPathVolumeSource) error {
	if source.Type == nil || *source.Type == corev1.HostPathUnset {
		return nil
	}
	switch *source.Type {
	case corev1.HostPathDirectoryOrCreate:
		if err := os.MkdirAll(source.Path, 0o755); err != nil {
			return err
		}
	case corev1.HostPathFileOrCreate: // its directory is not made: as documented by Kubernetes
		file, err := os.OpenFile(source.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err == nil {
			file.Close()
		} else if !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	info, err := os.Stat(source.Path)
	if err != nil {
		return err
	}
	ok := false
	switch *source.Type {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		ok = info.IsDir()
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		ok = info.Mode().IsRegular()
	case corev1.HostPathSocket:
		ok = info.Mode()&fs.ModeSocket != 0
	case corev1.HostPathCharDev:
		ok = info.Mode()&fs.ModeCharDevice != 0
	case corev1.HostPathBlockDev:
		ok = info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0
	}
	if !ok {
		return fmt.Errorf("hostPath %s is not a %s but %s: %w", source.Path, *source.Type, info.Mode(), errdefs.ErrFailedPrecondition)
	}
	return nil
}
