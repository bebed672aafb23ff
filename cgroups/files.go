package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Files of cgroups are small, never block and are read and written by one call: they are opened without the poller and the
// bookkeeping of os.File, which would cost as much as the call itself.

// writeFile writes a cgroup's file, which must exist.
func writeFile(path, value string) error {
	fd, err := openRetry(path, unix.O_WRONLY)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	for {
		_, err = unix.Write(fd, []byte(value))
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// readFile reads a cgroup's file.
func readFile(path string) (string, error) {
	fd, err := openRetry(path, unix.O_RDONLY)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var data []byte
	buf := make([]byte, 4096)
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return "", &fs.PathError{Op: "read", Path: path, Err: err}
		case n == 0:
			return string(data), nil
		}
		data = append(data, buf[:n]...)
	}
}

func openRetry(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// apply carries out a plan. dirOf tells the directory of a controller's files, "" when the kernel or the machine has no such controller.
func apply(writes []write, dirOf func(controller string) string) error {
	var again []write
	for _, w := range writes {
		err := w.do(dirOf(w.controller))
		if w.later && errors.Is(err, unix.EINVAL) {
			again = append(again, w)
			continue
		}
		if err != nil {
			return err
		}
	}
	for _, w := range again {
		if err := w.do(dirOf(w.controller)); err != nil {
			return err
		}
	}
	return nil
}

func (w write) do(dir string) error {
	if dir == "" {
		if w.optional {
			return nil
		}
		return fmt.Errorf("%s: the %s controller is not available on this machine: %w", w.field, w.controller, errdefs.ErrFailedPrecondition)
	}
	value := w.value
	if w.keepFirst {
		current, err := readFile(dir + "/" + w.file)
		if err != nil {
			return fmt.Errorf("%s: %w", w.field, err)
		}
		first, _, _ := strings.Cut(strings.TrimSpace(current), " ")
		value = first + " " + value
	}
	err := writeFile(dir+"/"+w.file, value)
	if err == nil || w.optional && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return explain(w, dir, err)
}

// explain adds to a refused write what the kernel means by its error.
func explain(w write, dir string, err error) error {
	var why string
	var kind error
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, statErr := readFile(dir + "/cgroup.procs"); errors.Is(statErr, fs.ErrNotExist) {
			return fmt.Errorf("%s: the cgroup %s is gone: %w", w.field, dir, errdefs.ErrNotFound)
		}
		why, kind = "this kernel has no "+w.file, errdefs.ErrFailedPrecondition
	case errors.Is(err, unix.EBUSY) && strings.HasPrefix(w.file, "memory."):
		why, kind = "the cgroup uses more than that now and it could not be reclaimed", errdefs.ErrFailedPrecondition
	case errors.Is(err, unix.EACCES) && w.controller == "cpuset", errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EBUSY):
		why, kind = "in conflict with what its parent has or its children use", errdefs.ErrFailedPrecondition
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE):
		why, kind = "the kernel refuses this value, or it is beyond the parent's", errdefs.ErrInvalidArgument
	default:
		return fmt.Errorf("%s: setting %s to %q: %w", w.field, w.file, w.value, err)
	}
	return fmt.Errorf("%s: setting %s to %q: %s (%w): %w", w.field, w.file, w.value, why, err, kind)
}

// parseProcs reads the numbers of a cgroup.procs file. Zeros are processes outside the reader's PID namespace.
func parseProcs(text string, pids []int) []int {
	for line := range strings.Lines(text) {
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// procsBelow lists the processes in a cgroup's directory and all below, each once.
func procsBelow(dir string) ([]int, error) {
	var pids []int
	err := walk(dir, func(d string) error {
		text, err := readFile(d + "/cgroup.procs")
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV):
			return nil // removed while we looked
		case errors.Is(err, unix.EOPNOTSUPP):
			return nil // a threaded cgroup: its processes are listed in the one above
		case err != nil:
			return err
		}
		pids = parseProcs(text, pids)
		return nil
	})
	slices.Sort(pids)
	return slices.Compact(pids), err
}
