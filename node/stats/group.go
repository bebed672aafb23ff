package stats

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// controlGroup counts all pods by the group that they are in, on either version of control groups.
func (c *Collector) controlGroup(name string, now, boot metav1.Time) *statsv1alpha1.ContainerStats {
	if c.PodsCgroup == "" {
		return nil
	}
	group := legacyGroup(c.Cgroups, c.PodsCgroup)
	if _, err := os.Stat(filepath.Join(c.Cgroups, "cgroup.controllers")); err == nil {
		group = unifiedGroup(c.Cgroups, c.PodsCgroup)
	}
	usage, err := group.cpu()
	if err != nil {
		return nil
	}
	bytes, err := readNumber(group.memory("usage"))
	if err != nil {
		return nil
	}
	text, err := os.ReadFile(group.memory("stat"))
	if err != nil {
		return nil
	}
	details := parsePairs(text)
	working := less(bytes, details[group.prefix+"inactive_file"])
	answer := &statsv1alpha1.ContainerStats{
		Name: name, StartTime: boot,
		CPU: &statsv1alpha1.CPUStats{Time: now, UsageCoreNanoSeconds: number(usage), UsageNanoCores: c.rates.of("/"+name, now.Time, usage), PSI: group.pressure("cpu")},
		Memory: &statsv1alpha1.MemoryStats{
			Time: now, UsageBytes: number(bytes), WorkingSetBytes: number(working), RSSBytes: number(details[group.resident]),
			PageFaults: number(details[group.prefix+"pgfault"]), MajorPageFaults: number(details[group.prefix+"pgmajfault"]), PSI: group.pressure("memory"),
		},
		IO:   &statsv1alpha1.IOStats{Time: now, PSI: group.pressure("io")},
		Swap: &statsv1alpha1.SwapStats{Time: now, SwapUsageBytes: number(group.swap(details))},
	}
	const unlimited = 1 << 60
	if limit, err := readNumber(group.memory("limit")); err == nil && limit < unlimited { // "max" is no number
		answer.Memory.AvailableBytes = number(less(limit, working))
	}
	return answer
}

// group is where a control group's files are, and how their lines are called.
type group struct {
	unified          bool
	cpus, memories   string // directories
	files            map[string]string
	prefix, resident string // in memory.stat; on v1 "total_" counts the groups below, too
}

func legacyGroup(root, path string) group {
	return group{
		cpus: filepath.Join(root, "cpuacct", path), memories: filepath.Join(root, "memory", path), prefix: "total_", resident: "total_rss",
		files: map[string]string{"usage": "memory.usage_in_bytes", "limit": "memory.limit_in_bytes", "stat": "memory.stat"},
	}
}

func unifiedGroup(root, path string) group {
	path = filepath.Join(root, path)
	return group{
		unified: true, cpus: path, memories: path, resident: "anon",
		files: map[string]string{"usage": "memory.current", "limit": "memory.max", "stat": "memory.stat"},
	}
}

func (g group) memory(name string) string { return filepath.Join(g.memories, g.files[name]) }

// cpu is in nanoseconds.
func (g group) cpu() (uint64, error) {
	if !g.unified {
		return readNumber(filepath.Join(g.cpus, "cpuacct.usage"))
	}
	text, err := os.ReadFile(filepath.Join(g.cpus, "cpu.stat"))
	return parsePairs(text)["usage_usec"] * uint64(time.Microsecond), err
}

// swap is 0 on a machine without.
func (g group) swap(details map[string]uint64) uint64 {
	if !g.unified {
		return details["total_swap"]
	}
	used, err := readNumber(filepath.Join(g.memories, "memory.swap.current"))
	if err != nil {
		return 0
	}
	return used
}

// pressure is nil on v1, which does not know it.
func (g group) pressure(of string) *statsv1alpha1.PSIStats {
	if !g.unified {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(g.cpus, of+".pressure"))
	if err != nil {
		return nil
	}
	return parsePressure(text)
}

func readNumber(path string) (uint64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}
