package translate

import (
	"math"
	"slices"
	"strings"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/runtime/request"
)

// security translates LinuxContainerSecurityContext.
func (c *check) security(field string, s *criv1.LinuxContainerSecurityContext) request.Security {
	caps := s.GetCapabilities()
	out := request.Security{
		AddCapabilities:          c.capabilities(field+".capabilities.add_capabilities", caps.GetAddCapabilities()),
		DropCapabilities:         c.capabilities(field+".capabilities.drop_capabilities", caps.GetDropCapabilities()),
		AddAmbientCapabilities:   c.capabilities(field+".capabilities.add_ambient_capabilities", caps.GetAddAmbientCapabilities()),
		Privileged:               s.GetPrivileged(),
		Namespaces:               c.namespaces(field+".namespace_options", s.GetNamespaceOptions(), true),
		SELinux:                  c.selinux(field+".selinux_options", s.GetSelinuxOptions()),
		RunAsUser:                c.id(field+".run_as_user", s.GetRunAsUser()),
		RunAsGroup:               c.id(field+".run_as_group", s.GetRunAsGroup()),
		RunAsUsername:            s.GetRunAsUsername(),
		ReadonlyRootfs:           s.GetReadonlyRootfs(),
		SupplementalGroups:       c.groups(field+".supplemental_groups", s.GetSupplementalGroups()),
		StrictSupplementalGroups: c.groupsPolicy(field+".supplemental_groups_policy", s.GetSupplementalGroupsPolicy()),
		NoNewPrivs:               s.GetNoNewPrivs(),
		MaskedPaths:              c.absolutes(field+".masked_paths", s.GetMaskedPaths()),
		ReadonlyPaths:            c.absolutes(field+".readonly_paths", s.GetReadonlyPaths()),
		Seccomp:                  c.profile(field+".seccomp", s.GetSeccomp(), field+".seccomp_profile_path", s.GetSeccompProfilePath(), true), //nolint:staticcheck // deprecated, and still honoured
		AppArmor:                 c.profile(field+".apparmor", s.GetApparmor(), field+".apparmor_profile", s.GetApparmorProfile(), false),     //nolint:staticcheck // deprecated, and still honoured
	}
	if out.RunAsUser != nil && out.RunAsUsername != "" {
		c.refuse(field+".run_as_username", "cannot be given together with run_as_user")
	}
	if out.RunAsGroup != nil && out.RunAsUser == nil && out.RunAsUsername == "" {
		c.refuse(field+".run_as_group", "needs run_as_user or run_as_username")
	}
	// A colon would split the name when it is looked up as "user:group"; a newline would end the line of /etc/passwd.
	c.word(field+".run_as_username", out.RunAsUsername)
	if strings.Contains(out.RunAsUsername, ":") {
		c.refuse(field+".run_as_username", "%q contains a colon", out.RunAsUsername)
	}
	return out
}

// knownCapabilities are the capabilities of Linux up to 6.18, without "CAP_".
func knownCapabilities() []string {
	return []string{
		"AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF", "CHECKPOINT_RESTORE", "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH",
		"FOWNER", "FSETID", "IPC_LOCK", "IPC_OWNER", "KILL", "LEASE", "LINUX_IMMUTABLE", "MAC_ADMIN", "MAC_OVERRIDE", "MKNOD", "NET_ADMIN",
		"NET_BIND_SERVICE", "NET_BROADCAST", "NET_RAW", "PERFMON", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYSLOG", "SYS_ADMIN", "SYS_BOOT",
		"SYS_CHROOT", "SYS_MODULE", "SYS_NICE", "SYS_PACCT", "SYS_PTRACE", "SYS_RAWIO", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "WAKE_ALARM",
	}
}

// capabilities normalizes names: upper case, without "CAP_".
func (c *check) capabilities(field string, in []string) []string {
	var out []string
	for i, name := range in {
		short := strings.TrimPrefix(strings.ToUpper(name), "CAP_")
		if short != "ALL" && !slices.Contains(knownCapabilities(), short) {
			c.refuse(item(field, i), "unknown capability %q", name)
		}
		out = append(out, short)
	}
	return out
}

