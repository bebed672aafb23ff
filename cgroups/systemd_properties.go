package cgroups

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func property(name string, value any) dbus.Property {
	return dbus.Property{Name: name, Value: godbus.MakeVariant(value)}
}

// sliceProperties are those of every slice of ours, beside its limits. Accounting makes systemd pass on the controllers; the one for the
// CPU is only passed on where a weight or a quota is set.
func sliceProperties(name string, limits []dbus.Property) []dbus.Property {
	all := []dbus.Property{
		property("Description", "shimd cgroup "+name),
		// Else the unit would be stopped at shutdown before the node agent had its turn.
		property("DefaultDependencies", false),
		property("CPUAccounting", true),
		property("MemoryAccounting", true),
		property("TasksAccounting", true),
		property("IOAccounting", true),
	}
	if !slices.ContainsFunc(limits, func(p dbus.Property) bool { return p.Name == "CPUWeight" }) {
		all = append(all, property("CPUWeight", uint64(100)))
	}
	return all
}

// limitProperties turns limits to the properties of a unit, for all that systemd would otherwise overwrite. Only fields that are set give
// properties.
func limitProperties(res *specs.LinuxResources) ([]dbus.Property, error) {
	if res == nil {
		return nil, nil
	}
	var all []dbus.Property
	set := func(name string, value any) { all = append(all, property(name, value)) }
	if c := res.CPU; c != nil {
		if v := value(c.Shares); v != 0 && value(c.Idle) != 1 {
			set("CPUWeight", cpuWeight(v))
		}
		if value(c.Idle) == 1 {
			set("CPUWeight", uint64(0)) // "idle", from systemd 252 on
		}
		if q := value(c.Quota); q != 0 {
			set("CPUQuotaPerSecUSec", quotaPerSecond(q, value(c.Period)))
		}
		if p := value(c.Period); p != 0 {
			set("CPUQuotaPeriodUSec", p)
		}
		for _, l := range []struct{ name, list string }{{"AllowedCPUs", c.Cpus}, {"AllowedMemoryNodes", c.Mems}} {
			if l.list == "" {
				continue
			}
			bits, err := cpuMask(l.list)
			if err != nil {
				return nil, err
			}
			set(l.name, bits)
		}
	}
	if m := res.Memory; m != nil {
		if v := value(m.Limit); v != 0 {
			set("MemoryMax", unlimited(v))
		}
		if v := value(m.Reservation); v != 0 {
			set("MemoryLow", unlimited(v))
		}
		if swap, asked, err := swapV2(m); err == nil && asked {
			set("MemorySwapMax", unlimited(swap))
		}
	}
	if res.Pids != nil && value(res.Pids.Limit) != 0 {
		set("TasksMax", unlimited(*res.Pids.Limit))
	}
	unified, err := unifiedProperties(res.Unified)
	if err != nil {
		return nil, err
	}
	// A name may stand in a message once; what the unified map says wins.
	all = slices.DeleteFunc(all, func(p dbus.Property) bool {
		return slices.ContainsFunc(unified, func(u dbus.Property) bool { return u.Name == p.Name })
	})
	return append(all, unified...), nil
}

// unifiedProperties are those files of the unified map that systemd writes, too: numbers, and the lists of cpusets, whose controller
// there is only where systemd knows of a list.
func unifiedProperties(unified map[string]string) ([]dbus.Property, error) {
	var all []dbus.Property
	for _, known := range []struct{ file, name string }{
		{"cpu.weight", "CPUWeight"}, {"memory.min", "MemoryMin"}, {"memory.low", "MemoryLow"}, {"memory.high", "MemoryHigh"},
		{"memory.max", "MemoryMax"}, {"memory.swap.max", "MemorySwapMax"}, {"memory.zswap.max", "MemoryZSwapMax"}, {"pids.max", "TasksMax"},
	} {
		text := strings.TrimSpace(unified[known.file])
		if text == "max" {
			all = append(all, property(known.name, uint64(math.MaxUint64)))
		} else if v, err := strconv.ParseUint(text, 10, 64); err == nil {
			all = append(all, property(known.name, v))
		}
	}
	for _, known := range []struct{ file, name string }{{"cpuset.cpus", "AllowedCPUs"}, {"cpuset.mems", "AllowedMemoryNodes"}} {
		if list := strings.TrimSpace(unified[known.file]); list != "" {
			bits, err := cpuMask(list)
			if err != nil {
				return nil, fmt.Errorf("unified[%q]: %w", known.file, err)
			}
			all = append(all, property(known.name, bits))
		}
	}
	return all, nil
}

// unlimited is v as systemd has it: no limit is the largest number.
func unlimited(v int64) uint64 {
	if v < 0 {
		return math.MaxUint64
	}
	return uint64(v)
}

// quotaPerSecond is a quota as microseconds per second. systemd keeps whole percents of a CPU (10 ms), so it is rounded up: the file,
// which is written afterwards, has the exact value.
func quotaPerSecond(quota int64, period uint64) uint64 {
	if quota < 0 {
		return math.MaxUint64
	}
	if period == 0 {
		period = 100_000
	}
	perSecond := uint64(quota) * 1_000_000 / period
	return (perSecond + 9_999) / 10_000 * 10_000
}

// cpuMask turns a list ("0-3,8") to the bytes of a bit mask, the lowest first.
func cpuMask(list string) ([]byte, error) {
	const most = 8192 // the kernel's largest NR_CPUS
	var mask []byte
	for part := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, err := strconv.ParseUint(from, 10, 16)
		last := first
		if err == nil && isRange {
			last, err = strconv.ParseUint(to, 10, 16)
		}
		if err != nil || last < first || last >= most {
			return nil, fmt.Errorf("%q is not a list of CPUs or memory nodes: %w", list, errdefs.ErrInvalidArgument)
		}
		for uint64(len(mask)) <= last/8 {
			mask = append(mask, 0)
		}
		for n := first; n <= last; n++ {
			mask[n/8] |= 1 << (n % 8)
		}
	}
	return mask, nil
}
