package stats

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// ticks are how often a second the kernel counts in /proc/stat (USER_HZ, the same on all machines that Go runs on).
const ticks = 100

// node has what the kernel counts for the whole machine. It is read from /proc, not from the root control group: that has no memory on v2, and
// other files on v1.
func (c *Collector) node() (*statsv1alpha1.NodeStats, error) {
	answer := &statsv1alpha1.NodeStats{NodeName: c.NodeName}
	now := metav1.Now()
	counters, err := os.ReadFile(filepath.Join(c.Proc, "stat"))
	if err != nil {
		return nil, fmt.Errorf("reading the machine's counters: %w", err)
	}
	used, boot := parseStat(counters)
	answer.StartTime = metav1.NewTime(boot)
	answer.CPU = &statsv1alpha1.CPUStats{
		Time: now, UsageCoreNanoSeconds: number(used), UsageNanoCores: c.rates.of("/", now.Time, used), PSI: c.pressure("cpu"),
	}
	text, err := os.ReadFile(filepath.Join(c.Proc, "meminfo"))
	if err != nil {
		return nil, fmt.Errorf("reading the machine's memory: %w", err)
	}
	info := parsePairs(text)
	const kilobyte = 1024
	for key := range info {
		info[key] *= kilobyte
	}
	usage := less(info["MemTotal"], info["MemFree"])
	working := less(usage, info["Inactive(file)"])
	answer.Memory = &statsv1alpha1.MemoryStats{
		Time: now, UsageBytes: number(usage), WorkingSetBytes: number(working), AvailableBytes: number(less(info["MemTotal"], working)),
		RSSBytes: number(info["AnonPages"]), PSI: c.pressure("memory"),
	}
	if text, err := os.ReadFile(filepath.Join(c.Proc, "vmstat")); err == nil { // else faults are not shown
		events := parsePairs(text)
		answer.Memory.PageFaults, answer.Memory.MajorPageFaults = number(events["pgfault"]), number(events["pgmajfault"])
	}
	answer.Swap = &statsv1alpha1.SwapStats{Time: now, SwapUsageBytes: number(less(info["SwapTotal"], info["SwapFree"])), SwapAvailableBytes: number(info["SwapFree"])}
	answer.IO = &statsv1alpha1.IOStats{Time: now, PSI: c.pressure("io")}
	answer.SystemContainers = c.systemContainers(now, answer.StartTime)
	return answer, nil
}

func less(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}

// parseStat answers the processors' use in nanoseconds, and when the machine was started.
func parseStat(text []byte) (used uint64, boot time.Time) {
	for line := range bytes.Lines(text) {
		fields := strings.Fields(string(line))
		switch {
		case len(fields) >= 9 && fields[0] == "cpu":
			// user nice system idle iowait irq softirq steal; guests are part of user
			for _, i := range []int{1, 2, 3, 6, 7, 8} {
				n, err := strconv.ParseUint(fields[i], 10, 64)
				if err == nil {
					used += n * uint64(time.Second) / ticks
				}
			}
		case len(fields) == 2 && fields[0] == "btime":
			if n, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
				boot = time.Unix(n, 0)
			}
		}
	}
	return used, boot
}

// parsePairs reads lines of a name, perhaps with a colon, and a number.
func parsePairs(text []byte) map[string]uint64 {
	pairs := map[string]uint64{}
	for line := range bytes.Lines(text) {
		fields := strings.Fields(string(line))
		if len(fields) < 2 {
			continue
		}
		if n, err := strconv.ParseUint(fields[1], 10, 64); err == nil {
			pairs[strings.TrimSuffix(fields[0], ":")] = n
		}
	}
	return pairs
}

// pressure is nil on a kernel without PSI.
func (c *Collector) pressure(of string) *statsv1alpha1.PSIStats {
	text, err := os.ReadFile(filepath.Join(c.Proc, "pressure", of))
	if err != nil {
		return nil
	}
	return parsePressure(text)
}

