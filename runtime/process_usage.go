package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// ContainerProcesses looks at what the processes of a running container hold. It reads a directory of /proc for each of them, so it is for
// metrics, which are asked for seldom, and not part of ContainerStats.
func (r *Runtime) ContainerProcesses(ctx context.Context, id ContainerID) (ProcessUsage, error) {
	c, err := r.findContainer(id)
	if err != nil {
		return ProcessUsage{}, err
	}
	c.mu.Lock()
	cgroup := c.cgroup
	c.mu.Unlock()
	if cgroup == nil || c.snapshot().Phase != containerRunning {
		return ProcessUsage{}, fmt.Errorf("container %s does not run: %w", id, errdefs.ErrNotFound)
	}
	pids, err := cgroup.Procs()
	if err != nil {
		return ProcessUsage{}, fmt.Errorf("container %s: listing its processes: %w", id, err)
	}
	return processUsage(ctx, "/proc", pids)
}

// processUsage adds up what the processes hold. Those that end meanwhile count for nothing.
func processUsage(ctx context.Context, proc string, pids []int) (ProcessUsage, error) {
	var usage ProcessUsage
	for _, pid := range pids {
		if err := ctx.Err(); err != nil {
			return usage, err
		}
		dir := filepath.Join(proc, strconv.Itoa(pid))
		descriptors, sockets, err := countDescriptors(filepath.Join(dir, "fd"))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return usage, fmt.Errorf("counting the descriptors of process %d: %w", pid, err)
		}
		usage.Descriptors += descriptors
		usage.Sockets += sockets
		if usage.OpenFiles == nil { // of the first process, whose limit the others inherit
			if limits, err := os.ReadFile(filepath.Join(dir, "limits")); err == nil {
				usage.OpenFiles = openFiles(limits)
			}
		}
	}
	return usage, nil
}

func countDescriptors(dir string) (all, sockets uint64, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, 0, err
	}
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		all++
		if strings.HasPrefix(target, "socket:") {
			sockets++
		}
	}
	return all, sockets, nil
}

// openFiles finds the soft limit of open files in /proc/PID/limits; nil for none.
func openFiles(limits []byte) *uint64 {
	for line := range bytes.Lines(limits) {
		if rest, found := bytes.CutPrefix(line, []byte("Max open files")); found {
			if fields := bytes.Fields(rest); len(fields) > 0 {
				if soft, err := strconv.ParseUint(string(fields[0]), 10, 64); err == nil {
					return &soft
				}
			}
		}
	}
	return nil
}
