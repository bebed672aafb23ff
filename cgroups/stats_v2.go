package cgroups

import (
	"bytes"
	"fmt"
	"time"
)

// The files of a v2 cgroup, by slot.
const (
	v2CPUStat = iota
	v2MemoryUsage
	v2MemoryStat
	v2SwapUsage
	v2Pids
	v2IOStat
	v2CPUPressure
	v2MemoryPressure
	v2IOPressure
	v2MemoryPeak
	v2MemoryEvents
	v2MemoryLimit
	v2SwapLimit
	v2PidsLimit
	v2Fixed // from here on three files for each huge page size
)

func filesV2(pageSizes []string) []statFile {
	files := []statFile{
		v2CPUStat:        {"", "cpu.stat", true},
		v2MemoryUsage:    {"", "memory.current", true},
		v2MemoryStat:     {"", "memory.stat", true},
		v2SwapUsage:      {"", "memory.swap.current", true},
		v2Pids:           {"", "pids.current", true},
		v2IOStat:         {"", "io.stat", true},
		v2CPUPressure:    {"", "cpu.pressure", true},
		v2MemoryPressure: {"", "memory.pressure", true},
		v2IOPressure:     {"", "io.pressure", true},
		v2MemoryPeak:     {"", "memory.peak", false}, // from 5.19 on
		v2MemoryEvents:   {"", "memory.events", false},
		v2MemoryLimit:    {"", "memory.max", false},
		v2SwapLimit:      {"", "memory.swap.max", false},
		v2PidsLimit:      {"", "pids.max", false},
	}
	for _, size := range pageSizes {
		name := "hugetlb." + size
		files = append(files, statFile{"", name + ".current", false}, statFile{"", name + ".peak", false}, statFile{"", name + ".events", false})
	}
	return files
}

// Stats reads the counters of all controllers.
func (g *groupV2) Stats() (*Stats, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.files == nil {
		g.files = newStatFiles(g.tree.statFiles, g.tree.place(g.path), g.tree.descriptors)
	}
	g.files.begin()
	defer g.files.end()
	r := &slotReader{files: g.files}
	s := &Stats{Time: time.Now()}
	r.cpuV2(&s.CPU)
	r.memoryV2(s)
	r.pids(s, v2Pids, v2PidsLimit)
	if data := r.read(v2IOStat); data != nil {
		s.IO = &IOStats{Devices: parseIOStat(data)}
	}
	if psi := parsePSI(r.read(v2IOPressure)); psi != nil {
		if s.IO == nil {
			s.IO = &IOStats{}
		}
		s.IO.PSI = psi
	}
	s.Hugetlb = r.hugetlb(g.tree.pageSizes, v2Fixed, func(data []byte) uint64 { return field(data, "max") })
	if r.err != nil {
		return nil, fmt.Errorf("reading statistics of cgroup %s: %w", g.path, missing(r.err))
	}
	return s, nil
}

func (r *slotReader) cpuV2(c *CPUStats) {
	eachField(r.read(v2CPUStat), func(key []byte, v uint64) {
		switch string(key) {
		case "usage_usec":
			c.UsageNanos = v * 1000
		case "user_usec":
			c.UserNanos = v * 1000
		case "system_usec":
			c.SystemNanos = v * 1000
		case "nr_periods":
			c.Periods = v
		case "nr_throttled":
			c.ThrottledPeriods = v
		case "throttled_usec":
			c.ThrottledNanos = v * 1000
		}
	})
	c.PSI = parsePSI(r.read(v2CPUPressure))
}

func (r *slotReader) memoryV2(s *Stats) {
	m := &s.Memory
	m.Usage = r.value(v2MemoryUsage)
	var kernelStack, slab, pageTables uint64
	eachField(r.read(v2MemoryStat), func(key []byte, v uint64) {
		switch string(key) {
		case "anon":
			m.RSS = v
		case "file":
			m.Cache = v
		case "file_mapped":
			m.MappedFile = v
		case "kernel": // from 5.18 on
			m.KernelUsage = v
		case "kernel_stack":
			kernelStack = v
		case "slab":
			slab = v
		case "pagetables":
			pageTables = v
		case "active_file":
			m.ActiveFile = v
		case "inactive_file":
			m.InactiveFile = v
		case "pgfault":
			m.PageFaults = v
		case "pgmajfault":
			m.MajorPageFaults = v
		}
	})
	if m.KernelUsage == 0 {
		m.KernelUsage = kernelStack + slab + pageTables
	}
	m.WorkingSet = workingSet(m.Usage, m.InactiveFile)
	m.MaxUsage, m.Limit = r.value(v2MemoryPeak), r.value(v2MemoryLimit)
	m.FailCount = field(r.read(v2MemoryEvents), "max")
	m.PSI = parsePSI(r.read(v2MemoryPressure))
	if usage := r.read(v2SwapUsage); usage != nil {
		s.Swap = &SwapStats{Usage: parseValue(usage), Limit: r.value(v2SwapLimit)}
	}
}

// parseIOStat reads "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6". Devices that did nothing have a line without values, or none.
func parseIOStat(data []byte) []DeviceIO {
	var devices []DeviceIO
	for len(data) > 0 {
		var line []byte
		line, data, _ = bytes.Cut(data, []byte{'\n'})
		name, rest, _ := bytes.Cut(line, []byte{' '})
		major, minor, ok := parseDevice(name)
		if !ok || len(rest) == 0 {
			continue
		}
		d := DeviceIO{Major: major, Minor: minor}
		for len(rest) > 0 {
			var pair []byte
			pair, rest, _ = bytes.Cut(rest, []byte{' '})
			key, text, _ := bytes.Cut(pair, []byte{'='})
			v, _ := parseUint(text)
			switch string(key) {
			case "rbytes":
				d.ReadBytes = v
			case "wbytes":
				d.WriteBytes = v
			case "rios":
				d.ReadOps = v
			case "wios":
				d.WriteOps = v
			}
		}
		devices = append(devices, d)
	}
	return devices
}
