package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/launch/mounts"
	"github.com/shimd/shimd/userns"
)

// sealing is a mount whose attributes are set when all is prepared, because mount points are made in it before: a read-only tmpfs.
type sealing struct {
	mount   *os.File
	options mounts.Options
}

// mounts prepares the spec's mounts in their order, then devices, the console's place and the working directory.
func (b *containerBuilder) mounts(ctx context.Context) error {
	tree := mounts.NewTree(b.in.Rootfs)
	for i := range b.in.Spec.Mounts {
		if err := ctx.Err(); err != nil {
			return err
		}
		m := &b.in.Spec.Mounts[i]
		if err := b.mount(tree, m); err != nil {
			return fmt.Errorf("mounts: %s: %w", m.Destination, err)
		}
	}
	if err := b.devices(tree); err != nil {
		return err
	}
	if b.in.Terminal {
		if err := b.terminal(tree); err != nil {
			return fmt.Errorf("making the terminal: %w", err)
		}
	}
	// As other runtimes do, a missing working directory is made.
	if cwd := b.in.Spec.Process.Cwd; cwd != "" && cwd != "/" {
		at, err := tree.Directory(cwd)
		if err != nil && !errors.Is(err, unix.EROFS) {
			return fmt.Errorf("process.cwd: %w", err)
		}
		if at.File != nil {
			_ = at.File.Close()
		}
	}
	for _, s := range b.sealed {
		if err := mounts.Apply(s.mount, s.options); err != nil {
			return err
		}
	}
	return nil
}

// mount prepares one.
func (b *containerBuilder) mount(tree *mounts.Tree, m *specs.Mount) error {
	options, err := mounts.ParseOptions(m.Options)
	if err != nil {
		return err
	}
	source, fs, err := b.source(m, &options)
	if err != nil {
		return err
	}
	find := tree.Directory
	if source != nil {
		b.fds.owned = append(b.fds.owned, source)
		if isDirectory, err := isDirectory(source); err != nil {
			return err
		} else if !isDirectory {
			find = tree.File
		}
	}
	at, err := find(m.Destination)
	if err != nil {
		return err
	}
	if err := allowed(m, at.Real, source, fs); err != nil {
		return err
	}
	planned := plannedMount{destination: m.Destination, filesystem: fs, at: b.place(m.Destination, at)}
	if fs != nil {
		b.plan.mounts = append(b.plan.mounts, planned)
		tree.AttachMade(at, len(b.plan.mounts))
		return nil
	}
	planned.fd = b.fds.add(path.Base(m.Destination), source)
	b.plan.mounts = append(b.plan.mounts, planned)
	tree.Attach(at, source)
	switch {
	case m.Type == "cgroup" && !options.Bind && !b.unified():
		return b.cgroupHierarchies(tree, at.Real, options)
	case m.Type == "devpts" && b.in.Terminal && b.plan.devpts == 0:
		b.plan.devpts = planned.fd
	}
	return nil
}

func (b *containerBuilder) place(destination string, at mounts.Target) place {
	if at.File == nil {
		return place{made: at.Made, path: at.Path}
	}
	return place{fd: b.fds.own("target of "+destination, at.File)}
}

