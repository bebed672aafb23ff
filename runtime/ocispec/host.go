package ocispec

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimd/shimd/seccomp"
)

// Host is what a specification depends on of the machine: plain data, filled once at the daemon's start by package hostprobe.
type Host struct {
	CgroupVersion int // 1 or 2
	Hostname      string
	// Capabilities are those the daemon itself has in its permitted and bounding sets, with "CAP_", in order of number.
	Capabilities []string
	// OOMScoreAdjMin is the lowest oom_score_adj that the daemon may give to others: -1000 with CAP_SYS_RESOURCE, else its own.
	OOMScoreAdjMin int

	HugepageSizes  []string // as cgroup files write them: "2MB", "1GB"
	Hugetlb        bool     // the hugetlb controller is there
	SwapAccounting bool     // memory.swap.max (v2) or memory.memsw.limit_in_bytes (v1) is there

	Seccomp bool // CONFIG_SECCOMP_FILTER
	// SeccompTarget is the architecture and kernel that seccomp profiles are resolved for.
	SeccompTarget seccomp.Target

	AppArmor bool
	// AppArmorProfiles are the loaded profiles by name, when the caller has read them; nil: not known, any name is tried.
	AppArmorProfiles map[string]bool
	// AppArmorDefault is the name of the loaded runtime default profile; "" when it could not be loaded.
	AppArmorDefault string
	SELinux         bool
}

// Device is a device node of the host given to a container. Path is the one in the container.
type Device struct {
	specs.LinuxDevice
	Access string // of "rwm"
}

// hasHugepages reports whether the kernel has pages of that size.
func (h *Host) hasHugepages(size string) bool {
	for _, s := range h.HugepageSizes {
		if s == size {
			return true
		}
	}
	return false
}
