package launch

import (
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func invalid(field, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", field, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}

// checkSpec refuses what makes no sense and what is not supported, by the name of its field, so that nothing is silently ignored.
func checkSpec(s *specs.Spec) error {
	switch {
	case s == nil || s.Process == nil || s.Linux == nil:
		return invalid("spec", "process or linux is missing")
	case s.Hooks != nil && hasHooks(s.Hooks):
		return invalid("hooks", "are not supported")
	case s.Linux.IntelRdt != nil:
		return invalid("linux.intelRdt", "is not supported")
	case s.Linux.Personality != nil:
		return invalid("linux.personality", "is not supported")
	case len(s.Linux.TimeOffsets) != 0:
		return invalid("linux.timeOffsets", "is not supported")
	case s.Linux.MountLabel != "" && strings.ContainsAny(s.Linux.MountLabel, "\x00\n\""):
		return invalid("linux.mountLabel", "%q holds a control character", s.Linux.MountLabel)
	}
	mount, uts := false, false
	seen := map[specs.LinuxNamespaceType]bool{}
	for _, n := range s.Linux.Namespaces {
		if seen[n.Type] {
			return invalid("linux.namespaces", "%s is there twice", n.Type)
		}
		seen[n.Type] = true
		mount = mount || n.Type == specs.MountNamespace
		uts = uts || n.Type == specs.UTSNamespace
	}
	if !mount {
		return invalid("linux.namespaces", "a container has a mount namespace of its own")
	}
	if (s.Hostname != "" || s.Domainname != "") && !uts {
		return invalid("hostname", "is set, but the host's UTS namespace is shared")
	}
	for name, value := range s.Linux.Sysctl {
		if err := checkSysctl(name, value, seen); err != nil {
			return err
		}
	}
	for _, list := range [][]string{s.Linux.MaskedPaths, s.Linux.ReadonlyPaths} {
		for _, p := range list {
			if !path.IsAbs(p) || strings.ContainsRune(p, 0) {
				return invalid("linux.maskedPaths, linux.readonlyPaths", "%q is not an absolute path", p)
			}
		}
	}
	switch s.Linux.RootfsPropagation {
	case "", "private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable":
	default:
		return invalid("linux.rootfsPropagation", "%q is unknown", s.Linux.RootfsPropagation)
	}
	return checkProcess(s.Process)
}

func hasHooks(h *specs.Hooks) bool {
	return len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer)+len(h.StartContainer)+len(h.Poststart)+len(h.Poststop) > 0 //nolint:staticcheck // Prestart is deprecated, and refused
}

func checkProcess(p *specs.Process) error {
	switch {
	case len(p.Args) == 0 || p.Args[0] == "":
		return invalid("process.args", "there is nothing to execute")
	case p.Cwd != "" && !path.IsAbs(p.Cwd):
		return invalid("process.cwd", "%q is not an absolute path", p.Cwd)
	case strings.ContainsRune(p.Cwd, 0):
		return invalid("process.cwd", "%q holds a NUL byte", p.Cwd)
	case p.Scheduler != nil:
		return invalid("process.scheduler", "is not supported")
	case p.IOPriority != nil:
		return invalid("process.ioPriority", "is not supported")
	case p.ExecCPUAffinity != nil:
		return invalid("process.execCPUAffinity", "is not supported")
	case p.User.Umask != nil && *p.User.Umask > 0o777:
		return invalid("process.user.umask", "%o is not one", *p.User.Umask)
	case p.OOMScoreAdj != nil && (*p.OOMScoreAdj < -1000 || *p.OOMScoreAdj > 1000):
		return invalid("process.oomScoreAdj", "%d is not between -1000 and 1000", *p.OOMScoreAdj)
	}
	for field, values := range map[string][]string{"process.args": p.Args, "process.env": p.Env, "process.apparmorProfile, selinuxLabel": {p.ApparmorProfile, p.SelinuxLabel}} {
		for _, v := range values {
			if strings.ContainsRune(v, 0) {
				return invalid(field, "%q holds a NUL byte", v)
			}
		}
	}
	numbers := rlimitNumbers()
	for _, l := range p.Rlimits {
		if _, ok := numbers[l.Type]; !ok || l.Soft > l.Hard {
			return invalid("process.rlimits", "%s soft %d hard %d", l.Type, l.Soft, l.Hard)
		}
	}
	if c := p.Capabilities; c != nil {
		for _, list := range [][]string{c.Bounding, c.Effective, c.Permitted, c.Inheritable, c.Ambient} {
			for _, name := range list {
				if capabilityBits([]string{name}) == 0 {
					return invalid("process.capabilities", "%q is unknown", name)
				}
			}
		}
	}
	return nil
}

// checkSysctl refuses what is not the container's own: a sysctl of a namespace that is shared with the host would set the host's (CVE-2022-0532), and a name
// or value with a separator in it could set another (CVE-2022-0811).
func checkSysctl(name, value string, own map[specs.LinuxNamespaceType]bool) error {
	p := sysctlPath(name)
	if name == "" || path.Clean("/"+p) != "/"+p || strings.ContainsAny(name, "\x00\n =+") || strings.ContainsAny(value, "\x00\n") {
		return invalid("linux.sysctl", "%q = %q is malformed", name, value)
	}
	needs := specs.LinuxNamespaceType("")
	switch {
	case strings.HasPrefix(p, "net/"):
		needs = specs.NetworkNamespace
	case strings.HasPrefix(p, "fs/mqueue/"), strings.HasPrefix(p, "kernel/shm"), strings.HasPrefix(p, "kernel/msg"), p == "kernel/sem":
		needs = specs.IPCNamespace
	case p == "kernel/domainname", p == "kernel/hostname":
		needs = specs.UTSNamespace
	case strings.HasPrefix(p, "user/"):
		needs = specs.UserNamespace
	}
	if needs == "" || !own[needs] {
		return invalid("linux.sysctl", "%q is not of a namespace of the container's own", name)
	}
	return nil
}

func seccompFlags(s *specs.Spec) (uint64, error) {
	if s.Linux == nil || s.Linux.Seccomp == nil {
		return 0, nil
	}
	if s.Linux.Seccomp.ListenerPath != "" {
		return 0, invalid("linux.seccomp.listenerPath", "is not supported")
	}
	var bits uint64
	for _, f := range s.Linux.Seccomp.Flags {
		switch f {
		case specs.LinuxSeccompFlagLog:
			bits |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			bits |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case "SECCOMP_FILTER_FLAG_TSYNC": // there is one thread
		default:
			return 0, invalid("linux.seccomp.flags", "%q is not supported", f)
		}
	}
	return bits, nil
}

func checkFilter(filter []byte) error {
	if len(filter)%8 != 0 || len(filter)/8 > 4096 {
		return invalid("seccomp filter", "%d bytes are no array of at most 4096 instructions", len(filter))
	}
	return nil
}
