package register

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Machine is what does not change while the agent runs.
type Machine struct {
	CPUs          int64
	Memory, Swap  int64           // bytes
	HugePages     map[int64]int64 // bytes in all, by the size of a page in bytes
	Storage       int64           // bytes of the file system that the agent's directory is on
	MachineID     string
	SystemUUID    string
	BootID        string
	KernelVersion string
	OSImage       string
}

// ReadMachine reads the machine's facts below a root ("/" but in tests). rootDir is the agent's directory.
func ReadMachine(root, rootDir string) (Machine, error) {
	m := Machine{HugePages: map[int64]int64{}}
	var err error
	if m.CPUs, err = onlineCPUs(text(root, "sys/devices/system/cpu/online")); err != nil {
		return m, fmt.Errorf("counting CPUs: %w", err)
	}
	memory := meminfo(text(root, "proc/meminfo"))
	if m.Memory, m.Swap = memory["MemTotal"], memory["SwapTotal"]; m.Memory == 0 {
		return m, fmt.Errorf("reading the machine's memory: /proc/meminfo has no MemTotal: %w", errdefs.ErrUnavailable)
	}
	m.MachineID = first(text(root, "etc/machine-id"), text(root, "var/lib/dbus/machine-id"))
	m.SystemUUID = first(text(root, "sys/class/dmi/id/product_uuid"), text(root, "proc/device-tree/vm,uuid"), m.MachineID)
	m.BootID = text(root, "proc/sys/kernel/random/boot_id")
	m.KernelVersion = text(root, "proc/sys/kernel/osrelease")
	m.OSImage = first(osName(text(root, "etc/os-release")), osName(text(root, "usr/lib/os-release")), "Unknown")
	folders, err := filepath.Glob(filepath.Join(root, "sys/kernel/mm/hugepages/hugepages-*kB"))
	if err != nil {
		return m, fmt.Errorf("looking for huge pages: %w", err)
	}
	for _, folder := range folders {
		size, sizeErr := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(folder), "hugepages-"), "kB"), 10, 64)
		count, countErr := strconv.ParseInt(text(folder, "nr_hugepages"), 10, 64)
		if sizeErr == nil && countErr == nil {
			m.HugePages[size<<10] = size << 10 * count
		}
	}
	for parent := filepath.Dir(rootDir); !exists(rootDir) && parent != rootDir; parent = filepath.Dir(rootDir) {
		rootDir = parent // it will be made on the same file system
	}
	fs := unix.Statfs_t{}
	if err := unix.Statfs(rootDir, &fs); err != nil {
		return m, fmt.Errorf("measuring the file system of %s: %w", rootDir, err)
	}
	m.Storage = int64(fs.Blocks) * fs.Bsize
	return m, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// text is a small file without the space around it; empty, where it can't be read.
func text(root, path string) string {
	data, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(bytes.Trim(data, "\x00")))
}

func first(candidates ...string) string {
	for _, c := range candidates {
		if c != "" {
			return c
		}
	}
	return ""
}

// onlineCPUs counts a list such as "0-3,8".
func onlineCPUs(list string) (int64, error) {
	count := int64(0)
	for _, part := range strings.Split(list, ",") {
		low, high, isRange := strings.Cut(part, "-")
		from, err := strconv.ParseInt(low, 10, 32)
		if err != nil {
			return 0, fmt.Errorf("%q is not a list of CPUs: %w", list, errdefs.ErrUnavailable)
		}
		to := from
		if isRange {
			if to, err = strconv.ParseInt(high, 10, 32); err != nil || to < from {
				return 0, fmt.Errorf("%q is not a list of CPUs: %w", list, errdefs.ErrUnavailable)
			}
		}
		count += to - from + 1
	}
	return count, nil
}

// meminfo is /proc/meminfo in bytes.
func meminfo(data string) map[string]int64 {
	values := map[string]int64{}
	for lines := bufio.NewScanner(strings.NewReader(data)); lines.Scan(); {
		name, rest, _ := strings.Cut(lines.Text(), ":")
		if fields := strings.Fields(rest); len(fields) == 2 && fields[1] == "kB" {
			if kb, err := strconv.ParseInt(fields[0], 10, 64); err == nil {
				values[name] = kb << 10
			}
		}
	}
	return values
}

// osName is PRETTY_NAME of os-release(5).
func osName(data string) string {
	for lines := bufio.NewScanner(strings.NewReader(data)); lines.Scan(); {
		if value, is := strings.CutPrefix(lines.Text(), "PRETTY_NAME="); is {
			if unquoted, err := strconv.Unquote(value); err == nil {
				return unquoted
			}
			return strings.Trim(value, `'"`)
		}
	}
	return ""
}
