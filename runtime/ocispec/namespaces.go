package ocispec

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimd/shimd/runtime/request"
)

// namespaces lists what the container joins (with a path) and what is made for it (without). What is not listed is the host's.
func (g *generator) namespaces() error {
	modes, paths := g.sec.Namespaces, g.in.Namespaces
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}

	join := func(kind specs.LinuxNamespaceType, path string) error {
		if path == "" {
			return invalid("namespace_options: the sandbox has no %s namespace to share", kind)
		}
		list = append(list, specs.LinuxNamespace{Type: kind, Path: path})
		return nil
	}

	if modes.Network != request.NamespaceNode {
		if err := join(specs.NetworkNamespace, paths.Network); err != nil {
			return err
		}
		// The hostname belongs to the network: a pod on the host's network keeps the host's name.
		if err := join(specs.UTSNamespace, paths.UTS); err != nil {
			return err
		}
	}
	if modes.IPC != request.NamespaceNode {
		if err := join(specs.IPCNamespace, paths.IPC); err != nil {
			return err
		}
	}
	switch modes.PID {
	case request.NamespaceNode:
	case request.NamespaceContainer:
		list = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace})
	default: // the pod's, or that of the target container
		if err := join(specs.PIDNamespace, paths.PID); err != nil {
			return err
		}
	}
	if u := modes.User; u != nil {
		if len(u.UIDs) == 0 || len(u.GIDs) == 0 {
			return invalid("namespace_options.userns_options: a user namespace needs uids and gids")
		}
		if err := join(specs.UserNamespace, paths.User); err != nil {
			return err
		}
		g.spec.Linux.UIDMappings = idMappings(u.UIDs)
		g.spec.Linux.GIDMappings = idMappings(u.GIDs)
	}
	// On v1 a cgroup namespace would hide what container tools look for there, and a privileged container manages the host's.
	if g.in.Host.CgroupVersion == 2 && !g.sec.Privileged {
		list = append(list, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	g.spec.Linux.Namespaces = list
	return nil
}

func idMappings(in []request.IDMapping) []specs.LinuxIDMapping {
	var out []specs.LinuxIDMapping
	for _, m := range in {
		out = append(out, specs.LinuxIDMapping{ContainerID: m.ContainerID, HostID: m.HostID, Size: m.Length})
	}
	return out
}

// mapped reports whether an ID of the container has one on the host.
func mapped(mappings []specs.LinuxIDMapping, id uint32) bool {
	for _, m := range mappings {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return true
		}
	}
	return false
}
