package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
)

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
