package cgroups

import (
	"os"
	"slices"
	"strconv"
	"strings"
)

// PageSizes lists the sizes of huge pages as cgroup files spell them: "2MB", "1GB".
func PageSizes() []string {
	entries, err := os.ReadDir("/sys/kernel/mm/hugepages")
	if err != nil {
		return nil // a kernel without huge pages has no such directory
	}
	var sizes []string
	for _, e := range entries {
		// hugepages-2048kB
		text, found := strings.CutSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB")
		if kib, err := strconv.ParseUint(text, 10, 64); found && err == nil {
			sizes = append(sizes, pageSizeName(kib))
		}
	}
	slices.Sort(sizes)
	return sizes
}

// pageSizeName spells a size as the kernel's mem_fmt does.
func pageSizeName(kib uint64) string {
	switch {
	case kib >= 1<<20:
		return number(kib>>20) + "GB"
	case kib >= 1<<10:
		return number(kib>>10) + "MB"
	}
	return number(kib) + "KB"
}
