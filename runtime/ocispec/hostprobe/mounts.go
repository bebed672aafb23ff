package hostprobe

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/shimd/shimd/runtime/request"
)

// Mounts prepares the host's side of a request's mounts: symlinks are followed, a missing directory is made, and a mount that is to receive or pass on others must
// stand on one that does. The result has the real paths; the request is not changed. Image volumes are left as they are.
//
// CRI lets a runtime refuse a missing path, but clients count on containerd's way, and critest does.
func Mounts(requested []request.Mount) ([]request.Mount, error) {
	list := slices.Clone(requested)
	for i := range list {
		m := &list[i]
		if m.Image != nil {
			continue
		}
		if err := prepare(m); err != nil {
			return nil, fmt.Errorf("mounts[%d]: host_path %q: %w", i, m.HostPath, err)
		}
	}
	return list, nil
}

func prepare(m *request.Mount) error {
	if !filepath.IsAbs(m.HostPath) {
		return fmt.Errorf("not an absolute path: %w", errdefs.ErrInvalidArgument)
	}
	real, err := filepath.EvalSymlinks(m.HostPath)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(m.HostPath, 0o755); err != nil {
			return fmt.Errorf("making the directory: %w", err)
		}
		real, err = filepath.EvalSymlinks(m.HostPath)
	}
	if err != nil {
		return err
	}
	m.HostPath = real
	switch m.Propagation {
	case request.PropagationBidirectional:
		return checkPropagation(real, "shared:")
	case request.PropagationHostToContainer:
		return checkPropagation(real, "shared:", "master:")
	}
	return nil
}

// checkPropagation reads the host's mounts only for those who ask for propagation: a node has thousands.
func checkPropagation(path string, wanted ...string) error {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	point, optional := mountOf(string(table), path)
	for _, o := range optional {
		if slices.ContainsFunc(wanted, func(w string) bool { return strings.HasPrefix(o, w) }) {
			return nil
		}
	}
	return fmt.Errorf("it stands on the mount %s, which is not %s: %w", point,
		strings.TrimSuffix(strings.Join(wanted, " or "), ":"), errdefs.ErrFailedPrecondition)
}

// mountOf finds the mount that a path stands on, the last and deepest of the table, and its optional fields (proc(5)).
func mountOf(table, path string) (point string, optional []string) {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.SplitSeq(table, "\n") {
		fields := strings.Fields(line)
		if len(fields) < 7 {
			continue
		}
		p := unescape.Replace(fields[4])
		if p != "/" && p != path && !strings.HasPrefix(path, p+"/") || len(p) < len(point) {
			continue
		}
		point, optional = p, nil
		for _, f := range fields[6:] {
			if f == "-" {
				break
			}
			optional = append(optional, f)
		}
	}
	return point, optional
}
