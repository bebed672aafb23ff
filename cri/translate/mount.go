package translate

import (
	"path"
	"slices"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/runtime/request"
)

func (c *check) mounts(field string, in []*criv1.Mount) []request.Mount {
	var out []request.Mount
	for i, m := range in {
		out = append(out, c.mount(item(field, i), m))
	}
	return out
}

func (c *check) mount(field string, m *criv1.Mount) request.Mount {
	out := request.Mount{
		ContainerPath:     m.GetContainerPath(),
		HostPath:          m.GetHostPath(),
		ReadOnly:          m.GetReadonly(),
		RecursiveReadOnly: m.GetRecursiveReadOnly(),
		SELinuxRelabel:    m.GetSelinuxRelabel(),
		Propagation:       c.propagation(field+".propagation", m.GetPropagation()),
		UIDs:              c.idMappings(field+".uidMappings", m.GetUidMappings()),
		GIDs:              c.idMappings(field+".gidMappings", m.GetGidMappings()),
		ImageSubPath:      m.GetImageSubPath(),
		Options:           c.mountOptions(field+".mount_options", m.GetMountOptions()),
	}
	c.absolute(field+".container_path", out.ContainerPath)
	if path.Clean(out.ContainerPath) == "/" {
		c.refuse(field+".container_path", "would hide the root file system")
	}
	if len(out.UIDs) == 0 != (len(out.GIDs) == 0) {
		c.refuse(field+".uidMappings", "uidMappings and gidMappings go together")
	}
	if out.RecursiveReadOnly {
		if !out.ReadOnly {
			c.refuse(field+".recursive_read_only", "needs readonly")
		}
		if out.Propagation != request.PropagationPrivate {
			c.refuse(field+".recursive_read_only", "needs propagation PRIVATE")
		}
	}
	if m.GetImage() != nil {
		c.imageMount(field, m, &out)
		return out
	}
	c.absolute(field+".host_path", out.HostPath)
	if out.ImageSubPath != "" {
		c.refuse(field+".image_sub_path", "needs image")
	}
	return out
}

// imageMount completes a mount of an image, which is read-only whatever the request says.
func (c *check) imageMount(field string, m *criv1.Mount, out *request.Mount) {
	if out.HostPath != "" {
		c.refuse(field+".host_path", "cannot be given together with image")
	}
	if out.Propagation != request.PropagationPrivate {
		c.refuse(field+".propagation", "an image has no mounts to propagate: use PRIVATE")
	}
	// The image's own links are resolved inside it when it is mounted; the request has no need of "..".
	c.local(field+".image_sub_path", out.ImageSubPath)
	ref := c.imageRef(field+".image", m.GetImage())
	out.Image = &ref
	out.ReadOnly = true
}

func (c *check) propagation(field string, p criv1.MountPropagation) request.MountPropagation {
	switch p {
	case criv1.MountPropagation_PROPAGATION_PRIVATE:
		return request.PropagationPrivate
	case criv1.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		return request.PropagationHostToContainer
	case criv1.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		return request.PropagationBidirectional
	default:
		c.refuse(field, "unknown mode %d", p)
		return request.PropagationPrivate
	}
}

// mountFlags are the options that change one mount and not the file system below it. "ro" and "rw" have fields of their own.
func mountFlags() []string {
	return []string{"noexec", "exec", "nosuid", "suid", "nodev", "dev", "noatime", "nodiratime", "relatime", "strictatime", "nosymfollow", "symfollow"}
}

func (c *check) mountOptions(field string, in []string) []string {
	for i, o := range in {
		if !slices.Contains(mountFlags(), o) {
			c.refuse(item(field, i), "unknown option %q", o)
		}
	}
	return slices.Clone(in)
}
