package ocispec

import (
	"fmt"
	"slices"

	"github.com/shimd/shimd/runtime/request"
	"github.com/shimd/shimd/seccomp"
)

// powercap tells the power that the processor draws, from which secrets of other programs can be computed (GHSA-7ww5, PLATYPUS).
const powercap = "/sys/devices/virtual/powercap"

// usualMasks and usualReadonly are what the kubelet asks for, unless procMount is Unmasked.
func usualMasks() []string {
	return []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", powercap,
	}
}

func usualReadonly() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// masks are the request's. One without any means procMount Unmasked, which Kubernetes allows in a user namespace only; from elsewhere it is a client that gave
// the matter no thought, and gets the usual ones: root of a container with a writable /proc/sys/kernel/core_pattern is root of the host.
//
// Powercap is masked besides, but for privileged containers, and unmasked ones in a user namespace: there the kernel refuses
// to read it, and a mask would keep them from mounting a sysfs of their own.
func (g *generator) masks() error {
	if g.sec.Privileged {
		return nil
	}
	masked, readonly := slices.Clone(g.sec.MaskedPaths), slices.Clone(g.sec.ReadonlyPaths)
	if len(masked)+len(readonly) == 0 && !g.inUserNamespace() {
		masked, readonly = usualMasks(), usualReadonly()
	}
	if len(masked) > 0 || !g.inUserNamespace() {
		if !slices.Contains(masked, powercap) {
			masked = append(masked, powercap)
		}
	}
	for field, list := range map[string][]string{"masked_paths": masked, "readonly_paths": readonly} {
		for _, p := range list {
			if len(p) == 0 || p[0] != '/' {
				return invalid("linux.security_context.%s: %q is not absolute", field, p)
			}
		}
	}
	g.spec.Linux.MaskedPaths = masked
	g.spec.Linux.ReadonlyPaths = readonly
	return nil
}

// seccomp resolves the profile for the container's capabilities. A request that names none is not confined, as CRI has it.
func (g *generator) seccomp() error {
	kind := g.sec.Seccomp.Kind
	if g.sec.Privileged || kind == "" || kind == request.ProfileUnconfined {
		return nil
	}
	if !g.in.Host.Seccomp {
		return unmet("linux.security_context.seccomp: this kernel has no seccomp filters")
	}
	var profile *seccomp.Profile
	switch kind {
	case request.ProfileRuntimeDefault:
		profile = seccomp.Default()
	case request.ProfileLocalhost:
		// CVE-2023-2431: a profile that is missing must never mean unconfined.
		if profile = g.in.LocalhostSeccomp; profile == nil {
			return invalid("linux.security_context.seccomp.localhost_ref: the profile %q was not loaded", g.sec.Seccomp.Localhost)
		}
	default:
		return invalid("linux.security_context.seccomp.profile_type: unknown type %q", kind)
	}
	target := g.in.Host.SeccompTarget
	target.Capabilities = g.spec.Process.Capabilities.Bounding
	resolved, err := profile.Resolve(target)
	if err != nil {
		return fmt.Errorf("linux.security_context.seccomp: %w", err)
	}
	g.spec.Linux.Seccomp = resolved
	return nil
}

// appArmor names the profile. A request that names none gets the runtime's default where there is one.
func (g *generator) appArmor() error {
	if g.sec.Privileged {
		return nil
	}
	kind, host := g.sec.AppArmor.Kind, g.in.Host
	if !host.AppArmor {
		if kind == "" || kind == request.ProfileUnconfined {
			return nil
		}
		return unmet("linux.security_context.apparmor: %s was asked for, but this host has no AppArmor", kind)
	}
	switch kind {
	case "":
		if g.spec.Process.ApparmorProfile = host.AppArmorDefault; host.AppArmorDefault == "" {
			g.note("the container runs without AppArmor: the default profile is not loaded")
		}
	case request.ProfileUnconfined:
		// Explicit: a daemon that is confined itself would pass its own profile on.
		g.spec.Process.ApparmorProfile = "unconfined"
	case request.ProfileRuntimeDefault:
		if host.AppArmorDefault == "" {
			return unmet("linux.security_context.apparmor: the default profile is not loaded (is apparmor_parser installed? the daemon loads it at its start)")
		}
		g.spec.Process.ApparmorProfile = host.AppArmorDefault
	case request.ProfileLocalhost:
		name := g.sec.AppArmor.Localhost
		if name == "" {
			return invalid("linux.security_context.apparmor.localhost_ref: empty, a localhost profile needs a name")
		}
		if host.AppArmorProfiles != nil && !host.AppArmorProfiles[name] {
			return unmet("linux.security_context.apparmor.localhost_ref: the profile %q is not loaded", name)
		}
		g.spec.Process.ApparmorProfile = name
	default:
		return invalid("linux.security_context.apparmor.profile_type: unknown type %q", kind)
	}
	return nil
}

// annotations are those that external runtimes know from containerd's CRI. None of them comes from the request's annotations, so
// none can change a limit, a path or a unit's property (CVE-2023-6476, CVE-2024-3154, CVE-2026-53488).
func (g *generator) annotations() map[string]string {
	m := g.in.Sandbox.Metadata
	return map[string]string{
		"io.kubernetes.cri.container-type":    "container",
		"io.kubernetes.cri.container-name":    g.in.Container.Metadata.Name,
		"io.kubernetes.cri.sandbox-id":        g.in.SandboxID,
		"io.kubernetes.cri.sandbox-name":      m.Name,
		"io.kubernetes.cri.sandbox-namespace": m.Namespace,
		"io.kubernetes.cri.sandbox-uid":       m.UID,
		"io.kubernetes.cri.image-name":        g.in.ImageName,
	}
}
