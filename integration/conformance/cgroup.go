package conformance

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// cgroupVariable tells the program that it is in the namespace already.
const cgroupVariable = "SHIMD_CONFORMANCE_CGROUP"

const cgroupTree = "/sys/fs/cgroup"

// hierarchy is one mounted control group tree.
type hierarchy struct {
	dir     string // where it is mounted: /sys/fs/cgroup/memory
	kind    string // cgroup or cgroup2
	options string // its controllers, or its name: what a second mount of the same must say
}

// EnterCgroup puts this program into a control group of its own, which looks like the root from then on: e2e_node.test wants to find kubepods there,
// and the machine's root is not the test's. It must be called in an enclosure's mount namespace, early: the program runs again from its beginning.
// Who called the enclosure removes the group, when everything in it has ended.
func EnterCgroup(name string) error {
	if os.Getenv(cgroupVariable) == name {
		return remountCgroups()
	}
	found, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range found {
		if err := join(h, name); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	// Exec leaves the calling thread's namespaces to the new program; other threads end.
	goruntime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("making a control group namespace: %w", err)
	}
	return fmt.Errorf("running this program again: %w", syscall.Exec(self, os.Args, append(os.Environ(), cgroupVariable+"="+name)))
}

// join makes the group and puts this process there.
func join(h hierarchy, name string) error {
	dir := filepath.Join(h.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making a control group: %w", err)
	}
	if h.kind == "cgroup" {
		// Empty at first, and then no process can enter.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(h.dir, file))
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
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
		return fmt.Errorf("entering a control group: %w", err)
	}
	return nil
}

// remountCgroups mounts every hierarchy anew: a mount shows the tree from the root of its namespace. The old mounts go, for whoever reads mountinfo
// and takes the first that fits.
func remountCgroups() error {
	found, err := hierarchies()
	if err != nil {
		return err
	}
	links, err := aliases()
	if err != nil {
		return err
	}
	if err := unix.Unmount(cgroupTree, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmounting the machine's control groups: %w", err)
	}
	if len(found) == 1 && found[0].dir == cgroupTree {
		return mountUnified()
	}
	if err := unix.Mount("tmpfs", cgroupTree, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755"); err != nil {
		return fmt.Errorf("mounting control groups: %w", err)
	}
	for _, h := range found {
		if err := os.MkdirAll(h.dir, 0o755); err != nil {
			return fmt.Errorf("mounting control groups: %w", err)
		}
		if err := unix.Mount(h.kind, h.dir, h.kind, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, h.options); err != nil {
			return fmt.Errorf("mounting %s (%s): %w", h.dir, h.options, err)
		}
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(cgroupTree, name)); err != nil {
			return fmt.Errorf("mounting control groups: %w", err)
		}
	}
	return nil
}

// mountUnified is for pure v2, where a group that passes on controllers can't have processes: this one goes to a group below.
func mountUnified() error {
	if err := unix.Mount("cgroup2", cgroupTree, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting control groups: %w", err)
	}
	if err := join(hierarchy{dir: cgroupTree, kind: "cgroup2"}, "conformance"); err != nil {
		return err
	}
	controllers, err := os.ReadFile(filepath.Join(cgroupTree, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("reading the controllers of a control group: %w", err)
	}
	for controller := range strings.FieldsSeq(string(controllers)) {
		if err := os.WriteFile(filepath.Join(cgroupTree, "cgroup.subtree_control"), []byte("+"+controller), 0o644); err != nil {
			return fmt.Errorf("passing on the %s controller of a control group: %w", controller, err)
		}
	}
	return nil
}

// aliases are the links of the tree: cpu and cpuacct to cpu,cpuacct on many machines.
func aliases() (map[string]string, error) {
	entries, err := os.ReadDir(cgroupTree)
	if err != nil {
		return nil, fmt.Errorf("listing control group hierarchies: %w", err)
	}
	links := map[string]string{}
	for _, entry := range entries {
		if entry.Type()&fs.ModeSymlink == 0 {
			continue
		}
		if links[entry.Name()], err = os.Readlink(filepath.Join(cgroupTree, entry.Name())); err != nil {
			return nil, fmt.Errorf("listing control group hierarchies: %w", err)
		}
	}
	return links, nil
}

func hierarchies() ([]hierarchy, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("looking for control groups: %w", err)
	}
	defer file.Close()
	var found []hierarchy
	for lines := bufio.NewScanner(file); lines.Scan(); {
		h, ok := parseHierarchy(lines.Text())
		if ok && !slices.ContainsFunc(found, func(other hierarchy) bool { return other.dir == h.dir }) {
			found = append(found, h)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("looking for control groups: nothing is mounted at %s", cgroupTree)
	}
	return found, nil
}

// parseHierarchy reads one line of mountinfo (proc_pid_mountinfo(5)).
func parseHierarchy(line string) (hierarchy, bool) {
	before, after, found := strings.Cut(line, " - ")
	fields, super := strings.Fields(before), strings.Fields(after)
	if !found || len(fields) < 5 || len(super) < 3 {
		return hierarchy{}, false
	}
	h := hierarchy{dir: fields[4], kind: super[0]}
	if (h.kind != "cgroup" && h.kind != "cgroup2") || (h.dir != cgroupTree && !strings.HasPrefix(h.dir, cgroupTree+"/")) {
		return hierarchy{}, false
	}
	if h.kind == "cgroup2" {
		return h, true
	}
	var options []string
	for option := range strings.SplitSeq(super[2], ",") {
		switch name, _, _ := strings.Cut(option, "="); name {
		case "rw", "ro", "xattr", "clone_children", "noprefix", "release_agent", "cpuset_v2_mode":
		case "name":
			options = append(options, "none", option) // a tree without controllers
		default:
			options = append(options, option)
		}
	}
	h.options = strings.Join(options, ",")
	return h, true
}
