package ocispec

import (
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimd/shimd/runtime/request"
)

// capabilityNames are Linux's capabilities in order of their numbers.
func capabilityNames() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW",
		"CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
		"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD",
		"CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
		"CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
	}
}

// CapabilityName is the name of a capability by its number; "" beyond the last known one.
func CapabilityName(number int) string {
	names := capabilityNames()
	if number < 0 || number >= len(names) {
		return ""
	}
	return names[number]
}

// defaultCapabilities is what a container has that asks for nothing: the set that Docker, containerd and CRI-O agree on.
func defaultCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

func (g *generator) capabilities() error {
	caps, err := Capabilities(g.sec, g.in.Host.Capabilities)
	if err != nil {
		return err
	}
	if missing := missingDefaults(caps.Bounding, g.sec, g.in.Host.Capabilities); len(missing) > 0 {
		g.note("the daemon itself lacks %s, so the container does too", strings.Join(missing, ", "))
	}
	g.spec.Process.Capabilities = caps
	return nil
}

// Capabilities are the sets of a container's process. host are the daemon's own: more cannot be given.
//
// ALL is applied first, then single names, so that "add ALL, drop CHOWN" means all but that one. The inheritable set is empty
// (CVE-2022-29162, CVE-2022-27652) but for ambient capabilities, which the kernel takes only when they are inheritable too.
func Capabilities(sec request.Security, host []string) (*specs.LinuxCapabilities, error) {
	if sec.Privileged {
		all := slices.Clone(host)
		return &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}, nil
	}
	add, addAll, err := parseCapabilities("add_capabilities", sec.AddCapabilities)
	if err != nil {
		return nil, err
	}
	drop, dropAll, err := parseCapabilities("drop_capabilities", sec.DropCapabilities)
	if err != nil {
		return nil, err
	}
	ambient, ambientAll, err := parseCapabilities("add_ambient_capabilities", sec.AddAmbientCapabilities)
	if err != nil {
		return nil, err
	}

	set := defaultCapabilities()
	if addAll {
		set = slices.Clone(host)
	}
	if dropAll {
		set = nil
	}
	if ambientAll {
		ambient = slices.Clone(host)
	}
	for _, c := range append(slices.Clone(add), ambient...) {
		if !slices.Contains(host, c) {
			return nil, unmet("linux.security_context.capabilities: %s cannot be added: the daemon does not have it itself", c)
		}
	}
	set = append(append(set, add...), ambient...)
	dropped := func(c string) bool { return slices.Contains(drop, c) }
	set = slices.DeleteFunc(set, dropped)
	ambient = slices.DeleteFunc(ambient, dropped)

	// In the kernel's order and each once: equal requests give equal specifications.
	ordered := inOrder(set, host)
	return &specs.LinuxCapabilities{
		Bounding:    ordered,
		Effective:   ordered,
		Permitted:   ordered,
		Inheritable: inOrder(ambient, host),
		Ambient:     inOrder(ambient, host),
	}, nil
}

func inOrder(set, host []string) []string {
	var ordered []string
	for _, c := range capabilityNames() {
		if slices.Contains(set, c) && slices.Contains(host, c) {
			ordered = append(ordered, c)
		}
	}
	return ordered
}

// parseCapabilities normalizes names ("net_admin", "CAP_NET_ADMIN") and takes "ALL" out.
func parseCapabilities(field string, names []string) (caps []string, all bool, err error) {
	known := capabilityNames()
	for _, n := range names {
		upper := strings.ToUpper(n)
		if upper == "ALL" || upper == "CAP_ALL" {
			all = true
			continue
		}
		c := "CAP_" + strings.TrimPrefix(upper, "CAP_")
		if !slices.Contains(known, c) {
			return nil, false, invalid("linux.security_context.capabilities.%s: unknown capability %q", field, n)
		}
		caps = append(caps, c)
	}
	return caps, all, nil
}

// missingDefaults lists default capabilities that the daemon lacks and the request did not drop.
func missingDefaults(got []string, sec request.Security, host []string) []string {
	drop, dropAll, err := parseCapabilities("drop_capabilities", sec.DropCapabilities)
	if err != nil || dropAll || sec.Privileged {
		return nil
	}
	var missing []string
	for _, c := range defaultCapabilities() {
		if !slices.Contains(got, c) && !slices.Contains(drop, c) && !slices.Contains(host, c) {
			missing = append(missing, c)
		}
	}
	return missing
}
