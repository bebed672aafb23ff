// Package seccomp finds seccomp profiles and compiles them to the filters that the kernel loads.
//
// What belongs inside: the runtime's default profile, profile files of the node, their resolution for capabilities, architecture
// and kernel, and a compiler to classic BPF in pure Go with the meaning that libseccomp and runc give to a profile. What does not:
// loading a filter into a process, which a launch program does.
package seccomp

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	moby "github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Profile is a profile as written: its rules may depend on capabilities, architecture and kernel. It is not changed once made.
type Profile struct {
	source *moby.Seccomp
}

// Target is what a profile's conditional rules depend on.
type Target struct {
	Arch          string // as GOARCH
	Kernel, Major uint64 // 6, 18 for Linux 6.18
	Capabilities  []string
}

// Default is the profile of containers that ask for the runtime's default: the one that Docker and containerd use.
func Default() *Profile { return &Profile{source: moby.DefaultProfile()} }

// Parse reads a profile in the form of Docker's and of the OCI runtime specification.
func Parse(data []byte) (*Profile, error) {
	var source moby.Seccomp
	if err := json.Unmarshal(data, &source); err != nil {
		return nil, fmt.Errorf("parsing the seccomp profile: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if source.DefaultAction == "" {
		// Taken as "no seccomp" elsewhere; a file that was named and says nothing is a mistake (CVE-2023-2431).
		return nil, fmt.Errorf("parsing the seccomp profile: it has no defaultAction: %w", errdefs.ErrInvalidArgument)
	}
	if len(source.Architectures) != 0 && len(source.ArchMap) != 0 {
		return nil, fmt.Errorf("parsing the seccomp profile: architectures and archMap exclude each other: %w", errdefs.ErrInvalidArgument)
	}
	for _, call := range source.Syscalls {
		if call == nil || (call.Name != "" && len(call.Names) != 0) { //nolint:staticcheck // deprecated, and still in old profiles
			return nil, fmt.Errorf("parsing the seccomp profile: a rule of syscalls needs either name or names: %w", errdefs.ErrInvalidArgument)
		}
	}
	return &Profile{source: &source}, nil
}

// Resolve picks the rules that hold for a target.
func (p *Profile) Resolve(t Target) (*specs.LinuxSeccomp, error) {
	src := p.source
	out := src.LinuxSeccomp
	out.Architectures = slices.Clone(src.Architectures)
	out.Syscalls = nil
	if native, ok := nativeArch(t.Arch); ok {
		for _, a := range src.ArchMap {
			if a.Arch == native {
				out.Architectures = append(append(out.Architectures, a.Arch), a.SubArches...)
				break
			}
		}
	}
	for _, call := range src.Syscalls {
		if call.Excludes != nil && excluded(call.Excludes, t) {
			continue
		}
		if call.Includes != nil && !included(call.Includes, t) {
			continue
		}
		rule := call.LinuxSyscall
		if call.Name != "" { //nolint:staticcheck // deprecated, and still in old profiles
			rule.Names = []string{call.Name} //nolint:staticcheck // as above
		}
		out.Syscalls = append(out.Syscalls, rule)
	}
	return &out, nil
}

// excluded: one condition that holds is enough.
func excluded(f *moby.Filter, t Target) bool {
	return slices.Contains(f.Arches, t.Arch) ||
		slices.ContainsFunc(f.Caps, func(c string) bool { return slices.Contains(t.Capabilities, c) }) ||
		(f.MinKernel != nil && t.atLeast(f.MinKernel))
}

// included: all conditions must hold.
func included(f *moby.Filter, t Target) bool {
	return (len(f.Arches) == 0 || slices.Contains(f.Arches, t.Arch)) &&
		!slices.ContainsFunc(f.Caps, func(c string) bool { return !slices.Contains(t.Capabilities, c) }) &&
		(f.MinKernel == nil || t.atLeast(f.MinKernel))
}

func (t Target) atLeast(v *moby.KernelVersion) bool {
	return t.Kernel > v.Kernel || (t.Kernel == v.Kernel && t.Major >= v.Major)
}

// nativeArch names a GOARCH as libseccomp does.
func nativeArch(goarch string) (specs.Arch, bool) {
	switch goarch {
	case "amd64":
		return specs.ArchX86_64, true
	case "arm64":
		return specs.ArchAARCH64, true
	}
	return "", false
}
