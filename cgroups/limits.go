package cgroups

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// write is one value for one file of a cgroup. Plans of writes are made by pure functions and carried out in order.
type write struct {
	controller string // "memory"; tells the hierarchy on v1
	file       string // "memory.limit_in_bytes"
	value      string
	field      string // the field of the OCI resources it comes from, for errors

	// later: what the kernel refuses with EINVAL because of a limit that a later write of the plan changes (quota against
	// period, memory against memory+swap: the right order depends on which way the limits move), is tried again at the end.
	later bool
	// optional: a missing file means that the kernel has nothing to limit here, so the value asks for nothing.
	optional bool
	// keepFirst: the file's first word stays as it is, and value is the second (the period in cpu.max).
	keepFirst bool
}

func (w write) String() string {
	s := w.file + " = " + w.value
	if w.keepFirst {
		s = w.file + " = (same) " + w.value
	}
	if w.later {
		s += " (or later)"
	}
	if w.optional {
		s += " (if there)"
	}
	return s
}

// plan collects the writes of one resource update.
type plan struct {
	writes []write
	err    error
}

func (p *plan) set(controller, file, field, value string) *write {
	p.writes = append(p.writes, write{controller: controller, file: file, value: value, field: field})
	return &p.writes[len(p.writes)-1]
}

func (p *plan) refuse(field, why string, kind error) {
	if p.err == nil {
		p.err = fmt.Errorf("%s: %s: %w", field, why, kind)
	}
}

// refuseUnsupported refuses by name the fields of the OCI resources that CRI cannot produce and this package does not set, so that none is
// ignored in silence.
func (p *plan) refuseUnsupported(res *specs.LinuxResources) {
	refuse := func(asked bool, field string) {
		if asked {
			p.refuse(field, "this limit is not supported", errdefs.ErrNotImplemented)
		}
	}
	if m := res.Memory; m != nil {
		refuse(m.Kernel != nil && *m.Kernel > 0, "memory.kernel") //nolint:staticcheck // deprecated, and refused
		refuse(m.KernelTCP != nil && *m.KernelTCP > 0, "memory.kernelTCP")
	}
	if b := res.BlockIO; b != nil {
		refuse(b.Weight != nil || b.LeafWeight != nil || len(b.WeightDevice)+len(b.ThrottleReadBpsDevice)+len(b.ThrottleWriteBpsDevice)+
			len(b.ThrottleReadIOPSDevice)+len(b.ThrottleWriteIOPSDevice) > 0, "blockIO")
	}
	if n := res.Network; n != nil {
		refuse(n.ClassID != nil || len(n.Priorities) > 0, "network")
	}
	refuse(len(res.Rdma) > 0, "rdma")
}

// checkNumbers refuses what makes no sense on either version.
func (p *plan) checkNumbers(res *specs.LinuxResources) {
	if m := res.Memory; m != nil {
		for field, v := range map[string]*int64{"memory.limit": m.Limit, "memory.swap": m.Swap, "memory.reservation": m.Reservation} {
			if v != nil && *v < -1 {
				p.refuse(field, fmt.Sprintf("%d is neither a number of bytes nor -1 (no limit)", *v), errdefs.ErrInvalidArgument)
			}
		}
		if s := value(m.Swap); s > 0 {
			switch l := value(m.Limit); {
			case l == -1:
				p.refuse("memory.swap", "memory with swap is limited but memory is not", errdefs.ErrInvalidArgument)
			case l > s:
				p.refuse("memory.swap", fmt.Sprintf("memory with swap (%d) is less than memory alone (%d)", s, l), errdefs.ErrInvalidArgument)
			}
		}
	}
	if c := res.CPU; c != nil {
		for field, list := range map[string]string{"cpu.cpus": c.Cpus, "cpu.mems": c.Mems} {
			if strings.Trim(list, "0123456789,-") != "" {
				p.refuse(field, fmt.Sprintf("%q is not a list of numbers and ranges", list), errdefs.ErrInvalidArgument)
			}
		}
	}
	for _, h := range res.HugepageLimits {
		if !isPageSize(h.Pagesize) {
			p.refuse("hugepageLimits.pageSize", fmt.Sprintf("%q is not a size like 2MB", h.Pagesize), errdefs.ErrInvalidArgument)
		}
	}
}

// isPageSize keeps anything but a size out of the name of a file.
func isPageSize(s string) bool {
	number := strings.TrimRight(s, "KMGB")
	unit := s[len(number):]
	_, err := strconv.ParseUint(number, 10, 32)
	return err == nil && (unit == "KB" || unit == "MB" || unit == "GB")
}

// checkUnified checks the keys of the unified map, which are names of files: nothing may leave the cgroup's directory. The files
// by which processes move and cgroups are structured are the runtime's own.
func checkUnified(unified map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(unified)) {
		field := fmt.Sprintf("unified[%q]", key)
		switch {
		case checkName(key) != nil || strings.Contains(key, "..") || !strings.Contains(key, "."):
			return fmt.Errorf("%s: the key is not the name of a cgroup file: %w", field, errdefs.ErrInvalidArgument)
		case strings.HasPrefix(key, "cgroup.") && key != "cgroup.max.depth" && key != "cgroup.max.descendants":
			return fmt.Errorf("%s: this file is the runtime's own: %w", field, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// value is what v points to, or 0, which in OCI resources means the same as unset.
func value[T int64 | uint64](v *T) T {
	if v == nil {
		return 0
	}
	return *v
}

func number[T int64 | uint64](v T) string { return fmt.Sprintf("%d", v) }

// orMax is v as v2 files want it.
func orMax(v int64) string {
	if v < 0 {
		return "max"
	}
	return number(v)
}
