package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Idle is what pods at rest cost.
type Idle struct {
	Pods            int     `json:"pods"`
	ProcessesPerPod float64 `json:"processesPerPod"` // of the runtime's, containers' own not counted
	PSSPerPodMiB    float64 `json:"pssPerPodMiB"`
	EmptyPSSMiB     float64 `json:"emptyPSSMiB"` // before the pods
	FullPSSMiB      float64 `json:"fullPSSMiB"`
	CPUPercent      float64 `json:"cpuPercentOfACore"`
}

// ProcessFilter finds a runtime's processes: those named, their descendants, and whatever appears with the pods but is not theirs.
type ProcessFilter struct {
	PIDs  []int          // when set, instead of Names
	Names *regexp.Regexp // of the program's file name
}

// container is the program that runs in the containers: sleep, by its name in any image.
const container = "sleep"

// process is one entry of /proc.
type process struct {
	pid, parent int
	name        string
	ticks       uint64 // of CPU
}

const (
	mebibyte = 1 << 20
	// userHz is the unit of /proc/PID/stat's times, the same on all that Go runs on.
	userHz = 100
)

func (m *measurement) idle(ctx context.Context) (_ *Idle, err error) {
	before, err := m.runtimeProcesses()
	if err != nil {
		return nil, err
	}
	empty, err := totalPSS(before)
	if err != nil {
		return nil, err
	}
	var lives []*life
	defer func() {
		for _, l := range lives {
			err = errors.Join(err, m.remove(ctx, l))
		}
	}()
	for range m.opts.IdlePods {
		l, err := m.start(ctx)
		lives = append(lives, l)
		if err != nil {
			return nil, err
		}
	}
	time.Sleep(time.Second) // what is left of the last start
	begin, err := m.runtimeProcesses()
	if err != nil {
		return nil, err
	}
	time.Sleep(m.opts.Idle)
	end, err := m.runtimeProcesses()
	if err != nil {
		return nil, err
	}
	full, err := totalPSS(end)
	if err != nil {
		return nil, err
	}
	pods := float64(m.opts.IdlePods)
	return &Idle{
		Pods:            m.opts.IdlePods,
		ProcessesPerPod: float64(len(end)-len(before)) / pods,
		PSSPerPodMiB:    float64(full-empty) / mebibyte / pods,
		EmptyPSSMiB:     float64(empty) / mebibyte,
		FullPSSMiB:      float64(full) / mebibyte,
		CPUPercent:      float64(totalTicks(end)-totalTicks(begin)) / userHz / m.opts.Idle.Seconds() * 100,
	}, nil
}

// runtimeProcesses are the processes of the runtime now.
func (m *measurement) runtimeProcesses() ([]process, error) {
	all, err := listProcesses()
	if err != nil {
		return nil, err
	}
	filter := m.opts.Processes
	mine := map[int]bool{}
	for _, p := range all {
		if slices.Contains(filter.PIDs, p.pid) || (len(filter.PIDs) == 0 && filter.Names != nil && filter.Names.MatchString(p.name)) {
			mine[p.pid] = true
		}
	}
	if len(mine) == 0 {
		return nil, errors.New("looking for the runtime's processes: none found; name them by -runtime-pids")
	}
	for grown := true; grown; { // children of children
		grown = false
		for _, p := range all {
			if !mine[p.pid] && mine[p.parent] {
				mine[p.pid], grown = true, true
			}
		}
	}
	return slices.DeleteFunc(all, func(p process) bool { return !mine[p.pid] || p.name == container }), nil
}

func listProcesses() ([]process, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	var found []process
	for _, file := range files {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // ended meanwhile
		}
		// pid (name) state ppid ... utime stime: the name may hold spaces and parentheses.
		open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
		fields := strings.Fields(string(stat[end+1:]))
		if open < 0 || end < open || len(fields) < 13 {
			return nil, fmt.Errorf("reading %s: not as proc(5) has it", file)
		}
		p := process{name: string(stat[open+1 : end])}
		p.pid, err = strconv.Atoi(strings.TrimSpace(string(stat[:open])))
		parent, parentErr := strconv.Atoi(fields[1])
		user, userErr := strconv.ParseUint(fields[11], 10, 64)
		system, systemErr := strconv.ParseUint(fields[12], 10, 64)
		if err := errors.Join(err, parentErr, userErr, systemErr); err != nil {
			return nil, fmt.Errorf("reading %s: %w", file, err)
		}
		p.parent, p.ticks = parent, user+system
		found = append(found, p)
	}
	return found, nil
}

func totalTicks(processes []process) (total uint64) {
	for _, p := range processes {
		total += p.ticks
	}
	return total
}

// totalPSS is the proportional set size in bytes: shared pages count by their share.
func totalPSS(processes []process) (int64, error) {
	var total int64
	for _, p := range processes {
		rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.pid))
		if errors.Is(err, fs.ErrNotExist) {
			continue // ended meanwhile
		}
		if err != nil {
			return 0, fmt.Errorf("reading the memory of process %d: %w", p.pid, err)
		}
		for line := range strings.Lines(string(rollup)) {
			var kilobytes int64
			if n, err := fmt.Sscanf(line, "Pss: %d kB", &kilobytes); n == 1 && err == nil {
				total += kilobytes << 10
			}
		}
	}
	return total, nil
}
