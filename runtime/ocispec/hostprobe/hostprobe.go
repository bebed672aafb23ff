// Package hostprobe asks the machine what package ocispec must know of it: facts that stay while the daemon runs, and the device
// nodes that requests name. All that touches the system on the way to a specification is here; what it means is ocispec's.
package hostprobe

import (
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/runtime/ocispec"
	"github.com/shimd/shimd/seccomp"
	"github.com/shimd/shimd/security"
)

const cgroupRoot = "/sys/fs/cgroup"

// Host fills the facts once, at the daemon's start. AppArmorDefault is left to the caller, who loads that profile (security.LoadDefault).
func Host() (ocispec.Host, error) {
	h := ocispec.Host{
		CgroupVersion: cgroupVersion(),
		HugepageSizes: hugepageSizes(),
		Seccomp:       seccompFilters(),
		AppArmor:      security.AppArmorEnabled(),
		SELinux:       security.SELinuxEnabled(),
	}
	h.Hugetlb = hasController(h.CgroupVersion, "hugetlb")
	h.SwapAccounting = swapAccounting(h.CgroupVersion)
	var err error
	if h.Hostname, err = os.Hostname(); err != nil {
		return h, fmt.Errorf("probing the host: its name: %w", err)
	}
	if h.Capabilities, err = capabilities(); err != nil {
		return h, fmt.Errorf("probing the host: the daemon's capabilities: %w", err)
	}
	if h.OOMScoreAdjMin, err = oomScoreAdjMin(h.Capabilities); err != nil {
		return h, fmt.Errorf("probing the host: the daemon's oom_score_adj: %w", err)
	}
	if h.SeccompTarget, err = seccompTarget(); err != nil {
		return h, fmt.Errorf("probing the host: the kernel's version: %w", err)
	}
	return h, nil
}

// Machine is what seccomp filters are compiled for.
func Machine() seccomp.Machine {
	m := seccomp.Machine{Arch: goruntime.GOARCH}
	if m.Arch == "amd64" && underFilter() {
		// A filter may kill who asks (systemd's SystemCallArchitectures=native does).
		m.X32 = true
	} else if m.Arch == "amd64" {
		// getpid in the x32 convention: a kernel that is not built with it knows no such call.
		const x32Getpid = 0x40000000 | 39
		_, _, errno := unix.RawSyscall(x32Getpid, 0, 0, 0)
		m.X32 = errno == 0
	}
	return m
}

// underFilter tells whether the daemon itself runs under seccomp.
func underFilter() bool {
	status, err := os.ReadFile("/proc/self/status")
	return err != nil || !strings.Contains(string(status), "\nSeccomp:\t0\n")
}

func cgroupVersion() int {
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return 2
	}
	return 1
}

func hasController(version int, name string) bool {
	if version == 1 {
		_, err := os.Stat(filepath.Join(cgroupRoot, name))
		return err == nil
	}
	list, err := os.ReadFile(filepath.Join(cgroupRoot, "cgroup.controllers"))
	return err == nil && slices.Contains(strings.Fields(string(list)), name)
}

// swapAccounting: the file is missing without CONFIG_MEMCG_SWAP or with swapaccount=0. On v2 the root has none, so that of the daemon's own
// cgroup is looked at, or any child of the root.
func swapAccounting(version int) bool {
	if version == 1 {
		_, err := os.Stat(filepath.Join(cgroupRoot, "memory", "memory.memsw.limit_in_bytes"))
		return err == nil
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err == nil {
		if _, p, ok := strings.Cut(strings.TrimSpace(string(own)), "0::"); ok && p != "/" {
			if _, err := os.Stat(filepath.Join(cgroupRoot, p, "memory.swap.max")); err == nil {
				return true
			}
		}
	}
	found, _ := filepath.Glob(filepath.Join(cgroupRoot, "*", "memory.swap.max"))
	return len(found) > 0
}

// hugepageSizes are written as cgroup files have them: hugepages-2048kB is 2MB.
func hugepageSizes() []string {
	entries, err := os.ReadDir("/sys/kernel/mm/hugepages")
	if err != nil {
		return nil // a kernel without them
	}
	var sizes []string
	for _, e := range entries {
		kb, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		sizes = append(sizes, pageSizeName(kb))
	}
	slices.Sort(sizes)
	return sizes
}

func pageSizeName(kb uint64) string {
	switch {
	case kb >= 1<<20:
		return strconv.FormatUint(kb>>20, 10) + "GB"
	case kb >= 1<<10:
		return strconv.FormatUint(kb>>10, 10) + "MB"
	}
	return strconv.FormatUint(kb, 10) + "KB"
}

// seccompFilters: the kernel answers EFAULT to a filter at address zero if it has filters at all.
func seccompFilters() bool {
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, 0, 0, 0) == unix.EFAULT
}

// capabilities are what can be given on: permitted, and in the bounding set.
func capabilities() ([]string, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, err
	}
	sets := map[string]uint64{}
	for line := range strings.SplitSeq(string(status), "\n") {
		if key, value, ok := strings.Cut(line, ":"); ok && (key == "CapPrm" || key == "CapBnd") {
			if sets[key], err = strconv.ParseUint(strings.TrimSpace(value), 16, 64); err != nil {
				return nil, err
			}
		}
	}
	var names []string
	for n := range 64 {
		if name := ocispec.CapabilityName(n); name != "" && sets["CapPrm"]&sets["CapBnd"]&(1<<n) != 0 {
			names = append(names, name)
		}
	}
	return names, nil
}

// oomScoreAdjMin: without CAP_SYS_RESOURCE nobody may go below the value that was last set with it, which the kernel does not tell; the own value is never below that.
func oomScoreAdjMin(caps []string) (int, error) {
	if slices.Contains(caps, "CAP_SYS_RESOURCE") {
		return -1000, nil
	}
	own, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(own)))
}

func seccompTarget() (seccomp.Target, error) {
	t := seccomp.Target{Arch: goruntime.GOARCH}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return t, err
	}
	release := unix.ByteSliceToString(u.Release[:])
	if _, err := fmt.Sscanf(release, "%d.%d", &t.Kernel, &t.Major); err != nil {
		return t, fmt.Errorf("%q: %w", release, err)
	}
	return t, nil
}
