package hostprobe

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/runtime/ocispec"
	"github.com/shimd/shimd/runtime/request"
)

// Devices resolves the device nodes of a request. A directory stands for all the nodes in it.
func Devices(requested []request.Device) ([]ocispec.Device, error) {
	var list []ocispec.Device
	for i, r := range requested {
		found, err := devices(r)
		if err != nil {
			return nil, fmt.Errorf("devices[%d]: %w", i, err)
		}
		list = append(list, found...)
	}
	return list, nil
}

func devices(r request.Device) ([]ocispec.Device, error) {
	target := r.ContainerPath
	if target == "" {
		target = r.HostPath
	}
	access := r.Permissions
	if access == "" {
		access = "rwm"
	}
	real, err := filepath.EvalSymlinks(r.HostPath)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("host_path %q does not exist: %w", r.HostPath, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return nil, fmt.Errorf("host_path %q: %w", r.HostPath, err)
	}
	info, err := os.Stat(real)
	if err != nil {
		return nil, fmt.Errorf("host_path %q: %w", r.HostPath, err)
	}
	if !info.IsDir() {
		d, ok, err := node(real)
		if err != nil {
			return nil, fmt.Errorf("host_path %q: %w", r.HostPath, err)
		}
		if !ok {
			return nil, fmt.Errorf("host_path %q is not a device: %w", r.HostPath, errdefs.ErrInvalidArgument)
		}
		d.Path = target
		return []ocispec.Device{{LinuxDevice: d, Access: access}}, nil
	}
	nodes, err := nodesBelow(real)
	if err != nil {
		return nil, fmt.Errorf("host_path %q: %w", r.HostPath, err)
	}
	if len(nodes) == 0 {
		return nil, fmt.Errorf("host_path %q has no devices in it: %w", r.HostPath, errdefs.ErrInvalidArgument)
	}
	var list []ocispec.Device
	for _, d := range nodes {
		d.Path = filepath.Join(target, strings.TrimPrefix(d.Path, real))
		list = append(list, ocispec.Device{LinuxDevice: d, Access: access})
	}
	return list, nil
}

// AllDevices lists the host's device nodes, for privileged containers. What a container has of its own is left out: terminals, shared memory, the console.
func AllDevices() ([]specs.LinuxDevice, error) {
	list, err := nodesBelow("/dev")
	if err != nil {
		return nil, fmt.Errorf("listing the host's devices: %w", err)
	}
	return list, nil
}

func nodesBelow(dir string) ([]specs.LinuxDevice, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var list []specs.LinuxDevice
	for _, e := range entries {
		p := filepath.Join(dir, e.Name())
		switch {
		case e.IsDir():
			switch p {
			case "/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/.lxc", "/dev/.lxd-mounts", "/dev/.udev":
				continue
			}
			below, err := nodesBelow(p)
			if errors.Is(err, os.ErrNotExist) {
				continue // a device that was unplugged meanwhile
			}
			if err != nil {
				return nil, err
			}
			list = append(list, below...)
		case p == "/dev/console", p == "/dev/ptmx", e.Type()&os.ModeDevice == 0:
		default:
			d, ok, err := node(p)
			if errors.Is(err, os.ErrNotExist) || (err == nil && !ok) {
				continue
			}
			if err != nil {
				return nil, err
			}
			list = append(list, d)
		}
	}
	return list, nil
}

// node describes a device; ok is false for any other file. It is not opened.
func node(p string) (d specs.LinuxDevice, ok bool, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return d, false, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		d.Type = "b"
	case unix.S_IFCHR:
		d.Type = "c"
	default:
		return d, false, nil
	}
	dev := uint64(st.Rdev) //nolint:unconvert // not uint64 everywhere
	mode := os.FileMode(st.Mode & 0o7777)
	uid, gid := st.Uid, st.Gid
	d.Path, d.Major, d.Minor = p, int64(unix.Major(dev)), int64(unix.Minor(dev))
	d.FileMode, d.UID, d.GID = &mode, &uid, &gid
	return d, true, nil
}
