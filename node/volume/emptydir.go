package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/shimd/shimd/node/qos"
)

// emptyDir makes a volume where none is: whole, with its owner and mode, or not at all. What the pod made of it since stays.
func (s *Store) emptyDir(r *reading, v *corev1.Volume) error {
	dir, group, mode := s.Path(r.pod, v), fsGroup(r.pod), emptyDirMode(v.EmptyDir)
	switch medium := v.EmptyDir.Medium; {
	case medium == corev1.StorageMediumDefault:
		return makeEmpty(dir, mode, group)
	case medium == corev1.StorageMediumMemory:
		if _, err := makeDirectory(dir); err != nil {
			return err
		}
		mounted, err := ensureTmpfs(dir, memorySize(r, v.EmptyDir))
		if err != nil || !mounted {
			return err
		}
		return own(dir, mode, group)
	case strings.HasPrefix(string(medium), string(corev1.StorageMediumHugePages)):
		if _, err := makeDirectory(dir); err != nil {
			return err
		}
		mounted, err := ensureHugePages(dir, r.pod, medium)
		if err != nil || !mounted {
			return err
		}
		return own(dir, mode, group)
	default:
		return fmt.Errorf("emptyDir medium %q: %w", medium, errdefs.ErrNotImplemented)
	}
}

func emptyDirMode(source *corev1.EmptyDirVolumeSource) fs.FileMode {
	if source.Mode == nil {
		return 0o777
	}
	mode := fs.FileMode(*source.Mode) & fs.ModePerm
	if *source.Mode&unix.S_ISVTX != 0 {
		mode |= fs.ModeSticky
	}
	return mode
}

// makeEmpty makes a directory under another name first, so that one that is there is finished.
func makeEmpty(dir string, mode fs.FileMode, group *int64) error {
	if _, err := os.Lstat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	unfinished := filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir)+".new")
	if _, err := makeDirectory(unfinished); err != nil {
		return err
	}
	if err := own(unfinished, mode, group); err != nil {
		return err
	}
	return os.Rename(unfinished, dir)
}

// own gives a new volume to the pod's group: what is made in it belongs to the group too.
func own(dir string, mode fs.FileMode, group *int64) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if group != nil {
		mode |= groupWrites
	}
	return giveDirectory(root, ".", mode, group)
}

// memorySize is the option that bounds a tmpfs: the volume's own limit, the pod's, or what all pods together may have.
func memorySize(r *reading, source *corev1.EmptyDirVolumeSource) string {
	most := int64(0)
	lower := func(q *resource.Quantity) {
		if q != nil && q.Sign() > 0 && (most == 0 || q.Value() < most) {
			most = q.Value()
		}
	}
	if allocatable, err := r.allocatable(); err == nil { // not known without an API server: then half of the memory, as the kernel has it
		lower(allocatable.Memory())
	}
	lower(resource.NewQuantity(qos.MemoryLimit(r.pod), resource.BinarySI))
	lower(source.SizeLimit)
	if most == 0 {
		return ""
	}
	return "size=" + strconv.FormatInt(most, 10)
}

// ensureTmpfs mounts a tmpfs where none is yet, and says whether it did. What is in it is not swapped out, where the kernel can do that (Linux 6.4).
func ensureTmpfs(dir, options string) (bool, error) {
	mounted, err := isMountPoint(dir)
	if err != nil || mounted {
		return false, err
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	err = unix.Mount("tmpfs", dir, "tmpfs", flags, strings.TrimPrefix(options+",noswap", ","))
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
		err = unix.Mount("tmpfs", dir, "tmpfs", flags, options)
	}
	if err != nil {
		return false, fmt.Errorf("mounting a tmpfs on %s: %w", dir, err)
	}
	return true, nil
}

// ensureHugePages does the same for a hugetlbfs: of the size that the medium names, else of the only one that the pod asks for.
func ensureHugePages(dir string, pod *corev1.Pod, medium corev1.StorageMedium) (bool, error) {
	mounted, err := isMountPoint(dir)
	if err != nil || mounted {
		return false, err
	}
	size, err := hugePageSize(pod, medium)
	if err != nil {
		return false, err
	}
	if err := unix.Mount("nodev", dir, "hugetlbfs", unix.MS_NOSUID|unix.MS_NODEV, "pagesize="+strconv.FormatInt(size, 10)); err != nil {
		return false, fmt.Errorf("mounting huge pages on %s: %w", dir, err)
	}
	return true, nil
}

func hugePageSize(pod *corev1.Pod, medium corev1.StorageMedium) (int64, error) {
	found := map[int64]bool{}
	for c := range containers(pod) {
		for name := range c.Resources.Requests {
			text, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix)
			if size, err := resource.ParseQuantity(text); ok && err == nil {
				found[size.Value()] = true
			}
		}
	}
	if text, ok := strings.CutPrefix(string(medium), string(corev1.StorageMediumHugePagesPrefix)); ok {
		size, err := resource.ParseQuantity(text)
		if err != nil {
			return 0, fmt.Errorf("medium %s: %w: %w", medium, err, errdefs.ErrInvalidArgument)
		}
		if !found[size.Value()] {
			return 0, fmt.Errorf("medium %s: no container requests huge pages of that size: %w", medium, errdefs.ErrInvalidArgument)
		}
		return size.Value(), nil
	}
	for size := range found {
		if len(found) == 1 {
			return size, nil
		}
	}
	return 0, fmt.Errorf("medium %s: the containers have to request huge pages of one size, not of %d: %w", medium, len(found), errdefs.ErrInvalidArgument)
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
