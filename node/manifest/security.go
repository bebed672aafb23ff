package manifest

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

func validateSecurity(r *report, pod *corev1.Pod) {
	const field = "spec.securityContext"
	sc := pod.Spec.SecurityContext
	validateID(r, field+".runAsUser", sc.RunAsUser)
	validateID(r, field+".runAsGroup", sc.RunAsGroup)
	validateID(r, field+".fsGroup", sc.FSGroup)
	for i := range sc.SupplementalGroups {
		validateID(r, fmt.Sprintf("%s.supplementalGroups[%d]", field, i), &sc.SupplementalGroups[i])
	}
	validateSeccomp(r, field+".seccompProfile", sc.SeccompProfile)
	validateAppArmor(r, field+".appArmorProfile", sc.AppArmorProfile)
	validateSysctls(r, field+".sysctls", pod)
	for i := range pod.Spec.InitContainers {
		validateContainerSecurity(r, fmt.Sprintf("spec.initContainers[%d].securityContext", i), pod.Spec.InitContainers[i].SecurityContext)
	}
	for i := range pod.Spec.Containers {
		validateContainerSecurity(r, fmt.Sprintf("spec.containers[%d].securityContext", i), pod.Spec.Containers[i].SecurityContext)
	}
}

func validateContainerSecurity(r *report, field string, sc *corev1.SecurityContext) {
	if sc == nil {
		return
	}
	validateID(r, field+".runAsUser", sc.RunAsUser)
	validateID(r, field+".runAsGroup", sc.RunAsGroup)
	validateSeccomp(r, field+".seccompProfile", sc.SeccompProfile)
	validateAppArmor(r, field+".appArmorProfile", sc.AppArmorProfile)
	if sc.ProcMount != nil {
		oneOf(r, field+".procMount", *sc.ProcMount, corev1.DefaultProcMount) // Unmasked needs a user namespace
	}
	if sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation && isTrue(sc.Privileged) {
		r.add(field+".allowPrivilegeEscalation", "false does not go together with privileged")
	}
	if sc.Capabilities == nil {
		return
	}
	for _, c := range append(append([]corev1.Capability{}, sc.Capabilities.Add...), sc.Capabilities.Drop...) {
		if c == "" || strings.ContainsAny(string(c), " \t\n\x00") {
			r.add(field+".capabilities", "%q is not a capability", c)
		}
		if sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation && (c == "SYS_ADMIN" || c == "CAP_SYS_ADMIN") {
			r.add(field+".allowPrivilegeEscalation", "false does not go together with CAP_SYS_ADMIN")
		}
	}
}

// validateID: the kernel's ids have 32 bits, and what overflows must not come out as another user.
func validateID(r *report, field string, id *int64) {
	if id != nil && (*id < 0 || *id > 1<<31-1) {
		r.add(field, "%d is not between 0 and 2147483647", *id)
	}
}

func validateSeccomp(r *report, field string, profile *corev1.SeccompProfile) {
	if profile == nil {
		return
	}
	oneOf(r, field+".type", profile.Type, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined, corev1.SeccompProfileTypeLocalhost)
	validateLocalhost(r, field, profile.Type == corev1.SeccompProfileTypeLocalhost, profile.LocalhostProfile)
	// A path under the node's folder of profiles; an empty one would be no profile at all (CVE-2023-2431).
	if p := profile.LocalhostProfile; p != nil && (path.IsAbs(*p) || hasDotDot(*p)) {
		r.add(field+".localhostProfile", "%q is not a relative path without ..", *p)
	}
}

func validateAppArmor(r *report, field string, profile *corev1.AppArmorProfile) {
	if profile == nil {
		return
	}
	oneOf(r, field+".type", profile.Type, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined, corev1.AppArmorProfileTypeLocalhost)
	validateLocalhost(r, field, profile.Type == corev1.AppArmorProfileTypeLocalhost, profile.LocalhostProfile)
}

func validateLocalhost(r *report, field string, localhost bool, profile *string) {
	switch {
	case localhost && (profile == nil || strings.TrimSpace(*profile) == ""):
		r.add(field+".localhostProfile", "type Localhost needs one")
	case !localhost && profile != nil:
		r.add(field+".localhostProfile", "only goes together with type Localhost")
	}
}

// validateSysctls: names as the API server allows them, so that neither name nor value smuggles in a second setting (CVE-2022-0811), and
// none of the host's when the pod shares its namespace (CVE-2022-0532).
func validateSysctls(r *report, field string, pod *corev1.Pod) {
	name := regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`)
	for i, sysctl := range pod.Spec.SecurityContext.Sysctls {
		field := fmt.Sprintf("%s[%d]", field, i)
		dotted := strings.ReplaceAll(sysctl.Name, "/", ".")
		switch {
		case len(sysctl.Name) > 253 || !name.MatchString(sysctl.Name):
			r.add(field+".name", "%q is not the name of a sysctl", sysctl.Name)
		case strings.ContainsAny(sysctl.Value, "\n\x00"):
			r.add(field+".value", "holds more than one line")
		case strings.HasPrefix(dotted, "net."):
			if pod.Spec.HostNetwork {
				r.add(field+".name", "%q is the node's with hostNetwork", sysctl.Name)
			}
		case strings.HasPrefix(dotted, "kernel.shm") || strings.HasPrefix(dotted, "kernel.msg") || dotted == "kernel.sem" || strings.HasPrefix(dotted, "fs.mqueue."):
			if pod.Spec.HostIPC {
				r.add(field+".name", "%q is the node's with hostIPC", sysctl.Name)
			}
		default:
			r.add(field+".name", "%q is not of a namespace of the pod's", sysctl.Name)
		}
	}
}
