package runtime

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/cgroups"
	"github.com/shimd/shimd/network"
)

// ContainerStats reads a container's counters. For one that does not run they are the writable layer's alone.
func (r *Runtime) ContainerStats(ctx context.Context, id ContainerID) (ContainerStats, error) {
	c, err := r.findContainer(id)
	if err != nil {
		return ContainerStats{}, err
	}
	return r.containerStats(ctx, c)
}

func (r *Runtime) containerStats(ctx context.Context, c *container) (ContainerStats, error) {
	stats := ContainerStats{Status: c.status()}
	used, inodes, err := r.Images.RootfsUsage(ctx, string(c.id))
	if err != nil && !errdefs.IsNotFound(err) {
		return stats, fmt.Errorf("container %s: measuring the writable layer: %w", c.id, err)
	}
	stats.WritableLayer = FsUsage{Timestamp: time.Now(), Mountpoint: r.Images.Root(), UsedBytes: used, InodesUsed: inodes}
	var whole unix.Statfs_t
	if unix.Statfs(stats.WritableLayer.Mountpoint, &whole) == nil { // else the store is on a disk that is lost, and its size not known
		stats.WritableLayer.SizeBytes = whole.Blocks * uint64(whole.Bsize)
		stats.WritableLayer.Inodes, stats.WritableLayer.InodesFree = whole.Files, whole.Ffree
	}
	c.mu.Lock()
	cgroup := c.cgroup
	c.mu.Unlock()
	if stats.Status.State != ContainerRunning || cgroup == nil {
		return stats, nil
	}
	stats.Cgroup, err = cgroup.Stats()
	if err != nil && c.snapshot().Phase == containerRunning {
		return stats, fmt.Errorf("container %s: reading its cgroup: %w", c.id, err)
	}
	if kills, err := cgroup.OOMKills(); err == nil {
		stats.OOMKills = &kills
	}
	return stats, nil
}

// SandboxStats reads the counters of the pod and of its running containers.
func (r *Runtime) SandboxStats(ctx context.Context, id SandboxID) (SandboxStats, error) {
	s, err := r.findSandbox(id)
	if err != nil {
		return SandboxStats{}, err
	}
	stats := SandboxStats{Status: s.status(), Time: time.Now()}
	if stats.Status.State != SandboxReady {
		return stats, nil
	}
	cgroup, err := r.podCgroup(s)
	switch {
	case err == nil:
		if stats.Cgroup, err = cgroup.Stats(); err != nil {
			return stats, fmt.Errorf("sandbox %s: reading the pod's cgroup: %w", s.id, err)
		}
	case !errdefs.IsNotFound(err):
		return stats, fmt.Errorf("sandbox %s: opening the pod's cgroup: %w", s.id, err)
	}
	if ownNetwork(stats.Status.Config) {
		if stats.Interfaces, err = interfaces(s); err != nil {
			return stats, fmt.Errorf("sandbox %s: reading the network's counters: %w", s.id, err)
		}
	}
	for _, c := range s.members() {
		if c.snapshot().Phase != containerRunning {
			continue
		}
		member, err := r.containerStats(ctx, c)
		if err != nil {
			return stats, err
		}
		stats.Containers = append(stats.Containers, member)
	}
	return stats, nil
}

// podCgroup opens the pod's cgroup at the first use: most pods are never measured.
func (r *Runtime) podCgroup(s *sandbox) (cgroups.Cgroup, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cgroup != nil {
		return s.cgroup, nil
	}
	cgroup, err := r.Cgroups.Open(s.record.Cgroup)
	if err != nil {
		return nil, err
	}
	s.cgroup = cgroup
	return cgroup, nil
}

func interfaces(s *sandbox) ([]NetworkInterface, error) {
	namespace, err := os.Open(filepath.Join(s.dir, "net"))
	if err != nil {
		return nil, err
	}
	defer namespace.Close()
	counted, err := network.Interfaces(namespace)
	if err != nil {
		return nil, err
	}
	list := make([]NetworkInterface, 0, len(counted))
	for _, i := range counted {
		if i.Name != "lo" {
			list = append(list, NetworkInterface{
				Name:    i.Name,
				RxBytes: i.RxBytes, RxPackets: i.RxPackets, RxErrors: i.RxErrors, RxDropped: i.RxDropped,
				TxBytes: i.TxBytes, TxPackets: i.TxPackets, TxErrors: i.TxErrors, TxDropped: i.TxDropped,
			})
		}
	}
	return list, nil
}
