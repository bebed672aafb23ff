package eviction

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine is where observations are made. They cost some microseconds: no pod is looked at.
type Machine struct {
	Proc    string // "" is /proc
	NodeFs  string // a path on the file system that the agent, logs and volumes are on
	ImageFs func() (string, error)
	// AllPods, if not nil, is what all pods together use of memory, and what they may. Bytes.
	AllPods func() (workingSet, limit int64, err error)
}

// Observe looks once. What cannot be observed is missing in the answer, and in the error; dedicated says that images are on another file system.
func (m *Machine) Observe() (seen Observations, dedicated bool, err error) {
	seen = Observations{}
	proc := m.Proc
	if proc == "" {
		proc = "/proc"
	}
	var problems error
	if memory, err := memory(filepath.Join(proc, "meminfo")); err != nil {
		problems = errors.Join(problems, err)
	} else {
		seen[MemoryAvailable] = memory
	}
	if processes, err := processes(proc); err != nil {
		problems = errors.Join(problems, err)
	} else {
		seen[PIDAvailable] = processes
	}
	if m.AllPods != nil {
		if used, limit, err := m.AllPods(); err != nil {
			problems = errors.Join(problems, err)
		} else if limit > 0 {
			seen[AllocatableMemory] = Observation{Available: limit - used, Capacity: limit}
		}
	}
	node, err := disk(m.NodeFs, seen, NodeFsAvailable, NodeFsInodesFree)
	problems = errors.Join(problems, err)
	image := m.NodeFs
	if m.ImageFs != nil {
		path, err := m.ImageFs()
		if problems = errors.Join(problems, err); err == nil {
			image = path
		}
	}
	device, err := disk(image, seen, ImageFsAvailable, ImageFsInodesFree)
	problems = errors.Join(problems, err)
	return seen, err == nil && device != node, problems
}

// memory: what is free, or holds files that nobody used for a while, can be had. That is the kubelet's capacity less the working set of the root.
func memory(file string) (Observation, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return Observation{}, fmt.Errorf("reading how much memory there is: %w", err)
	}
	found, err := parseMeminfo(string(text))
	if err != nil {
		return Observation{}, fmt.Errorf("reading %s: %w", file, err)
	}
	return found, nil
}

func parseMeminfo(text string) (Observation, error) {
	kib := map[string]int64{}
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		if len(fields) == 0 {
			continue
		}
		if n, err := strconv.ParseInt(fields[0], 10, 64); err == nil {
			kib[name] = n
		}
	}
	total, ok := kib["MemTotal"]
	if !ok || total <= 0 {
		return Observation{}, errors.New("there is no MemTotal")
	}
	const unit = 1024
	return Observation{Capacity: total * unit, Available: (kib["MemFree"] + kib["Inactive(file)"]) * unit}, nil
}

// processes: the kernel counts threads, and refuses new ones at the lower of two limits.
func processes(proc string) (Observation, error) {
	most := int64(0)
	for _, file := range []string{"sys/kernel/pid_max", "sys/kernel/threads-max"} {
		text, err := os.ReadFile(filepath.Join(proc, file))
		if err != nil {
			return Observation{}, fmt.Errorf("reading how many processes there can be: %w", err)
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err != nil {
			return Observation{}, fmt.Errorf("reading how many processes there can be: %w", err)
		}
		if most == 0 || n < most {
			most = n
		}
	}
	text, err := os.ReadFile(filepath.Join(proc, "loadavg")) // 0.1 0.2 0.3 2/345 6789
	if err != nil {
		return Observation{}, fmt.Errorf("reading how many processes there are: %w", err)
	}
	fields := strings.Fields(string(text))
	if len(fields) < 4 {
		return Observation{}, fmt.Errorf("reading how many processes there are: %q", text)
	}
	_, all, _ := strings.Cut(fields[3], "/")
	running, err := strconv.ParseInt(all, 10, 64)
	if err != nil {
		return Observation{}, fmt.Errorf("reading how many processes there are: %w", err)
	}
	return Observation{Available: most - running, Capacity: most}, nil
}

func disk(path string, seen Observations, space, files Signal) (device uint64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, fmt.Errorf("asking for the size of the file system of %q: %w", path, err)
	}
	size := s.Bsize
	seen[space] = Observation{Available: int64(s.Bavail) * size, Capacity: int64(s.Blocks) * size}
	if s.Files > 0 { // some file systems count none
		seen[files] = Observation{Available: int64(s.Ffree), Capacity: int64(s.Files)}
	}
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return 0, fmt.Errorf("looking at %q: %w", path, err)
	}
	return stat.Dev, nil
}
