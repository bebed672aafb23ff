package security

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/runtime/request"
)

// SELinuxEnabled tells whether the kernel enforces or audits an SELinux policy.
func SELinuxEnabled() bool { return selinux.GetEnabled() }

// Labels makes the labels of a sandbox's or container's processes and files; both are "" without SELinux. A level (the pair of categories that keeps pods
// apart) that the request leaves open is allocated, unless pod, the process label of the container's sandbox, has one. Release gives it back.
func Labels(want request.SELinuxLabel, pod string, privileged bool) (process, mount string, err error) {
	if !selinux.GetEnabled() {
		return "", "", nil
	}
	var options []string
	switch {
	case want != (request.SELinuxLabel{}):
		if options, err = labelOptions(want); err != nil {
			return "", "", err
		}
	case privileged:
		options = selinux.DisableSecOpt()
	case pod != "":
		if options, err = selinux.DupSecOpt(pod); err != nil {
			return "", "", fmt.Errorf("selinux_options: the sandbox's label %q: %w", pod, err)
		}
	}
	process, mount, err = label.InitLabels(options)
	if err != nil {
		return "", "", fmt.Errorf("selinux_options %v: %w: %w", options, err, errdefs.ErrInvalidArgument)
	}
	return process, mount, nil
}

// labelOptions: user, role and type go together, or the level stands alone.
func labelOptions(l request.SELinuxLabel) ([]string, error) {
	var options []string
	for _, o := range []struct{ key, value string }{{"user", l.User}, {"role", l.Role}, {"type", l.Type}, {"level", l.Level}} {
		if o.value != "" {
			options = append(options, o.key+":"+o.value)
		}
	}
	if l.Type == "" && (l.User != "" || l.Role != "") {
		return nil, fmt.Errorf("selinux_options: user %q and role %q need a type: %w", l.User, l.Role, errdefs.ErrInvalidArgument)
	}
	return options, nil
}

// Reserve marks the level of a label as taken, for containers that a restarted daemon finds.
func Reserve(process string) error {
	if process == "" {
		return nil
	}
	return selinux.ReserveLabelV2(process)
}

// Release gives back the level that Labels allocated.
func Release(process string) {
	if process != "" {
		selinux.ReleaseLabel(process)
	}
}

// MountOptions adds a mount label to the options of a file system.
func MountOptions(options, mountLabel string) string {
	return label.FormatMountLabel(options, mountLabel)
}

// Relabel gives the file or directory of a mount the container's label, only if the request asks for it (CVE-2021-43816).
func Relabel(m request.Mount, mountLabel string) error {
	if !m.SELinuxRelabel || mountLabel == "" || m.HostPath == "" {
		return nil
	}
	if err := label.Relabel(m.HostPath, mountLabel, false); err != nil && !errors.Is(err, unix.ENOTSUP) {
		return fmt.Errorf("selinux_relabel: %s: %w", m.HostPath, err)
	}
	return nil
}
