package translate

import (
	"regexp"
	"slices"
	"strings"

	"github.com/shimd/shimd/runtime/request"
)

// sysctlName is what Kubernetes takes too: parts of lower-case letters, digits, "-" and "_", joined by "." or "/". It has no room
// for "..", for "=" or for a second setting behind a "+" (CVE-2022-0811).
var sysctlName = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[./])+[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`)

// ipcSysctls are the ones that belong to an IPC namespace, besides fs.mqueue.*.
func ipcSysctls() []string {
	return []string{"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"}
}

// sysctls takes those that a namespace of the sandbox's own holds. All others are the node's: a pod must not set them, whether they
// are not namespaced at all (kernel.core_pattern, CVE-2022-0811) or the pod shares the host's namespace (CVE-2022-0532).
func (c *check) sysctls(field string, in map[string]string, ns request.Namespaces) map[string]string {
	if len(in) == 0 {
		return nil
	}
	out := make(map[string]string, len(in))
	names := make([]string, 0, len(in))
	for name := range in {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		f := key(field, name)
		if !sysctlName.MatchString(name) {
			c.refuse(f, "is not the name of a sysctl")
			continue
		}
		c.line(f, in[name])
		dotted := dotted(name)
		if _, twice := out[dotted]; twice {
			c.refuse(f, "is set twice")
		}
		out[dotted] = in[name]
		switch {
		case strings.HasPrefix(dotted, "net."):
			if ns.Network == request.NamespaceNode {
				c.refuse(f, "the pod shares the host's network namespace")
			}
		case strings.HasPrefix(dotted, "fs.mqueue."), slices.Contains(ipcSysctls(), dotted):
			if ns.IPC == request.NamespaceNode {
				c.refuse(f, "the pod shares the host's IPC namespace")
			}
		case dotted == "kernel.domainname":
			if ns.Network == request.NamespaceNode {
				c.refuse(f, "the pod shares the host's UTS namespace")
			}
		case dotted == "kernel.hostname":
			c.refuse(f, "is config.hostname's")
		default:
			c.refuse(f, "is not namespaced: it would change the whole node")
		}
	}
	return out
}

// dotted writes a name with dots as separators, as sysctl(8) does: the first separator decides which of "." and "/" separates, the
// other one then stands for itself, swapped ("net/ipv4/conf/eth0.100/forwarding" is "net.ipv4.conf.eth0/100.forwarding").
func dotted(name string) string {
	if i := strings.IndexAny(name, "./"); i < 0 || name[i] == '.' {
		return name
	}
	return strings.NewReplacer(".", "/", "/", ".").Replace(name)
}
