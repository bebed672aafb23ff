package cgroups

import (
	"bytes"
	"fmt"
	"time"
)

// The files of a v1 cgroup, by slot.
const (
	v1CPUUsage = iota
	v1CPUUser
	v1CPUSystem
	v1CPUStat
	v1MemoryUsage
	v1MemoryStat
	v1MemoryMaxUsage
	v1MemoryFailCount
	v1KernelUsage
	v1SwapUsage
	v1Pids
	v1IOBytes
	v1IOOps
	v1MemoryLimit
	v1SwapLimit
	v1PidsLimit
	v1Fixed // from here on three files for each huge page size
)

func filesV1(pageSizes []string) []statFile {
	files := []statFile{
		v1CPUUsage:        {"cpuacct", "cpuacct.usage", true},
		v1CPUUser:         {"cpuacct", "cpuacct.usage_user", true},
		v1CPUSystem:       {"cpuacct", "cpuacct.usage_sys", true},
		v1CPUStat:         {"cpu", "cpu.stat", true},
		v1MemoryUsage:     {"memory", "memory.usage_in_bytes", true},
		v1MemoryStat:      {"memory", "memory.stat", true},
		v1MemoryMaxUsage:  {"memory", "memory.max_usage_in_bytes", false},
		v1MemoryFailCount: {"memory", "memory.failcnt", false},
		v1KernelUsage:     {"memory", "memory.kmem.usage_in_bytes", false},
		v1SwapUsage:       {"memory", "memory.memsw.usage_in_bytes", true},
		v1Pids:            {"pids", "pids.current", true},
		v1IOBytes:         {"blkio", "blkio.throttle.io_service_bytes_recursive", true},
		v1IOOps:           {"blkio", "blkio.throttle.io_serviced_recursive", true},
		v1MemoryLimit:     {"memory", "memory.limit_in_bytes", false},
		v1SwapLimit:       {"memory", "memory.memsw.limit_in_bytes", false},
		v1PidsLimit:       {"pids", "pids.max", false},
	}
	for _, size := range pageSizes {
		name := "hugetlb." + size
		files = append(files, statFile{"hugetlb", name + ".usage_in_bytes", false},
			statFile{"hugetlb", name + ".max_usage_in_bytes", false}, statFile{"hugetlb", name + ".failcnt", false})
	}
	return files
}

// Stats reads the counters of all hierarchies.
func (g *groupV1) Stats() (*Stats, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.files == nil {
		g.files = newStatFiles(g.tree.statFiles, g.tree.place(g.path), g.tree.descriptors)
	}
	g.files.begin()
	defer g.files.end()
	r := &slotReader{files: g.files}
	s := &Stats{Time: time.Now()}
	r.cpuV1(&s.CPU)
	r.memoryV1(s)
	r.pids(s, v1Pids, v1PidsLimit)
	s.IO = r.ioV1()
	s.Hugetlb = r.hugetlb(g.tree.pageSizes, v1Fixed, func(data []byte) uint64 { return parseValue(data) })
	if r.err != nil {
		return nil, fmt.Errorf("reading statistics of cgroup %s: %w", g.path, missing(r.err))
	}
	return s, nil
}

// slotReader reads files until the first error, which ends the pass.
type slotReader struct {
	files *statFiles
	err   error
}

func (r *slotReader) read(slot int) []byte {
	if r.err != nil {
		return nil
	}
	data, err := r.files.read(slot)
	r.err = err
	return data
}

func (r *slotReader) value(slot int) uint64 { return parseValue(r.read(slot)) }

func (r *slotReader) cpuV1(c *CPUStats) {
	c.UsageNanos, c.UserNanos, c.SystemNanos = r.value(v1CPUUsage), r.value(v1CPUUser), r.value(v1CPUSystem)
	eachField(r.read(v1CPUStat), func(key []byte, v uint64) {
		switch string(key) {
		case "nr_periods":
			c.Periods = v
		case "nr_throttled":
			c.ThrottledPeriods = v
		case "throttled_time":
			c.ThrottledNanos = v
		}
	})
}

