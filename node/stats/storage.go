package stats

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/shimd/shimd/node/volume"
)

// fileSystem is the one that a path is on.
func fileSystem(path string) (*statsv1alpha1.FsStats, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return nil, fmt.Errorf("asking for the size of the file system of %q: %w", path, err)
	}
	size := uint64(s.Bsize)
	return &statsv1alpha1.FsStats{
		Time: metav1.Now(), AvailableBytes: number(s.Bavail * size), CapacityBytes: number(s.Blocks * size), UsedBytes: number((s.Blocks - s.Bfree) * size),
		InodesFree: number(s.Ffree), Inodes: number(s.Files), InodesUsed: number(s.Files - s.Ffree),
	}, nil
}

// storage adds volumes, and the sum of what a pod keeps on the node's disk: what its containers write, their logs, its /etc/hosts, and volumes that
// live no longer than the pod and are not in memory.
func (c *Collector) storage(pod *statsv1alpha1.PodStats, disk *statsv1alpha1.FsStats) {
	sum := *disk
	sum.UsedBytes, sum.InodesUsed = nil, nil
	add := func(s *statsv1alpha1.FsStats) {
		if s == nil {
			return
		}
		sum.UsedBytes, sum.InodesUsed = plus(sum.UsedBytes, s.UsedBytes), plus(sum.InodesUsed, s.InodesUsed)
		if sum.Time.Before(&s.Time) {
			sum.Time = s.Time
		}
	}
	for i := range pod.Containers {
		add(pod.Containers[i].Rootfs)
		add(pod.Containers[i].Logs)
	}
	if of, ok := c.pod(pod.PodRef.UID); ok {
		for i := range of.Spec.Volumes {
			if s := c.volume(of, &of.Spec.Volumes[i]); s != nil {
				pod.VolumeStats = append(pod.VolumeStats, *s)
				if ephemeral(&of.Spec.Volumes[i]) {
					add(&s.FsStats)
				}
			}
		}
	}
	add(hosts(volume.HostsFile(c.RootDir, pod.PodRef.UID)))
	pod.EphemeralStorage = &sum
}

// hosts measures the one file of the agent's that a pod may fill.
func hosts(path string) *statsv1alpha1.FsStats {
	var s unix.Stat_t
	if err := unix.Lstat(path, &s); err != nil {
		return nil // the pod brings its own
	}
	const blockSize = 512
	return &statsv1alpha1.FsStats{Time: metav1.Now(), UsedBytes: number(uint64(s.Blocks) * blockSize), InodesUsed: number(1)}
}

func (c *Collector) pod(uid string) (*corev1.Pod, bool) {
	if c.Pod == nil || c.VolumePath == nil {
		return nil, false
	}
	return c.Pod(uid)
}

// volume measures one: what has a file system of its own (memory, claims) by that, else by its files. hostPath volumes are not the pod's.
func (c *Collector) volume(pod *corev1.Pod, v *corev1.Volume) *statsv1alpha1.VolumeStats {
	claim := claimed(pod, v)
	own := claim != nil || v.EmptyDir != nil && v.EmptyDir.Medium != corev1.StorageMediumDefault
	if !own && v.EmptyDir == nil && v.ConfigMap == nil && v.Secret == nil && v.DownwardAPI == nil && v.Projected == nil {
		return nil
	}
	path := c.VolumePath(pod, v)
	if path == "" {
		return nil
	}
	whole, err := fileSystem(path)
	if err != nil {
		return nil // not there yet
	}
	answer := &statsv1alpha1.VolumeStats{Name: v.Name, FsStats: *whole, PVCRef: claim}
	if !own {
		used := c.sizes.of(path)
		answer.Time, answer.UsedBytes, answer.InodesUsed = metav1.NewTime(used.when), number(used.bytes), number(used.files)
	}
	return answer
}

func claimed(pod *corev1.Pod, v *corev1.Volume) *statsv1alpha1.PVCReference {
	switch {
	case v.PersistentVolumeClaim != nil:
		return &statsv1alpha1.PVCReference{Namespace: pod.Namespace, Name: v.PersistentVolumeClaim.ClaimName}
	case v.Ephemeral != nil:
		return &statsv1alpha1.PVCReference{Namespace: pod.Namespace, Name: pod.Name + "-" + v.Name}
	}
	return nil
}

func ephemeral(v *corev1.Volume) bool {
	return v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault || v.ConfigMap != nil
}

// sizeAge is how old a directory's size may be: counting files is what costs most of all here. The kubelet counts as often, whether or not it is asked.
const sizeAge = 45 * time.Second

// sizes counts what is in directories, and remembers it for a while.
type sizes struct {
	mu    sync.Mutex
	known map[string]size
}

type size struct {
	when         time.Time
	bytes, files uint64
}

func newSizes() *sizes { return &sizes{known: map[string]size{}} }

func (s *sizes) of(path string) size {
	s.mu.Lock()
	defer s.mu.Unlock() // one at a time: disks are slow enough for one
	now := time.Now()
	if known, ok := s.known[path]; ok && now.Sub(known.when) < sizeAge {
		return known
	}
	for p, known := range s.known {
		if now.Sub(known.when) >= 2*sizeAge {
			delete(s.known, p)
		}
	}
	counted := count(path)
	counted.when = now
	s.known[path] = counted
	return counted
}

// count is `du -x`: blocks and files below a path, on its file system, hard links once. What goes away meanwhile, or can't be read, is left out.
func count(root string) size {
	var sum size
	type inode struct{ device, number uint64 }
	linked := map[inode]bool{}
	device := uint64(0)
	_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error { // the function returns no other error than SkipDir
		if err != nil {
			return nil //nolint:nilerr // as the comment says
		}
		info, err := os.Lstat(path)
		if err != nil {
			return nil //nolint:nilerr // as the comment says
		}
		s, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if path == root {
			device = s.Dev
		} else if s.Dev != device {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if s.Nlink > 1 && !entry.IsDir() {
			if linked[inode{s.Dev, s.Ino}] {
				return nil
			}
			linked[inode{s.Dev, s.Ino}] = true
		}
		const blockSize = 512 // of st_blocks, whatever the file system's is
		sum.bytes += uint64(s.Blocks) * blockSize
		sum.files++
		return nil
	})
	return sum
}
