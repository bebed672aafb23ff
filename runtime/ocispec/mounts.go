package ocispec

import (
	"path"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimd/shimd/runtime/request"
)

// mounts lists, in the order of mounting: the kernel's file systems; then the sandbox's files, the image's volumes and the request's
// mounts, parents before children. A mount of the request replaces any other at the same place, and one at /dev all below it.
func (g *generator) mounts() error {
	requested, err := g.requestMounts()
	if err != nil {
		return err
	}
	taken := func(dest string) bool {
		return slices.ContainsFunc(requested, func(m specs.Mount) bool { return path.Clean(m.Destination) == dest })
	}
	others := requested
	for _, m := range g.sandboxMounts() {
		if !taken(m.Destination) {
			others = append(others, m)
		}
	}
	volumes, err := g.volumeMounts(taken)
	if err != nil {
		return err
	}
	others = append(others, volumes...)
	slices.SortStableFunc(others, func(a, b specs.Mount) int { return depth(a.Destination) - depth(b.Destination) })

	var list []specs.Mount
	for _, m := range g.kernelMounts() {
		if taken(m.Destination) || (taken("/dev") && strings.HasPrefix(m.Destination, "/dev/")) {
			continue
		}
		list = append(list, m)
	}
	for _, m := range others {
		if taken("/dev") && m.Destination == "/dev/shm" && !taken("/dev/shm") {
			continue
		}
		list = append(list, m)
	}
	g.spec.Mounts = list
	return nil
}

// depth counts the components of a path: sorting by it puts a mount before those inside it.
func depth(p string) int {
	p = path.Clean(p)
	if p == "/" {
		return 0
	}
	return strings.Count(p, "/")
}

// kernelMounts are the file systems that the kernel provides.
func (g *generator) kernelMounts() []specs.Mount {
	modes := g.sec.Namespaces
	readonly := "ro"
	if g.sec.Privileged {
		readonly = "rw"
	}

	// A file system that shows a namespace can be mounted only by the owner of that namespace. In a user namespace the host's are not
	// owned, so what the host has mounted is bound instead.
	unowned := func(mode request.NamespaceMode) bool {
		return g.inUserNamespace() && mode == request.NamespaceNode
	}
	proc := specs.Mount{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}}
	if unowned(modes.PID) {
		proc = bind("/proc", "/proc", "rbind", "rprivate", "nosuid", "noexec", "nodev")
	}
	mqueue := specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}}
	if unowned(modes.IPC) {
		mqueue = bind("/dev/mqueue", "/dev/mqueue", "rbind", "rprivate", "nosuid", "noexec", "nodev")
	}
	sysfs := specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", readonly}}
	if unowned(modes.Network) {
		sysfs = bind("/sys", "/sys", "rbind", "rprivate", "nosuid", "noexec", "nodev", readonly)
	}

	pts := []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}
	const ttyGroup = 5
	if !g.inUserNamespace() || mapped(g.spec.Linux.GIDMappings, ttyGroup) {
		pts = append(pts, "gid=5")
	}
	return []specs.Mount{
		proc,
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: pts},
		mqueue,
		sysfs,
		// Read-only for all but privileged containers (CVE-2023-25809).
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", readonly}},
	}
}

func bind(source, destination string, options ...string) specs.Mount {
	return specs.Mount{Destination: destination, Type: "bind", Source: source, Options: options}
}

// sandboxMounts are what the sandbox gives to all of its containers. The targets may be symlinks in a hostile image: whoever
// mounts resolves them inside the root (CVE-2024-5154).
func (g *generator) sandboxMounts() []specs.Mount {
	mode := "rw"
	if g.sec.ReadonlyRootfs {
		mode = "ro"
	}
	var list []specs.Mount
	for _, f := range []struct{ source, destination string }{
		{g.in.Files.Hostname, "/etc/hostname"},
		{g.in.Files.Hosts, "/etc/hosts"},
		{g.in.Files.ResolvConf, "/etc/resolv.conf"},
	} {
		if f.source != "" {
			list = append(list, bind(f.source, f.destination, "rbind", "rprivate", mode))
		}
	}
	shm := g.in.Files.Shm
	if g.sec.Namespaces.IPC == request.NamespaceNode {
		shm = "/dev/shm"
	}
	if shm != "" {
		list = append(list, bind(shm, "/dev/shm", "rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"))
	} else {
		list = append(list, specs.Mount{
			Destination: "/dev/shm", Type: "tmpfs", Source: "shm",
			Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"},
		})
	}
	return list
}

// volumeMounts gives each VOLUME of the image a directory of its own, unless the request mounts something there.
func (g *generator) volumeMounts(taken func(string) bool) ([]specs.Mount, error) {
	var list []specs.Mount
	seen := map[string]bool{}
	for i, v := range g.in.Image.Volumes {
		// Cleaning from the root takes every ".." out; symlinks are the mounter's to resolve inside the root (CVE-2022-23648).
		dest := path.Join("/", v)
		if dest == "/" || strings.IndexByte(v, 0) >= 0 {
			return nil, invalid("image %s: the volume %q is not a directory inside the root", g.in.ImageName, v)
		}
		if taken(dest) || seen[dest] {
			continue
		}
		seen[dest] = true
		// The directory's name is a number: nothing the image wrote becomes a path on the host.
		host := path.Join(g.in.Files.Volumes, strconv.Itoa(i))
		g.out.Volumes = append(g.out.Volumes, Volume{Path: dest, HostPath: host})
		m := bind(host, dest, "rbind", "rprivate", "rw")
		g.idmapForUserNamespace(&m)
		list = append(list, m)
	}
	return list, nil
}

