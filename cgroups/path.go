package cgroups

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

const sliceSuffix = ".slice"

// parsePath checks a path that names a cgroup below the root and brings it to its one spelling. What comes from a client must never
// leave the hierarchy ("..") nor name its root, whose removal would be everybody's end.
func parsePath(s string) (Path, error) {
	var b strings.Builder
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || part == "." {
			continue
		}
		if err := checkName(part); err != nil {
			return "", fmt.Errorf("cgroup path %q: %w", s, err)
		}
		b.WriteByte('/')
		b.WriteString(part)
	}
	if b.Len() == 0 {
		return "", fmt.Errorf("cgroup path %q names the root of the hierarchy: %w", s, errdefs.ErrInvalidArgument)
	}
	return Path(b.String()), nil
}

// checkName checks one component of a path.
func checkName(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("%q is not a name of a cgroup: %w", name, errdefs.ErrInvalidArgument)
	case len(name) > 255:
		return fmt.Errorf("a name of %d bytes is longer than the 255 of a file name: %w", len(name), errdefs.ErrInvalidArgument)
	case strings.ContainsAny(name, "/\n\x00"):
		return fmt.Errorf("%q holds a slash, a line feed or a zero byte: %w", name, errdefs.ErrInvalidArgument)
	}
	return nil
}

// isRoot tells whether a client's cgroup parent means "no group of the pod's own", as the kubelet sends it when it runs with
// --cgroups-per-qos=false. Containers are never put at the root itself: it answers as if nothing was asked.
func isRoot(parent string) bool {
	return parent == "" || parent == "-"+sliceSuffix || strings.Trim(parent, "/") == ""
}

// cgroupfsParent is the path of a pod's cgroup parent for the cgroupfs driver.
func cgroupfsParent(parent string) (Path, error) {
	if strings.HasSuffix(parent, sliceSuffix) && !strings.Contains(parent, "/") {
		return "", fmt.Errorf("cgroup parent %q is a systemd slice, but the runtime's cgroup driver is cgroupfs: "+
			"give the kubelet and the runtime the same driver: %w", parent, errdefs.ErrInvalidArgument)
	}
	return parsePath(parent)
}

// systemdParent is the path of a pod's slice. It takes the slice's name, as the kubelet sends it, or its whole expanded path.
func systemdParent(parent string) (Path, error) {
	name := strings.Trim(parent, "/")
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		last := name[i+1:]
		path, err := expandSlice(last)
		if err != nil {
			return "", err
		}
		if string(path) != "/"+name {
			return "", fmt.Errorf("cgroup parent %q is not where systemd keeps the slice %s (%s): %w", parent, last, path, errdefs.ErrInvalidArgument)
		}
		return path, nil
	}
	return expandSlice(name)
}

// expandSlice turns a slice's name to its path: each dash is a level, so "a-b.slice" is "/a.slice/a-b.slice".
func expandSlice(name string) (Path, error) {
	if err := checkName(name); err != nil {
		return "", fmt.Errorf("slice: %w", err)
	}
	stem, found := strings.CutSuffix(name, sliceSuffix)
	if !found {
		return "", fmt.Errorf("cgroup parent %q does not end in .slice, but the runtime's cgroup driver is systemd: "+
			"give the kubelet and the runtime the same driver: %w", name, errdefs.ErrInvalidArgument)
	}
	if !isUnitName(stem) {
		return "", fmt.Errorf("slice %q holds characters that no unit's name has: %w", name, errdefs.ErrInvalidArgument)
	}
	var b strings.Builder
	start := 0
	for i, c := range []byte(stem + "-") {
		if c != '-' {
			continue
		}
		if i == start {
			return "", fmt.Errorf("slice %q has an empty component: %w", name, errdefs.ErrInvalidArgument)
		}
		start = i + 1
		b.WriteString("/" + stem[:i] + sliceSuffix)
	}
	return Path(b.String()), nil
}

// isUnitName tells whether s consists of characters that systemd allows in the name of a unit (systemd.unit(5)).
func isUnitName(s string) bool {
	if s == "" {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte(`:-_.\`, c) >= 0:
		default:
			return false
		}
	}
	return true
}

// lastName is the last component of a path.
func (p Path) lastName() string { return string(p[strings.LastIndexByte(string(p), '/')+1:]) }

// dir is the path without its last component; "" for a path of one component, which is the root.
func (p Path) dir() Path { return p[:strings.LastIndexByte(string(p), '/')] }