// parsePressure reads lines like "some avg10=0.12 avg60=0.05 avg300=0.01 total=12345", whose total is in microseconds.
func parsePressure(text []byte) *statsv1alpha1.PSIStats {
	answer := &statsv1alpha1.PSIStats{}
	for line := range bytes.Lines(text) {
		fields := strings.Fields(string(line))
		if len(fields) == 0 {
			continue
		}
		var data statsv1alpha1.PSIData
		for _, field := range fields[1:] {
			key, text, _ := strings.Cut(field, "=")
			n, err := strconv.ParseFloat(text, 64)
			if err != nil {
				continue
			}
			switch key {
			case "avg10":
				data.Avg10 = n
			case "avg60":
				data.Avg60 = n
			case "avg300":
				data.Avg300 = n
			case "total":
				data.Total = uint64(n) * uint64(time.Microsecond)
			}
		}
		switch fields[0] {
		case "some":
			answer.Some = data
		case "full":
			answer.Full = data
		}
	}
	return answer
}

// limits are how many processes there are and may be.
func (c *Collector) limits() *statsv1alpha1.RlimitStats {
	answer := &statsv1alpha1.RlimitStats{Time: metav1.Now()}
	for _, name := range []string{"pid_max", "threads-max"} {
		text, err := os.ReadFile(filepath.Join(c.Proc, "sys/kernel", name))
		if err != nil {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err == nil && (answer.MaxPID == nil || n < *answer.MaxPID) {
			answer.MaxPID = &n
		}
	}
	if text, err := os.ReadFile(filepath.Join(c.Proc, "loadavg")); err == nil { // 1.36 3.49 4.53 2/3518 3715089
		if fields := strings.Fields(string(text)); len(fields) > 3 {
			_, all, _ := strings.Cut(fields[3], "/")
			if n, err := strconv.ParseInt(all, 10, 64); err == nil {
				answer.NumOfRunningProcesses = &n
			}
		}
	}
	return answer
}

// network has the node's own interfaces, without those that lead to pods. The first one is that of the default route.
func (c *Collector) network() *statsv1alpha1.NetworkStats {
	answer := &statsv1alpha1.NetworkStats{Time: metav1.Now(), Interfaces: []statsv1alpha1.InterfaceStats{}}
	text, err := os.ReadFile(filepath.Join(c.Proc, "net/dev"))
	if err != nil {
		return answer
	}
	answer.Interfaces = parseNetwork(text)
	leaves := ""
	if routes, err := os.ReadFile(filepath.Join(c.Proc, "net/route")); err == nil {
		leaves = defaultRoute(routes)
	}
	for _, one := range answer.Interfaces {
		if one.Name == leaves || leaves == "" && one.Name == "eth0" {
			answer.InterfaceStats = one
		}
	}
	return answer
}

func parseNetwork(text []byte) []statsv1alpha1.InterfaceStats {
	list := []statsv1alpha1.InterfaceStats{}
	for line := range bytes.Lines(text) {
		name, counters, ok := strings.Cut(string(line), ":")
		fields := strings.Fields(counters)
		if name = strings.TrimSpace(name); !ok || len(fields) < 11 || name == "lo" {
			continue
		}
		if strings.HasPrefix(name, "veth") || strings.HasPrefix(name, "docker") || strings.HasPrefix(name, "nerdctl") {
			continue
		}
		read := func(i int) *uint64 {
			n, err := strconv.ParseUint(fields[i], 10, 64)
			if err != nil {
				return nil
			}
			return &n
		}
		const rxBytes, rxErrors, txBytes, txErrors = 0, 2, 8, 10
		list = append(list, statsv1alpha1.InterfaceStats{Name: name, RxBytes: read(rxBytes), RxErrors: read(rxErrors), TxBytes: read(txBytes), TxErrors: read(txErrors)})
	}
	return list
}

// defaultRoute is the interface of the route to 0.0.0.0/0 in /proc/net/route.
func defaultRoute(text []byte) string {
	for line := range bytes.Lines(text) {
		if fields := strings.Fields(string(line)); len(fields) > 7 && fields[1] == "00000000" && fields[7] == "00000000" {
			return fields[0]
		}
	}
	return ""
}

// systemContainers are this agent, the runtime, and all pods together. The first two are counted as processes: they may be in any control group.
func (c *Collector) systemContainers(now, boot metav1.Time) []statsv1alpha1.ContainerStats {
	var list []statsv1alpha1.ContainerStats
	if s := c.process(statsv1alpha1.SystemContainerKubelet, os.Getpid(), now, boot); s != nil {
		list = append(list, *s)
	}
	if pid := peer(c.Socket); pid > 0 {
		if s := c.process(statsv1alpha1.SystemContainerRuntime, pid, now, boot); s != nil {
			list = append(list, *s)
		}
	}
	if s := c.controlGroup(statsv1alpha1.SystemContainerPods, now, boot); s != nil {
		list = append(list, *s)
	}
	return list
}

// peer is the process that listens on a unix socket; 0: nobody does.
func peer(socket string) int {
	if socket == "" {
		return 0
	}
	conn, err := net.DialTimeout("unix", strings.TrimPrefix(socket, "unix://"), time.Second)
	if err != nil {
		return 0
	}
	defer conn.Close()
	end, ok := conn.(*net.UnixConn)
	if !ok {
		return 0
	}
	raw, err := end.SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	_ = raw.Control(func(fd uintptr) { // it fails on a closed socket only
		if credentials, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(credentials.Pid)
		}
	})
	return pid
}

