package runtime

import (
	"fmt"
	"path/filepath"

	"github.com/shimd/shimd/image"
	"github.com/shimd/shimd/runtime/request"
	"github.com/shimd/shimd/security"
)

// selinuxLabels are what a pod's or a container's processes and files are labelled with; empty without SELinux.
type selinuxLabels struct {
	Process string `json:",omitempty"`
	Mount   string `json:",omitempty"`
}

// labelSandbox gives the pod labels of its own. Its containers share the level, so that they can share volumes, and no other pod has it.
func (r *Runtime) labelSandbox(s *sandbox) error {
	if !r.Host.SELinux {
		return nil
	}
	cfg := s.snapshot().Config
	process, mount, err := security.Labels(cfg.SELinux, "", cfg.Privileged)
	if err != nil {
		return err
	}
	return s.update(func(record *sandboxRecord) { record.Labels = selinuxLabels{process, mount} })
}

// labelContainer gives the container labels, its pod's unless it asks for others.
func (r *Runtime) labelContainer(c *container) error {
	if !r.Host.SELinux {
		return nil
	}
	pod := c.sandbox.snapshot().Labels
	sec := c.record.Config.Security
	labels := pod
	if sec.SELinux != c.sandbox.snapshot().Config.SELinux || sec.Privileged {
		var err error
		if labels.Process, labels.Mount, err = security.Labels(sec.SELinux, pod.Process, sec.Privileged); err != nil {
			return err
		}
	}
	return c.update(func(record *containerRecord) { record.Labels = labels })
}

// labelSandboxFiles lets the pod's containers at the files that it gives them.
func (r *Runtime) labelSandboxFiles(s *sandbox) error {
	labels := s.snapshot().Labels
	for _, name := range []string{"hosts", "hostname", "resolv.conf"} {
		file := request.Mount{HostPath: filepath.Join(s.files, name), SELinuxRelabel: true}
		if err := security.Relabel(file, labels.Mount); err != nil {
			return fmt.Errorf("labelling the sandbox's files: %w", err)
		}
	}
	return nil
}

// relabelMounts gives the volumes that ask for it the container's label, and no others (CVE-2021-43816).
func relabelMounts(mounts []request.Mount, labels selinuxLabels) error {
	for _, m := range mounts {
		if err := security.Relabel(m, labels.Mount); err != nil {
			return fmt.Errorf("mount at %s: %w", m.ContainerPath, err)
		}
	}
	return nil
}

// rootfsOptions are the options of mounts that the container sees: its user namespace and its label.
func (r *Runtime) rootfsOptions(c *container) image.RootfsOptions {
	options := image.RootfsOptions{SELinuxLabel: c.snapshot().Labels.Mount}
	if user := c.sandbox.snapshot().Config.Namespaces.User; user != nil {
		options.UIDs, options.GIDs = imageMappings(user.UIDs), imageMappings(user.GIDs)
	}
	return options
}
