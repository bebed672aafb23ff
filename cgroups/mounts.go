package cgroups

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// layout is what is mounted below the root of the cgroup file systems.
type layout struct {
	version     int
	hierarchies []hierarchy // v1 only
	beside      string      // where v2 is mounted beside v1, with no limits of ours in it; "" where it is not
}

// hierarchy is one mounted v1 hierarchy; several controllers can share it ("cpu,cpuacct"), and named ones (systemd) have none.
type hierarchy struct {
	dir         string
	controllers []string // as in the mount options, with "name=systemd"
}

// discover reads how cgroups are mounted.
func discover(root string) (layout, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return layout{}, fmt.Errorf("finding the mounted cgroup hierarchies: %w", err)
	}
	return parseLayout(data, root)
}

// parseLayout finds the hierarchies below root in the text of a mountinfo file. Where v1 controllers are mounted beside an empty v2
// tree (systemd's "hybrid" mode), v1 has the controllers, so that is the version.
func parseLayout(mountinfo []byte, root string) (layout, error) {
	var l layout
	unified := false
	lines := bufio.NewScanner(bytes.NewReader(mountinfo))
	for lines.Scan() {
		// 32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:1 - cgroup cgroup rw,cpu
		left, right, found := strings.Cut(lines.Text(), " - ")
		mount, super := strings.Fields(left), strings.Fields(right)
		if !found || len(mount) < 5 || len(super) < 3 {
			continue
		}
		dir := unescapeMount(mount[4])
		switch {
		case super[0] == "cgroup2" && dir == filepath.Clean(root):
			unified = true
		case super[0] == "cgroup2" && filepath.Dir(dir) == filepath.Clean(root):
			l.beside = dir
		case super[0] == "cgroup" && filepath.Dir(dir) == filepath.Clean(root):
			l.addV1(dir, strings.Split(super[2], ","))
		}
	}
	if err := lines.Err(); err != nil {
		return l, fmt.Errorf("reading mountinfo: %w", err)
	}
	switch {
	case len(l.hierarchies) > 0:
		l.version = 1
	case unified:
		l.version = 2
	default:
		return l, fmt.Errorf("no cgroup hierarchy is mounted at %s: mount one, or name the place in the configuration: %w", root, errdefs.ErrFailedPrecondition)
	}
	return l, nil
}

// addV1 notes a v1 mount. One hierarchy may be mounted twice: the first counts.
func (l *layout) addV1(dir string, options []string) {
	var controllers []string
	for _, o := range options {
		switch {
		case strings.HasPrefix(o, "name="):
		case strings.Contains(o, "="), slices.Contains([]string{"rw", "ro", "none", "noprefix", "clone_children", "xattr", "cpuset_v2_mode", "favordynmods", "all", "nosuid", "nodev", "noexec", "seclabel"}, o):
			continue
		}
		controllers = append(controllers, o)
	}
	for _, h := range l.hierarchies {
		if slices.Equal(h.controllers, controllers) {
			return
		}
	}
	if len(controllers) > 0 {
		l.hierarchies = append(l.hierarchies, hierarchy{dir: dir, controllers: controllers})
	}
}

// unescapeMount undoes the octal escapes of mountinfo.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
