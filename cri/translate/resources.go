package translate

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/runtime/request"
)

// Limits of the kernel's interface files.
const (
	minCPUPeriod = 1000    // microseconds
	maxCPUPeriod = 1000000 // microseconds
	maxCPUShares = 262144  // 2^18, above which the kernel cuts
	maxOOMScore  = 1000    // and its negative
	maxListID    = 1 << 16 // far above any CPU or memory node number
	maxMemory    = 1<<63 - 1
)

var (
	hugepageSize = regexp.MustCompile(`^[1-9][0-9]*[KMGT]?B$`)
	// unifiedKey is a file of a controller. "cgroup." ones (cgroup.procs, cgroup.kill) are control, not limits.
	unifiedKey = regexp.MustCompile(`^[a-z0-9_]+(\.[A-Za-z0-9_-]+)+$`)
)

// resources translates LinuxContainerResources of field; nil stays nil.
func (c *check) resources(field string, r *criv1.LinuxContainerResources) *request.Resources {
	if r == nil {
		return nil
	}
	if r.GetCpuPeriod() != 0 {
		c.between(field+".cpu_period", r.GetCpuPeriod(), minCPUPeriod, maxCPUPeriod)
	}
	if quota := r.GetCpuQuota(); quota < -1 || quota > 0 && quota < minCPUPeriod {
		c.refuse(field+".cpu_quota", "%d is neither -1 (no limit) nor at least %d microseconds", quota, minCPUPeriod)
	}
	c.between(field+".cpu_shares", r.GetCpuShares(), 0, maxCPUShares)
	c.between(field+".memory_limit_in_bytes", r.GetMemoryLimitInBytes(), 0, maxMemory)
	c.between(field+".memory_swap_limit_in_bytes", r.GetMemorySwapLimitInBytes(), -1, maxMemory)
	if swap, mem := r.GetMemorySwapLimitInBytes(), r.GetMemoryLimitInBytes(); swap > 0 && swap < mem {
		c.refuse(field+".memory_swap_limit_in_bytes", "%d is less than memory_limit_in_bytes %d, which it includes", swap, mem)
	}
	c.between(field+".oom_score_adj", r.GetOomScoreAdj(), -maxOOMScore, maxOOMScore)
	c.idList(field+".cpuset_cpus", r.GetCpusetCpus())
	c.idList(field+".cpuset_mems", r.GetCpusetMems())
	c.unified(field+".unified", r.GetUnified())
	return &request.Resources{
		CPUPeriod:       r.GetCpuPeriod(),
		CPUQuota:        r.GetCpuQuota(),
		CPUShares:       r.GetCpuShares(),
		MemoryLimit:     r.GetMemoryLimitInBytes(),
		MemorySwapLimit: r.GetMemorySwapLimitInBytes(),
		OOMScoreAdj:     r.GetOomScoreAdj(),
		CPUSetCPUs:      r.GetCpusetCpus(),
		CPUSetMems:      r.GetCpusetMems(),
		HugepageLimits:  c.hugepages(field+".hugepage_limits", r.GetHugepageLimits()),
		Unified:         maps.Clone(r.GetUnified()),
	}
}

func (c *check) hugepages(field string, in []*criv1.HugepageLimit) []request.HugepageLimit {
	var out []request.HugepageLimit
	for i, h := range in {
		f := item(field, i) + ".page_size"
		if !hugepageSize.MatchString(h.GetPageSize()) {
			c.refuse(f, "%q is not a size like 2MB or 1GB", h.GetPageSize())
		}
		if slices.ContainsFunc(out, func(o request.HugepageLimit) bool { return o.PageSize == h.GetPageSize() }) {
			c.refuse(f, "%q is given twice", h.GetPageSize())
		}
		out = append(out, request.HugepageLimit{PageSize: h.GetPageSize(), Limit: h.GetLimit()})
	}
	return out
}

func (c *check) unified(field string, in map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(in)) {
		switch {
		case !unifiedKey.MatchString(k):
			c.refuse(key(field, k), "is not the name of a controller's file")
		case strings.HasPrefix(k, "cgroup."):
			c.refuse(key(field, k), "is not a resource")
		default:
			c.noNUL(key(field, k), in[k])
		}
	}
}

// idList refuses what is not a list like "0-3,7": it is written to a cgroup file as it stands.
func (c *check) idList(field, list string) {
	if list == "" {
		return
	}
	if err := checkIDList(list); err != nil {
		c.refuse(field, "%q: %v", list, err)
	}
}

func checkIDList(list string) error {
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(part, "-")
		a, err := strconv.ParseUint(first, 10, 32)
		if err != nil || a > maxListID {
			return fmt.Errorf("%q is not a number", first)
		}
		if !isRange {
			continue
		}
		b, err := strconv.ParseUint(last, 10, 32)
		if err != nil || b > maxListID {
			return fmt.Errorf("%q is not a number", last)
		}
		if b < a {
			return fmt.Errorf("%q runs backwards", part)
		}
	}
	return nil
}

// toResources answers resources as CRI words them; nil stays nil.
func toResources(r *request.Resources) *criv1.LinuxContainerResources {
	if r == nil {
		return nil
	}
	out := &criv1.LinuxContainerResources{
		CpuPeriod:              r.CPUPeriod,
		CpuQuota:               r.CPUQuota,
		CpuShares:              r.CPUShares,
		MemoryLimitInBytes:     r.MemoryLimit,
		MemorySwapLimitInBytes: r.MemorySwapLimit,
		OomScoreAdj:            r.OOMScoreAdj,
		CpusetCpus:             r.CPUSetCPUs,
		CpusetMems:             r.CPUSetMems,
		Unified:                r.Unified,
	}
	for _, h := range r.HugepageLimits {
		out.HugepageLimits = append(out.HugepageLimits, &criv1.HugepageLimit{PageSize: h.PageSize, Limit: h.Limit})
	}
	return out
}