// process counts one process and the children that it has waited for.
func (c *Collector) process(name string, pid int, now, boot metav1.Time) *statsv1alpha1.ContainerStats {
	directory := filepath.Join(c.Proc, strconv.Itoa(pid))
	text, err := os.ReadFile(filepath.Join(directory, "stat"))
	if err != nil {
		return nil
	}
	_, after, ok := strings.Cut(string(text), ") ") // a name may hold anything but this, practically
	fields := strings.Fields(after)
	if !ok || len(fields) < 22 {
		return nil
	}
	read := func(i int) uint64 {
		n, err := strconv.ParseUint(fields[i], 10, 64)
		if err != nil {
			return 0
		}
		return n
	}
	// Fields of proc_pid_stat(5), from state (3) on: minflt is 10, majflt 12, utime 14, stime 15, starttime 22, rss 24.
	const minorFaults, majorFaults, user, system, started, resident = 7, 9, 11, 12, 19, 21
	usage := (read(user) + read(system)) * uint64(time.Second) / ticks
	memory := read(resident) * uint64(os.Getpagesize())
	return &statsv1alpha1.ContainerStats{
		Name: name, StartTime: metav1.NewTime(boot.Add(time.Duration(read(started)) * time.Second / ticks)),
		CPU: &statsv1alpha1.CPUStats{Time: now, UsageCoreNanoSeconds: number(usage), UsageNanoCores: c.rates.of("/"+name, now.Time, usage)},
		Memory: &statsv1alpha1.MemoryStats{
			Time: now, UsageBytes: number(memory), WorkingSetBytes: number(memory), RSSBytes: number(memory),
			PageFaults: number(read(minorFaults) + read(majorFaults)), MajorPageFaults: number(read(majorFaults)),
		},
		Swap: &statsv1alpha1.SwapStats{Time: now, SwapUsageBytes: number(swapped(directory))},
	}
}

// swapped is how much of a process's memory is in swap; 0 when it is gone.
func swapped(directory string) uint64 {
	text, err := os.ReadFile(filepath.Join(directory, "status"))
	if err != nil {
		return 0
	}
	const kilobyte = 1024
	return parsePairs(text)["VmSwap"] * kilobyte
}