// source makes the detached mount, or says what the child has to make because it shows the child's namespaces.
func (b *containerBuilder) source(m *specs.Mount, o *mounts.Options) (*os.File, *filesystem, error) {
	if mount := b.in.Mounts[m.Destination]; mount != nil {
		return given(mount, m, *o)
	}
	if o.Bind || m.Type == "bind" {
		if len(o.Filesystem) != 0 {
			return nil, nil, invalid("options", "%q do not go with a bind mount", o.Filesystem)
		}
		if err := b.checkPropagation(m, o); err != nil {
			return nil, nil, err
		}
		f, err := mounts.Clone(m.Source, o.Recursive)
		if err != nil {
			return nil, nil, sourceError(m.Source, err)
		}
		return b.finish(f, m, *o)
	}
	made := func(kind string) (*os.File, *filesystem, error) {
		return nil, &filesystem{kind: kind, parameters: withSource(m.Source, o.Filesystem), attributes: o.Set}, nil
	}
	switch m.Type {
	case "proc":
		if b.plan.joinPID == 0 {
			return made("proc")
		}
		if b.in.Proc != nil {
			return given(b.in.Proc, m, *o)
		}
		f, err := procOf(b.in.Join[specs.PIDNamespace], o.Set)
		return f, nil, err
	case "sysfs", "mqueue":
		return made(m.Type)
	case "cgroup", "cgroup2":
		if b.unified() {
			return made("cgroup2")
		}
		f, err := mounts.New("tmpfs", b.owned("tmpfs", withSource(m.Source, []string{"mode=755"})...), 0)
		if err == nil {
			b.sealed = append(b.sealed, sealing{f, *o})
		}
		return f, nil, err
	case "tmpfs":
		if o.CopyUp {
			return nil, nil, invalid("options", "tmpcopyup is not supported")
		}
		return b.tmpfs(m, *o)
	case "devpts":
		f, err := mounts.New("devpts", b.owned(m.Type, withSource(m.Source, append([]string{"newinstance"}, without(o.Filesystem, "newinstance")...))...), o.Set)
		return f, nil, err
	}
	f, err := mounts.New(m.Type, withSource(m.Source, o.Filesystem), o.Set)
	return f, nil, err
}

// given takes a mount that the caller has made. Its owners are mapped already, if they have to be.
func given(mount *os.File, m *specs.Mount, o mounts.Options) (*os.File, *filesystem, error) {
	fd, err := unix.FcntlInt(mount.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	f := os.NewFile(uintptr(fd), m.Destination)
	if err := mounts.Apply(f, o); err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, nil, nil
}

func sourceError(source string, err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("source %q does not exist on the host: %w", source, errdefs.ErrInvalidArgument)
	}
	return err
}

func withSource(source string, parameters []string) []string {
	if source == "" {
		return parameters
	}
	return append([]string{"source=" + source}, parameters...)
}

func without(values []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(values), func(v string) bool { return v == name })
}

// tmpfs is sealed late if it is read-only: mount points and devices are made in it.
func (b *containerBuilder) tmpfs(m *specs.Mount, o mounts.Options) (*os.File, *filesystem, error) {
	f, err := mounts.New("tmpfs", b.owned(m.Type, withSource(m.Source, o.Filesystem)...), o.Set&^unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return nil, nil, err
	}
	if o.Set&unix.MOUNT_ATTR_RDONLY != 0 || o.Propagation != 0 {
		b.sealed = append(b.sealed, sealing{f, o})
	}
	return f, nil, nil
}

// finish gives a bind mount its owners, attributes and propagation.
func (b *containerBuilder) finish(f *os.File, m *specs.Mount, o mounts.Options) (*os.File, *filesystem, error) {
	if o.IDMap || len(m.UIDMappings) != 0 || len(m.GIDMappings) != 0 {
		ns, err := b.mappingOf(m)
		if err == nil {
			err = mounts.MapIDs(f, ns, o.IDMapRecursive)
		}
		if err != nil {
			_ = f.Close()
			return nil, nil, err
		}
	}
	if err := mounts.Apply(f, o); err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, nil, nil
}

// mappingOf is the user namespace whose mappings a mount has: the container's, or one made for it.
func (b *containerBuilder) mappingOf(m *specs.Mount) (*os.File, error) {
	linux := b.in.Spec.Linux
	same := slices.Equal(m.UIDMappings, linux.UIDMappings) && slices.Equal(m.GIDMappings, linux.GIDMappings)
	if len(m.UIDMappings) == 0 && len(m.GIDMappings) == 0 || same {
		if b.userNS == nil {
			return nil, invalid("uidMappings", "an idmapped mount has none, and the container has no user namespace")
		}
		return b.userNS, nil
	}
	ns, err := userNamespace(m.UIDMappings, m.GIDMappings, b.in.TmpDir)
	if err == nil {
		b.scratch = append(b.scratch, ns)
	}
	return ns, err
}

