package criclient

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Cgroup drivers, as the kubelet's configuration spells them.
const (
	Cgroupfs = "cgroupfs"
	Systemd  = "systemd"
)

// CgroupDriver is the driver that the runtime uses: Cgroupfs or Systemd (CRI's RuntimeConfig).
func (c *Client) CgroupDriver(ctx context.Context) (string, error) {
	answer, err := c.Runtime.RuntimeConfig(ctx, &criv1.RuntimeConfigRequest{})
	if err != nil {
		return "", fmt.Errorf("asking the runtime for its cgroup driver: %w", err)
	}
	if answer.GetLinux().GetCgroupDriver() == criv1.CgroupDriver_CGROUPFS {
		return Cgroupfs, nil
	}
	return Systemd, nil
}

// ImageMountpoint is the directory on whose file system the runtime keeps images (CRI's ImageFsInfo).
func (c *Client) ImageMountpoint(ctx context.Context) (string, error) {
	answer, err := c.Images.ImageFsInfo(ctx, &criv1.ImageFsInfoRequest{})
	if err != nil {
		return "", fmt.Errorf("asking the runtime where images are: %w", err)
	}
	if len(answer.ImageFilesystems) == 0 {
		return "", fmt.Errorf("asking the runtime where images are: it does not say: %w", errdefs.ErrNotImplemented)
	}
	return answer.ImageFilesystems[0].GetFsId().GetMountpoint(), nil
}