// idmapForUserNamespace shows files that the host's root owns as owned by the container's.
func (g *generator) idmapForUserNamespace(m *specs.Mount) {
	if u := g.sec.Namespaces.User; u != nil {
		m.UIDMappings, m.GIDMappings = idMappings(u.UIDs), idMappings(u.GIDs)
	}
}

// requestMounts translates the request's mounts.
func (g *generator) requestMounts() ([]specs.Mount, error) {
	var list []specs.Mount
	for i, m := range g.in.Container.Mounts {
		translated, err := g.requestMount(m)
		if err != nil {
			return nil, invalid("mounts[%d] (%s): %v", i, m.ContainerPath, err)
		}
		list = append(list, translated)
	}
	return list, nil
}

func (g *generator) requestMount(m request.Mount) (specs.Mount, error) {
	var none specs.Mount
	if !path.IsAbs(m.ContainerPath) || path.Clean(m.ContainerPath) == "/" || strings.IndexByte(m.ContainerPath, 0) >= 0 {
		return none, errorf("container_path %q is not an absolute path below the root", m.ContainerPath)
	}
	source := m.HostPath
	readonly := m.ReadOnly
	if m.Image != nil {
		if m.HostPath != "" {
			return none, errorf("host_path and image exclude each other")
		}
		if m.RecursiveReadOnly {
			return none, errorf("recursive_read_only does not go with image: image volumes are read-only as they are")
		}
		if source = g.in.ImageSources[m.ContainerPath]; source == "" {
			return none, errorf("the image %q was not mounted", m.Image.Image)
		}
		readonly = true // all image volumes are, by the definition of the field
	}
	if !path.IsAbs(source) {
		return none, errorf("host_path %q is not absolute", source)
	}
	propagation, err := g.propagation(m.Propagation)
	if err != nil {
		return none, err
	}
	mode := "rw"
	switch {
	case m.RecursiveReadOnly && !readonly:
		return none, errorf("recursive_read_only needs readonly")
	case m.RecursiveReadOnly && propagation != "rprivate":
		return none, errorf("recursive_read_only needs private propagation, not %s", propagation)
	case m.RecursiveReadOnly && !g.in.RecursiveReadOnly:
		return none, errorf("recursive_read_only: the runtime handler %q cannot make such mounts", g.in.Sandbox.RuntimeHandler)
	case m.RecursiveReadOnly:
		mode = "rro"
	case readonly:
		mode = "ro"
	}
	options := []string{"rbind", propagation, mode}
	for _, o := range m.Options {
		if !allowedMountOption(o) {
			return none, errorf("mount_options: %q is not one that a bind mount takes", o)
		}
		if !slices.Contains(options, o) {
			options = append(options, o)
		}
	}
	out := bind(source, path.Clean(m.ContainerPath), options...)
	if (len(m.UIDs) == 0) != (len(m.GIDs) == 0) {
		return none, errorf("uidMappings and gidMappings go together")
	}
	if len(m.UIDs) > 0 {
		out.UIDMappings, out.GIDMappings = idMappings(m.UIDs), idMappings(m.GIDs)
	}
	return out, nil
}

// propagation translates the mode, and lets the root pass on what a mount needs: a mount below a private root would receive nothing.
func (g *generator) propagation(p request.MountPropagation) (string, error) {
	root := &g.spec.Linux.RootfsPropagation
	switch p {
	case "", request.PropagationPrivate:
		return "rprivate", nil
	case request.PropagationHostToContainer:
		if *root == "" {
			*root = "rslave"
		}
		return "rslave", nil
	case request.PropagationBidirectional:
		if !g.sec.Privileged {
			g.note("a mount with bidirectional propagation in a container that is not privileged")
		}
		*root = "rshared"
		return "rshared", nil
	}
	return "", errorf("propagation: unknown mode %q", p)
}

// allowedMountOption lists the flags that leave a mount's source, kind and propagation alone, and whether it can be written: those have fields of their own.
func allowedMountOption(o string) bool {
	switch o {
	case "exec", "noexec", "suid", "nosuid", "dev", "nodev", "atime", "noatime", "diratime", "nodiratime",
		"relatime", "norelatime", "strictatime", "nostrictatime", "symfollow", "nosymfollow",
		"rexec", "rnoexec", "rsuid", "rnosuid", "rdev", "rnodev", "ratime", "rnoatime", "rdiratime", "rnodiratime",
		"rrelatime", "rnorelatime", "rstrictatime", "rnostrictatime", "rsymfollow", "rnosymfollow":
		return true
	}
	return false
}