// checkPropagation makes sure that what is asked to reach the host can.
func (b *containerBuilder) checkPropagation(m *specs.Mount, o *mounts.Options) error {
	if o.Propagation != unix.MS_SHARED {
		return nil
	}
	if b.plan.user != 0 {
		return invalid("options", "mounts of a container in a user namespace can't propagate to the host")
	}
	shared, err := mounts.IsShared(m.Source)
	if err != nil {
		return sourceError(m.Source, err)
	}
	if !shared {
		return fmt.Errorf("source %q is mounted on a mount that is not shared, so mounts in the container would not reach the host; make it shared (mount --make-rshared) or don't ask for bidirectional propagation: %w",
			m.Source, errdefs.ErrInvalidArgument)
	}
	return nil
}

// owned adds the SELinux label, if any, and the owner to the parameters of a file system that is made outside of a user namespace: its root
// belongs to the container's root, and the ids that are there already are the container's.
func (b *containerBuilder) owned(kind string, parameters ...string) []string {
	linux := b.in.Spec.Linux
	var out []string
	if linux.MountLabel != "" {
		out = append(out, "context="+linux.MountLabel)
	}
	if b.plan.user == 0 {
		return append(out, parameters...)
	}
	if kind == "tmpfs" { // a terminal belongs to who opens it
		out = append(out, "uid="+itoa(hostID(0, linux.UIDMappings)), "gid="+itoa(hostID(0, linux.GIDMappings)))
	}
	for _, p := range parameters {
		key, value, _ := strings.Cut(p, "=")
		if id, err := strconv.ParseUint(value, 10, 32); err == nil && (key == "uid" || key == "gid") {
			mappings := linux.UIDMappings
			if key == "gid" {
				mappings = linux.GIDMappings
			}
			p = key + "=" + itoa(hostID(uint32(id), mappings))
		}
		out = append(out, p)
	}
	return out
}

// hostID is what an ID of the container is on the host; one that is not mapped is nobody's.
func hostID(id uint32, mappings []specs.LinuxIDMapping) int {
	if len(mappings) == 0 {
		return int(id)
	}
	for _, m := range mappings {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return int(m.HostID + (id - m.ContainerID))
		}
	}
	return 65534
}

func isDirectory(f *os.File) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false, err
	}
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}

// allowed refuses mounts that would stand in for proc and sysfs, or hide parts of proc that a security decision is made by (CVE-2019-16884,
// CVE-2019-19921, CVE-2023-27561, CVE-2023-28642). real is where the destination is when the image's links are followed, so a link cannot
// lead around it.
func allowed(m *specs.Mount, real string, source *os.File, fs *filesystem) error {
	kernel := map[string]struct {
		kind  string
		magic int64
	}{"/proc": {"proc", unix.PROC_SUPER_MAGIC}, "/sys": {"sysfs", unix.SYSFS_MAGIC}}
	if fs != nil && (fs.kind == "proc" || fs.kind == "sysfs") && real != path.Clean(m.Destination) {
		return invalid("destination", "it is a symbolic link to %s in the image, where no %s may be", real, fs.kind)
	}
	if k, ok := kernel[real]; ok {
		if fs != nil && fs.kind == k.kind {
			return nil
		}
		if source != nil && isFilesystem(source, k.magic) == nil {
			return nil
		}
		return invalid("destination", "only %s can be mounted on %s", k.kind, real)
	}
	if !strings.HasPrefix(real, "/proc/") {
		return nil
	}
	// As LXCFS provides them.
	switch strings.TrimPrefix(real, "/proc/") {
	case "cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "sys/kernel/ns_last_pid", "sys/crypto/fips_enabled":
		return nil
	}
	return invalid("destination", "%s is inside of /proc", real)
}

// asContainerRoot runs f with the file system identity of the container's root.
func (b *containerBuilder) asContainerRoot(f func() error) error {
	linux := b.in.Spec.Linux
	if b.plan.user == 0 {
		return f()
	}
	done := make(chan error)
	go func() {
		goruntime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		err := userns.BecomeRoot(hostID(0, linux.UIDMappings), hostID(0, linux.GIDMappings))
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}
