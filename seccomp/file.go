package seccomp

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// maxProfileSize bounds what is read of a profile file.
const maxProfileSize = 4 << 20

// Load reads the profile file that a request names: an absolute path, or one relative to root that stays below it; CRI's older spelling has
// "localhost/" before either. An empty name is an error, never "unconfined" (CVE-2023-2431).
func Load(root, name string) (*Profile, error) {
	rel := strings.TrimPrefix(name, "localhost/")
	if rel == "" {
		return nil, fmt.Errorf("seccomp: a localhost profile was asked for without a name: %w", errdefs.ErrInvalidArgument)
	}
	file := filepath.Clean(rel)
	if !filepath.IsAbs(rel) {
		if !filepath.IsLocal(rel) {
			return nil, fmt.Errorf("seccomp: the profile %q lies outside %s: %w", name, root, errdefs.ErrInvalidArgument)
		}
		file = filepath.Join(root, rel)
	}
	data, err := readProfile(file)
	if err != nil {
		return nil, fmt.Errorf("seccomp: reading the profile %q: %w", name, err)
	}
	p, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("seccomp: profile %q: %w", name, err)
	}
	return p, nil
}

func readProfile(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if os.IsNotExist(err) {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // opening a FIFO would wait for ever
		return nil, fmt.Errorf("%s is not a regular file: %w", file, errdefs.ErrInvalidArgument)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxProfileSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxProfileSize {
		return nil, fmt.Errorf("%s is larger than %d bytes: %w", file, maxProfileSize, errdefs.ErrInvalidArgument)
	}
	return data, nil
}
