package translate

import (
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func sandboxSecurity(node Node, pod *corev1.Pod, users *criv1.UserNamespace) *criv1.LinuxSandboxSecurityContext {
	sc := pod.Spec.SecurityContext
	context := &criv1.LinuxSandboxSecurityContext{
		NamespaceOptions:         namespaces(pod, users),
		Privileged:               anyPrivileged(pod),
		Seccomp:                  &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_RuntimeDefault}, // nothing of the pod's runs in the sandbox itself
		SelinuxOptions:           seLinux(sc.SELinuxOptions, nil),
		SupplementalGroups:       groups(sc),
		SupplementalGroupsPolicy: groupsPolicy(sc),
	}
	if sc.RunAsUser != nil {
		context.RunAsUser = &criv1.Int64Value{Value: *sc.RunAsUser}
	}
	if sc.RunAsGroup != nil && sc.RunAsUser != nil { // CRI refuses a group without a user
		context.RunAsGroup = &criv1.Int64Value{Value: *sc.RunAsGroup}
	}
	return context
}

func anyPrivileged(pod *corev1.Pod) bool {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if isPrivileged(&list[i]) {
				return true
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if isPrivileged((*corev1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)) {
			return true
		}
	}
	return false
}

func isPrivileged(c *corev1.Container) bool {
	return c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
}

func containerSecurity(node Node, pod *corev1.Pod, c *corev1.Container, run Run) *criv1.LinuxContainerSecurityContext {
	of, own := pod.Spec.SecurityContext, c.SecurityContext
	if own == nil {
		own = &corev1.SecurityContext{}
	}
	context := &criv1.LinuxContainerSecurityContext{
		NamespaceOptions:         namespaces(pod, run.UserNS),
		Privileged:               isPrivileged(c),
		SelinuxOptions:           seLinux(of.SELinuxOptions, own.SELinuxOptions),
		SupplementalGroups:       groups(of),
		SupplementalGroupsPolicy: groupsPolicy(of),
		NoNewPrivs:               own.AllowPrivilegeEscalation != nil && !*own.AllowPrivilegeEscalation,
		ReadonlyRootfs:           own.ReadOnlyRootFilesystem != nil && *own.ReadOnlyRootFilesystem,
		MaskedPaths:              maskedPaths(),
		ReadonlyPaths:            readonlyPaths(),
		Seccomp:                  seccomp(node, context(of.SeccompProfile, own.SeccompProfile), isPrivileged(c)),
		Apparmor:                 appArmor(context(of.AppArmorProfile, own.AppArmorProfile)),
	}
	if own.Capabilities != nil {
		context.Capabilities = &criv1.Capability{}
		for _, name := range own.Capabilities.Add {
			context.Capabilities.AddCapabilities = append(context.Capabilities.AddCapabilities, string(name))
		}
		for _, name := range own.Capabilities.Drop {
			context.Capabilities.DropCapabilities = append(context.Capabilities.DropCapabilities, string(name))
		}
	}
	if own.ProcMount != nil && *own.ProcMount == corev1.UnmaskedProcMount {
		context.MaskedPaths, context.ReadonlyPaths = nil, nil
	}
	if run.TargetID != "" && context.NamespaceOptions.Pid == criv1.NamespaceMode_CONTAINER {
		context.NamespaceOptions.Pid, context.NamespaceOptions.TargetId = criv1.NamespaceMode_TARGET, run.TargetID
	}
	setUser(context, firstOf(own.RunAsUser, of.RunAsUser), firstOf(own.RunAsGroup, of.RunAsGroup), run.User)
	return context
}

// context is the container's setting, else the pod's.
func context[T any](pod, container *T) *T { return firstOf(container, pod) }

func firstOf[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

// setUser names the user even where the image does, as the kubelet: then a change of the image between the check of runAsNonRoot and the
// start changes nothing.
func setUser(context *criv1.LinuxContainerSecurityContext, user, group *int64, image ImageUser) {
	switch {
	case user != nil:
		context.RunAsUser = &criv1.Int64Value{Value: *user}
	case image.UID != nil:
		context.RunAsUser = &criv1.Int64Value{Value: *image.UID}
	default:
		context.RunAsUsername = image.Name
	}
	if group != nil {
		if context.RunAsUser == nil && context.RunAsUsername == "" {
			context.RunAsUser = &criv1.Int64Value{Value: 0} // CRI refuses a group without a user; the image's user is root
		}
		context.RunAsGroup = &criv1.Int64Value{Value: *group}
	}
}

func groups(sc *corev1.PodSecurityContext) []int64 {
	found := append([]int64(nil), sc.SupplementalGroups...)
	if sc.FSGroup != nil {
		found = append(found, *sc.FSGroup)
	}
	return found
}

func groupsPolicy(sc *corev1.PodSecurityContext) criv1.SupplementalGroupsPolicy {
	if sc.SupplementalGroupsPolicy != nil && *sc.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict {
		return criv1.SupplementalGroupsPolicy_Strict
	}
	return criv1.SupplementalGroupsPolicy_Merge
}

func seLinux(pod, container *corev1.SELinuxOptions) *criv1.SELinuxOption {
	options := firstOf(container, pod)
	if options == nil {
		return nil
	}
	return &criv1.SELinuxOption{User: options.User, Role: options.Role, Type: options.Type, Level: options.Level}
}

func seccomp(node Node, profile *corev1.SeccompProfile, privileged bool) *criv1.SecurityProfile {
	unconfined := &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Unconfined}
	runtimeDefault := &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_RuntimeDefault}
	switch {
	case privileged:
		return unconfined
	case profile == nil && node.DefaultSeccomp:
		return runtimeDefault
	case profile == nil:
		return unconfined
	case profile.Type == corev1.SeccompProfileTypeRuntimeDefault:
		return runtimeDefault
	case profile.Type == corev1.SeccompProfileTypeLocalhost && profile.LocalhostProfile != nil:
		return &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Localhost, LocalhostRef: filepath.Join(node.SeccompDir, *profile.LocalhostProfile)}
	default:
		return unconfined
	}
}

// appArmor: nil leaves it to the runtime, which has a default where the kernel has AppArmor.
func appArmor(profile *corev1.AppArmorProfile) *criv1.SecurityProfile {
	switch {
	case profile == nil:
		return nil
	case profile.Type == corev1.AppArmorProfileTypeRuntimeDefault:
		return &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_RuntimeDefault}
	case profile.Type == corev1.AppArmorProfileTypeLocalhost && profile.LocalhostProfile != nil:
		return &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Localhost, LocalhostRef: *profile.LocalhostProfile}
	default:
		return &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Unconfined}
	}
}

// maskedPaths and readonlyPaths are the kubelet's for procMount Default (pkg/securitycontext/util.go). GHSA-7ww5: powercap is among them.
func maskedPaths() []string {
	return []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}
