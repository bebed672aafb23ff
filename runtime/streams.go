package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/keeper"
)

// A container's streams are FIFOs in its state directory. The container's own ends of its output are open for reading and
// writing, so that they outlive a keeper that is killed: the container never sees a broken pipe, and the next keeper opens the FIFO again by name.

// makeStreams makes the FIFOs that the container asks for.
func makeStreams(c *container) error {
	cfg := c.record.Config
	if cfg.TTY {
		return nil
	}
	names := []string{"stdout", "stderr"}
	if cfg.Stdin {
		names = append(names, "stdin")
	}
	for _, name := range names {
		path := filepath.Join(c.dir, name)
		if err := unix.Mkfifo(path, 0o666); err != nil && err != unix.EEXIST {
			return fmt.Errorf("making the FIFO for %s: %w", name, err)
		}
		// Any user may open /dev/stdout again by its name; nobody else gets at the directory.
		if err := os.Chmod(path, 0o666); err != nil {
			return fmt.Errorf("making the FIFO for %s: %w", name, err)
		}
	}
	return nil
}

// containerEnds opens the container's ends of its streams: stdin, stdout, stderr.
func containerEnds(c *container) (ends [3]*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(ends[:]...)
		}
	}()
	cfg := c.record.Config
	if cfg.Stdin {
		ends[0], err = openReader(filepath.Join(c.dir, "stdin"))
	} else {
		ends[0], err = os.OpenFile("/dev/null", os.O_RDWR, 0)
	}
	if err != nil {
		return ends, fmt.Errorf("opening stdin: %w", err)
	}
	for i, name := range []string{"stdout", "stderr"} {
		fd, err := unix.Open(filepath.Join(c.dir, name), unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return ends, fmt.Errorf("opening %s: %w", name, err)
		}
		ends[i+1] = os.NewFile(uintptr(fd), name)
	}
	return ends, nil
}

// openReader opens the reading end of a FIFO that nobody writes to yet, blocking from then on.
func openReader(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// keeperEnds opens the keeper's ends of a container's FIFOs and its log.
func (r *Runtime) keeperEnds(c *container) (*keeper.IO, error) {
	cfg := c.record.Config
	streams := &keeper.IO{StdinOnce: cfg.StdinOnce, MaxLogLine: r.MaxLogLine}
	log, err := openLog(c)
	if err != nil {
		return nil, err
	}
	streams.Log = log
	if cfg.TTY {
		return streams, nil
	}
	open := func(name string, flags int) *os.File {
		if err != nil {
			return nil
		}
		var fd int
		if fd, err = unix.Open(filepath.Join(c.dir, name), flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
			err = fmt.Errorf("opening the FIFO for %s: %w", name, err)
			return nil
		}
		return os.NewFile(uintptr(fd), name)
	}
	streams.Stdout, streams.Stderr = open("stdout", unix.O_RDONLY), open("stderr", unix.O_RDONLY)
	if cfg.Stdin {
		streams.Stdin = open("stdin", unix.O_WRONLY)
	}
	if err != nil {
		closeStreams(streams)
		return nil, err
	}
	return streams, nil
}

// openLog opens the container's log below the sandbox's log directory, without following a link out of it (CVE-2025-0750).
func openLog(c *container) (*os.File, error) {
	directory, path := c.sandbox.snapshot().Config.LogDirectory, c.record.Config.LogPath
	if directory == "" || path == "" {
		return nil, nil
	}
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return nil, fmt.Errorf("making the log directory: %w", err)
	}
	root, err := os.OpenRoot(directory)
	if err != nil {
		return nil, fmt.Errorf("opening the log directory: %w", err)
	}
	defer root.Close()
	if err := root.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making the directory of log %s: %w: %w", path, err, errdefs.ErrFailedPrecondition)
	}
	// Without O_NONBLOCK, a FIFO that somebody planted there would hang the start for ever.
	file, err := root.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NONBLOCK, 0o640)
	if err != nil {
		return nil, fmt.Errorf("opening log %s in %s: %w: %w", path, directory, err, errdefs.ErrFailedPrecondition)
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		file.Close()
		return nil, fmt.Errorf("opening log %s in %s: it is no regular file: %w", path, directory, errors.Join(err, errdefs.ErrFailedPrecondition))
	}
	return file, nil
}

func closeStreams(streams *keeper.IO) {
	closeAll(streams.Stdin, streams.Stdout, streams.Stderr, streams.Terminal, streams.Log)
}

func closeAll(files ...*os.File) {
	for _, file := range files {
		if file != nil {
			file.Close()
		}
	}
}