func (r *slotReader) memoryV1(s *Stats) {
	m := &s.Memory
	m.Usage = r.value(v1MemoryUsage)
	// The "total_" values count the cgroups below, too.
	eachField(r.read(v1MemoryStat), func(key []byte, v uint64) {
		switch string(key) {
		case "total_rss":
			m.RSS = v
		case "total_cache":
			m.Cache = v
		case "total_mapped_file":
			m.MappedFile = v
		case "total_active_file":
			m.ActiveFile = v
		case "total_inactive_file":
			m.InactiveFile = v
		case "total_pgfault":
			m.PageFaults = v
		case "total_pgmajfault":
			m.MajorPageFaults = v
		}
	})
	m.WorkingSet = workingSet(m.Usage, m.InactiveFile)
	m.MaxUsage, m.FailCount, m.KernelUsage = r.value(v1MemoryMaxUsage), r.value(v1MemoryFailCount), r.value(v1KernelUsage)
	m.Limit = r.value(v1MemoryLimit)
	if both := r.read(v1SwapUsage); both != nil {
		usage := parseValue(both)
		s.Swap = &SwapStats{Usage: usage - min(usage, m.Usage)}
		if limit := r.value(v1SwapLimit); limit > 0 {
			s.Swap.Limit = limit - min(limit, m.Limit)
		}
	}
}

func (r *slotReader) pids(s *Stats, current, limit int) {
	if data := r.read(current); data != nil {
		n := parseValue(data)
		s.Processes = &n
	}
	if n := r.value(limit); n > 0 {
		s.PidsLimit = &n
	}
}

func (r *slotReader) ioV1() *IOStats {
	data := r.read(v1IOBytes)
	if data == nil {
		return nil
	}
	io := &IOStats{}
	io.addV1(data, func(d *DeviceIO) (read, write *uint64) { return &d.ReadBytes, &d.WriteBytes })
	io.addV1(r.read(v1IOOps), func(d *DeviceIO) (read, write *uint64) { return &d.ReadOps, &d.WriteOps })
	return io
}

// addV1 reads lines of "8:0 Read 4096".
func (io *IOStats) addV1(data []byte, fields func(*DeviceIO) (read, write *uint64)) {
	for len(data) > 0 {
		var line []byte
		line, data, _ = bytes.Cut(data, []byte{'\n'})
		name, rest, _ := bytes.Cut(line, []byte{' '})
		operation, number, _ := bytes.Cut(rest, []byte{' '})
		major, minor, ok := parseDevice(name)
		if !ok {
			continue // "Total 0"
		}
		value, _ := parseUint(number)
		read, write := fields(io.device(major, minor))
		switch string(operation) {
		case "Read":
			*read = value
		case "Write":
			*write = value
		}
	}
}

// device finds or adds a device.
func (io *IOStats) device(major, minor uint64) *DeviceIO {
	for i := range io.Devices {
		if io.Devices[i].Major == major && io.Devices[i].Minor == minor {
			return &io.Devices[i]
		}
	}
	io.Devices = append(io.Devices, DeviceIO{Major: major, Minor: minor})
	return &io.Devices[len(io.Devices)-1]
}

// hugetlb reads three files for each page size from the slot first on: usage, most ever used, failures.
func (r *slotReader) hugetlb(pageSizes []string, first int, failures func([]byte) uint64) map[string]HugetlbStats {
	var all map[string]HugetlbStats
	for i, size := range pageSizes {
		slot := first + 3*i
		usage := r.read(slot)
		if usage == nil {
			continue
		}
		if all == nil {
			all = make(map[string]HugetlbStats, len(pageSizes))
		}
		all[size] = HugetlbStats{Usage: parseValue(usage), Max: r.value(slot + 1), FailCount: failures(r.read(slot + 2))}
	}
	return all
}
