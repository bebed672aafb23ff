// Package controlgroup makes and removes control groups for nodes of test clusters: in every hierarchy on cgroup v1, in the one on v2.
//
// It knows nothing of shimd, whose package cgroups is about the groups of containers.
package controlgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	hierarchies = "/sys/fs/cgroup"
	unified     = hierarchies + "/unified"
)

// New makes a control group for a kubelet's cgroupRoot, in every hierarchy on v1: the kubelet wants to find it there. The name has no slash.
// Remove is its end.
func New(name string) error { return create(name, true) }

// NewLeaf makes a group for processes, below one that New has made. On v2 a group with processes can't give its children controllers.
func NewLeaf(name string) error { return create(name, false) }

func create(name string, parent bool) error {
	roots, v2, err := cgroupRoots()
	if err != nil {
		return err
	}
	for _, root := range roots {
		dir := filepath.Join(root, name)
		if err = os.Mkdir(dir, 0o755); errors.Is(err, fs.ErrExist) {
			err = nil
		}
		if err != nil {
			return fmt.Errorf("making a control group: %w", err)
		}
		if v2 {
			if parent {
				err = enableAll(dir)
			}
			if err != nil {
				return err
			}
			continue
		}
		// Empty at first, and then no process can enter.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(root, file))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, file), value, 0o644)
			}
			if err != nil {
				return fmt.Errorf("filling in %s of a control group: %w", file, err)
			}
		}
	}
	return nil
}

// Remove removes the group and all below. No process may be in there any more.
func Remove(name string) error {
	roots, v2, err := cgroupRoots()
	if err != nil {
		return err
	}
	if !v2 {
		// The kubelet makes groups in the v2 tree beside v1 too, unless it is hidden.
		if is2, err := isV2(unified); err == nil && is2 {
			roots = append(roots, unified)
		}
	}
	for _, root := range roots {
		err = errors.Join(err, removeTree(filepath.Join(root, name)))
	}
	return err
}

// Children are the paths of the groups below, relative to it, in any hierarchy.
func Children(name string) ([]string, error) {
	roots, _, err := cgroupRoots()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, root := range roots {
		dirs, err := subtree(filepath.Join(root, name))
		if err != nil {
			return nil, err
		}
		for _, dir := range dirs {
			if below, err := filepath.Rel(filepath.Join(root, name), dir); err == nil && below != "." {
				found = append(found, below)
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

func cgroupRoots() (roots []string, v2 bool, err error) {
	if v2, err = isV2(hierarchies); err != nil || v2 {
		return []string{hierarchies}, v2, err
	}
	entries, err := os.ReadDir(hierarchies)
	if err != nil {
		return nil, false, fmt.Errorf("listing control group hierarchies: %w", err)
	}
	for _, entry := range entries {
		// Two controllers in one hierarchy have a link each.
		if entry.IsDir() && entry.Name() != "unified" {
			roots = append(roots, filepath.Join(hierarchies, entry.Name()))
		}
	}
	return roots, false, nil
}

func isV2(dir string) (bool, error) {
	var info unix.Statfs_t
	if err := unix.Statfs(dir, &info); err != nil {
		return false, fmt.Errorf("looking at %s: %w", dir, err)
	}
	return info.Type == unix.CGROUP2_SUPER_MAGIC, nil
}

// HideUnified takes the v2 tree beside v1 out of this mount namespace, which is a test's own, when it has controllers: crun refuses machines that have
// controllers in both. What runtimes write there nevertheless is seen by nobody else, and goes with the namespace or with restore.
func HideUnified() (restore func() error, err error) {
	list, err := os.ReadFile(filepath.Join(unified, "cgroup.controllers"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && strings.TrimSpace(string(list)) == "" {
		return func() error { return nil }, nil
	}
	if err != nil {
		return nil, fmt.Errorf("hiding the v2 tree beside v1: %w", err)
	}
	hidden, err := unix.OpenTree(unix.AT_FDCWD, unified, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("hiding the v2 tree beside v1: %w", err)
	}
	err = unix.Unmount(unified, unix.MNT_DETACH)
	if err == nil {
		// The directory itself is the machine's.
		err = unix.Mount("tmpfs", unified, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("hiding the v2 tree beside v1: %w", err), unix.Close(hidden))
	}
	return func() error {
		err := unix.Unmount(unified, unix.MNT_DETACH)
		if err == nil {
			err = unix.MoveMount(hidden, "", unix.AT_FDCWD, unified, unix.MOVE_MOUNT_F_EMPTY_PATH)
		}
		if err := errors.Join(err, unix.Close(hidden)); err != nil {
			return fmt.Errorf("showing the v2 tree beside v1 again: %w", err)
		}
		return nil
	}, nil
}

// enableAll gives a group's children every controller that the group has.
func enableAll(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("reading the controllers of a control group: %w", err)
	}
	for controller := range strings.FieldsSeq(string(text)) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0o644); err != nil {
			return fmt.Errorf("passing on the %s controller of a control group: %w", controller, err)
		}
	}
	return nil
}

func subtree(dir string) ([]string, error) {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	return dirs, err
}

// removeTree removes a group and those below it. They are busy for a moment after their last process ended, and that one may have made more.
func removeTree(dir string) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		dirs, err := subtree(dir)
		if err != nil {
			return fmt.Errorf("removing the control group %s: %w", dir, err)
		}
		slices.Reverse(dirs)
		var problem error
		for _, dir := range dirs {
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) && problem == nil {
				problem = fmt.Errorf("removing the control group %s: %w", dir, err)
			}
		}
		if problem == nil || time.Now().After(deadline) {
			return problem
		}
	}
}
