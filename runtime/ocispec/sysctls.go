package ocispec

import (
	"regexp"
	"slices"
	"strings"

	"github.com/shimd/shimd/runtime/request"
)

// Sysctl is one setting of a sandbox's namespaces: Path below /proc/sys and what to write there.
type Sysctl struct{ Path, Value string }

// sysctlName is a name after normalization: parts of letters, digits and a few signs, never "..". Nothing else can be smuggled in (CVE-2022-0811).
var sysctlName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.:@-]*(/[A-Za-z0-9_][A-Za-z0-9_.:@-]*)+$`)

// PodSysctls lists the settings of a sandbox in order of their paths, the runtime's own defaults among them: with a network of its own, any
// user of the pod may bind low ports and send pings, as in containerd. They are written once, inside the sandbox's namespaces.
//
// Only settings that belong to a namespace of the pod's own are let through: others would change the host (CVE-2022-0532).
func PodSysctls(sb request.Sandbox) ([]Sysctl, error) {
	set := map[string]string{}
	if sb.Namespaces.Network != request.NamespaceNode {
		set["net/ipv4/ip_unprivileged_port_start"] = "0"
		// The range must be mapped, which in a user namespace only the client knows.
		if sb.Namespaces.User == nil {
			set["net/ipv4/ping_group_range"] = "0 2147483647"
		}
	}
	for name, value := range sb.Sysctls {
		p := sysctlPath(name)
		if !sysctlName.MatchString(p) {
			return nil, invalid("linux.sysctls: %q is not the name of a sysctl", name)
		}
		if strings.ContainsAny(value, "\n\r\x00") {
			return nil, invalid("linux.sysctls[%s]: the value has more than one line", name)
		}
		if err := checkNamespaced(name, p, sb.Namespaces); err != nil {
			return nil, err
		}
		set[p] = value
	}
	var list []Sysctl
	for p, v := range set {
		list = append(list, Sysctl{Path: p, Value: v})
	}
	slices.SortFunc(list, func(a, b Sysctl) int { return strings.Compare(a.Path, b.Path) })
	return list, nil
}

// sysctlPath normalizes as sysctl(8): the first separator tells which of "." and "/" separates; the other is part of a name.
func sysctlPath(name string) string {
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		return strings.Map(func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}, name)
	}
	return name
}

// checkNamespaced refuses what would reach beyond the pod.
func checkNamespaced(name, p string, modes request.Namespaces) error {
	switch {
	case strings.HasPrefix(p, "net/"):
		if modes.Network == request.NamespaceNode {
			return invalid("linux.sysctls: %q would change the host, whose network namespace the pod shares", name)
		}
	case p == "kernel/domainname":
		if modes.Network == request.NamespaceNode {
			return invalid("linux.sysctls: %q would change the host, whose name the pod shares", name)
		}
	case isIPCSysctl(p):
		if modes.IPC == request.NamespaceNode {
			return invalid("linux.sysctls: %q would change the host, whose IPC namespace the pod shares", name)
		}
	default:
		return invalid("linux.sysctls: %q does not belong to a namespace of the pod", name)
	}
	return nil
}

func isIPCSysctl(p string) bool {
	switch p {
	case "kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/msg_next_id", "kernel/sem", "kernel/sem_next_id",
		"kernel/shmall", "kernel/shmmax", "kernel/shmmni", "kernel/shm_next_id", "kernel/shm_rmid_forced", "kernel/auto_msgmni":
		return true
	}
	return strings.HasPrefix(p, "fs/mqueue/")
}
