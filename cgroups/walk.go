package cgroups

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// walk calls visit for a cgroup's directory and all below it, the deepest first. What vanishes meanwhile is left out.
func walk(dir string, visit func(dir string) error) error {
	names, err := children(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := walk(dir+"/"+name, visit); err != nil {
			return err
		}
	}
	return visit(dir)
}

// children lists the names of the cgroups directly below a directory.
func children(dir string) ([]string, error) {
	// The count of links is 2 for a cgroup without children: most have none, and listing the 60 files of one costs 50 µs.
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, &fs.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if st.Nlink == 2 {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// removeTree removes a cgroup's directory and all below it. EBUSY comes back as it is: processes are still there.
func removeTree(dir string) error {
	// Nearly always there is nothing below, so try the one call first.
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return walk(dir, func(d string) error {
		if err := unix.Rmdir(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return &fs.PathError{Op: "rmdir", Path: d, Err: err}
		}
		return nil
	})
}

// makeDir makes one cgroup and tells whether it is new.
func makeDir(dir string) (bool, error) {
	err := unix.Mkdir(dir, 0o755)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, fs.ErrExist):
		return false, nil
	}
	return false, &fs.PathError{Op: "mkdir", Path: dir, Err: err}
}