// id answers a uid or gid; nil when it is not set. 4294967295 means "none" to the kernel.
func (c *check) id(field string, v *criv1.Int64Value) *int64 {
	if v == nil {
		return nil
	}
	c.between(field, v.GetValue(), 0, math.MaxUint32-1)
	id := v.GetValue()
	return &id
}

func (c *check) groups(field string, in []int64) []int64 {
	for i, gid := range in {
		c.between(item(field, i), gid, 0, math.MaxUint32-1)
	}
	return slices.Clone(in)
}

// groupsPolicy answers whether the policy is Strict.
func (c *check) groupsPolicy(field string, p criv1.SupplementalGroupsPolicy) bool {
	switch p {
	case criv1.SupplementalGroupsPolicy_Merge:
		return false
	case criv1.SupplementalGroupsPolicy_Strict:
		return true
	default:
		c.refuse(field, "unknown policy %d", p)
		return false
	}
}

func (c *check) absolutes(field string, in []string) []string {
	for i, p := range in {
		c.absolute(item(field, i), p)
	}
	return slices.Clone(in)
}

func (c *check) selinux(field string, o *criv1.SELinuxOption) request.SELinuxLabel {
	out := request.SELinuxLabel{User: o.GetUser(), Role: o.GetRole(), Type: o.GetType(), Level: o.GetLevel()}
	c.word(field+".user", out.User)
	c.word(field+".role", out.Role)
	c.word(field+".type", out.Type)
	c.word(field+".level", out.Level)
	// user:role:type:level: only the level may hold colons ("s0:c1,c2").
	for _, part := range []struct{ name, value string }{{".user", out.User}, {".role", out.Role}, {".type", out.Type}} {
		if strings.Contains(part.value, ":") {
			c.refuse(field+part.name, "%q contains a colon", part.value)
		}
	}
	return out
}

// profile translates a seccomp (filePath) or AppArmor profile. The deprecated field, a string, counts when the new one is absent.
func (c *check) profile(field string, p *criv1.SecurityProfile, oldField, old string, filePath bool) request.SecurityProfile {
	if p == nil {
		return c.deprecatedProfile(oldField, old, filePath)
	}
	switch p.GetProfileType() {
	case criv1.SecurityProfile_RuntimeDefault, criv1.SecurityProfile_Unconfined:
		if p.GetLocalhostRef() != "" {
			c.refuse(field+".localhost_ref", "needs profile_type Localhost")
		}
		if p.GetProfileType() == criv1.SecurityProfile_Unconfined {
			return request.SecurityProfile{Kind: request.ProfileUnconfined}
		}
		return request.SecurityProfile{Kind: request.ProfileRuntimeDefault}
	case criv1.SecurityProfile_Localhost:
		return c.localhostProfile(field+".localhost_ref", strings.TrimPrefix(p.GetLocalhostRef(), localhostPrefix), filePath)
	default:
		c.refuse(field+".profile_type", "unknown type %d", p.GetProfileType())
		return request.SecurityProfile{}
	}
}

const localhostPrefix = "localhost/"

func (c *check) deprecatedProfile(field, value string, filePath bool) request.SecurityProfile {
	switch value {
	case "":
		return request.SecurityProfile{}
	case "unconfined":
		return request.SecurityProfile{Kind: request.ProfileUnconfined}
	case "runtime/default", "docker/default": // the second is what Docker called it; the kubelet passed it on for years
		return request.SecurityProfile{Kind: request.ProfileRuntimeDefault}
	}
	name, ok := strings.CutPrefix(value, localhostPrefix)
	if !ok {
		c.refuse(field, "%q is none of runtime/default, unconfined, localhost/...", value)
		return request.SecurityProfile{}
	}
	return c.localhostProfile(field, name, filePath)
}

func (c *check) localhostProfile(field, name string, filePath bool) request.SecurityProfile {
	if filePath {
		c.absolute(field, name)
	} else {
		c.required(field, name)
		c.word(field, name) // it is written to /proc/self/attr/apparmor/exec
	}
	return request.SecurityProfile{Kind: request.ProfileLocalhost, Localhost: name}
}
