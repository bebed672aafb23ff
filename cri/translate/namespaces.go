package translate

import (
	"cmp"
	"math"
	"slices"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/runtime/request"
)

// namespaces translates NamespaceOption. TARGET makes sense for a container only.
func (c *check) namespaces(field string, o *criv1.NamespaceOption, container bool) request.Namespaces {
	out := request.Namespaces{
		Network: c.podOrNode(field+".network", o.GetNetwork()),
		IPC:     c.podOrNode(field+".ipc", o.GetIpc()),
		Target:  o.GetTargetId(),
	}
	switch mode := o.GetPid(); {
	case mode == criv1.NamespaceMode_POD:
		out.PID = request.NamespacePod
	case mode == criv1.NamespaceMode_CONTAINER:
		out.PID = request.NamespaceContainer
	case mode == criv1.NamespaceMode_NODE:
		out.PID = request.NamespaceNode
	case mode == criv1.NamespaceMode_TARGET && container:
		out.PID = request.NamespaceTarget
		c.required(field+".target_id", out.Target)
	case mode == criv1.NamespaceMode_TARGET:
		c.refuse(field+".pid", "TARGET is for containers, not for a sandbox")
	default:
		c.refuse(field+".pid", "unknown mode %d", mode)
	}
	if out.Target != "" && out.PID != request.NamespaceTarget {
		c.refuse(field+".target_id", "needs pid TARGET")
	}
	out.User = c.userNamespace(field+".userns_options", o.GetUsernsOptions())
	if out.User != nil {
		// sysfs, mqueue and proc can only be mounted in a namespace that the user namespace owns.
		for _, n := range []struct {
			field string
			mode  request.NamespaceMode
		}{{".network", out.Network}, {".pid", out.PID}, {".ipc", out.IPC}} {
			if n.mode == request.NamespaceNode {
				c.refuse(field+n.field, "NODE cannot be combined with a user namespace")
			}
		}
	}
	return out
}

func (c *check) podOrNode(field string, mode criv1.NamespaceMode) request.NamespaceMode {
	switch mode {
	case criv1.NamespaceMode_POD:
		return request.NamespacePod
	case criv1.NamespaceMode_NODE:
		return request.NamespaceNode
	case criv1.NamespaceMode_CONTAINER, criv1.NamespaceMode_TARGET:
		c.refuse(field, "mode %v is not supported, only POD and NODE", mode)
	default:
		c.refuse(field, "unknown mode %d", mode)
	}
	return request.NamespacePod
}

// userNamespace answers nil for the host's: CRI wants POD with mappings, and NODE, or nothing at all, without.
func (c *check) userNamespace(field string, u *criv1.UserNamespace) *request.UserNamespace {
	if u == nil {
		return nil
	}
	uids := c.idMappings(field+".uids", u.GetUids())
	gids := c.idMappings(field+".gids", u.GetGids())
	switch u.GetMode() {
	case criv1.NamespaceMode_NODE:
		if len(uids)+len(gids) > 0 {
			c.refuse(field, "mode NODE takes no mappings")
		}
		return nil
	case criv1.NamespaceMode_POD:
		if len(uids) == 0 {
			c.refuse(field+".uids", "mode POD needs mappings")
		}
		if len(gids) == 0 {
			c.refuse(field+".gids", "mode POD needs mappings")
		}
		// Without a root there is nobody to own the sandbox's namespaces and mounts.
		if len(uids) > 0 && !mapsRoot(uids) {
			c.refuse(field+".uids", "container ID 0 is not mapped")
		}
		if len(gids) > 0 && !mapsRoot(gids) {
			c.refuse(field+".gids", "container ID 0 is not mapped")
		}
		return &request.UserNamespace{UIDs: uids, GIDs: gids}
	default:
		c.refuse(field+".mode", "mode %v is not supported, only POD and NODE", u.GetMode())
		return nil
	}
}

func mapsRoot(mappings []request.IDMapping) bool {
	return slices.ContainsFunc(mappings, func(m request.IDMapping) bool { return m.ContainerID == 0 })
}

// idMappings refuses empty, overflowing and overlapping ranges: the kernel would refuse them too, but late and with EINVAL alone.
func (c *check) idMappings(field string, in []*criv1.IDMapping) []request.IDMapping {
	var out []request.IDMapping
	for i, m := range in {
		f := item(field, i)
		if m.GetLength() == 0 {
			c.refuse(f+".length", "must not be 0")
		}
		for _, first := range []struct {
			name string
			id   uint32
		}{{".host_id", m.GetHostId()}, {".container_id", m.GetContainerId()}} {
			// 4294967295 is not an ID: it means "none" to the kernel.
			if uint64(first.id)+uint64(m.GetLength()) > math.MaxUint32 {
				c.refuse(f+first.name, "%d and length %d go beyond the highest ID", first.id, m.GetLength())
			}
		}
		out = append(out, request.IDMapping{HostID: m.GetHostId(), ContainerID: m.GetContainerId(), Length: m.GetLength()})
	}
	c.noOverlap(field+" (host_id)", out, func(m request.IDMapping) uint32 { return m.HostID })
	c.noOverlap(field+" (container_id)", out, func(m request.IDMapping) uint32 { return m.ContainerID })
	return out
}

func (c *check) noOverlap(field string, mappings []request.IDMapping, first func(request.IDMapping) uint32) {
	sorted := slices.SortedFunc(slices.Values(mappings), func(a, b request.IDMapping) int { return cmp.Compare(first(a), first(b)) })
	for i := 1; i < len(sorted); i++ {
		if uint64(first(sorted[i-1]))+uint64(sorted[i-1].Length) > uint64(first(sorted[i])) {
			c.refuse(field, "ranges overlap at %d", first(sorted[i]))
		}
	}
}
