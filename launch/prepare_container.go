package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ContainerInput is what a container is launched from. Descriptors stay the caller's, and must stay open until the keeper has started the launch.
type ContainerInput struct {
	Spec   *specs.Spec
	Rootfs *os.File // detached mount of the root file system

	LeanMountNS    *os.File // of LeanMountNamespace
	VisibleMountNS *os.File // of VisibleMountNamespace; for containers in a user namespace, made for this one launch when nil

	// Join are the namespaces to join. One that the spec has and Join has not is new; one that the spec has not is the host's.
	Join map[specs.LinuxNamespaceType]*os.File

	CgroupTasks []*os.File // cgroup v1: the tasks file of each hierarchy, open for writing
	CgroupDir   *os.File   // cgroup v2: the directory

	Stdio    [3]*os.File // ignored with Terminal
	Terminal bool        // make a terminal; Launch.Console is its master

	Seccomp []byte // the filter: an array of struct sock_filter

	Mounts map[string]*os.File // detached mounts in the place of a spec mount's source, by its destination
	Proc   *os.File            // detached mount of the proc of the PID namespace to join (a clone of PinProc's); looked for in the namespace when nil
	TmpDir string              // where executables can be written if vm.memfd_noexec forbids memfds
}

// PrepareContainer makes everything that a container's first process needs, outside of it. Nothing is visible in the system before the
// launch is started, but mount points that were missing in the root file system. ErrInvalidArgument for a spec that makes no sense or asks
// for what is not supported, by name.
func PrepareContainer(ctx context.Context, in ContainerInput) (*Launch, error) {
	if err := checkSpec(in.Spec); err != nil {
		return nil, fmt.Errorf("preparing a container: %w", err)
	}
	if in.Rootfs == nil || in.LeanMountNS == nil {
		return nil, fmt.Errorf("preparing a container: no root file system or lean mount namespace: %w", errdefs.ErrInvalidArgument)
	}
	b := &containerBuilder{in: in, fds: newDescriptors(in.Stdio), plan: containerPlan{spec: in.Spec}}
	launch, err := b.build(ctx)
	if err != nil {
		b.fds.close()
		b.cleanup()
		return nil, fmt.Errorf("preparing a container: %w", err)
	}
	b.cleanup()
	return launch, nil
}

// containerBuilder does the effects and leaves a plan.
type containerBuilder struct {
	in      ContainerInput
	fds     *descriptors
	plan    containerPlan
	console *os.File
	userNS  *os.File
	scratch []*os.File // needed only while preparing
	sealed  []sealing
}

func (b *containerBuilder) cleanup() {
	for _, f := range b.scratch {
		_ = f.Close()
	}
}

func (b *containerBuilder) build(ctx context.Context) (*Launch, error) {
	if err := b.namespaces(); err != nil {
		return nil, err
	}
	if err := b.asContainerRoot(func() error { return b.mounts(ctx) }); err != nil {
		return nil, err
	}
	if err := b.process(); err != nil {
		return nil, err
	}
	b.plan.names = b.fds.names
	program := compileContainer(&b.plan)
	exe, err := program.Executable(b.in.TmpDir)
	if err != nil {
		return nil, err
	}
	return &Launch{
		Program: program, Executable: exe, Files: b.fds.files, CgroupDir: b.in.CgroupDir, Console: b.console,
		NewPIDNamespace: b.has(specs.PIDNamespace) && b.in.Join[specs.PIDNamespace] == nil && !b.plan.newPID,
		Reparents:       b.plan.newPID || b.plan.joinPID != 0,
		what:            "launching it", where: "in the image or its volumes", owned: append(b.fds.owned, exe),
	}, nil
}

func (b *containerBuilder) has(kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(b.in.Spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
}

// namespaces opens what is joined and says what is new.
func (b *containerBuilder) namespaces() error {
	c := &b.plan
	c.root = b.fds.add("rootfs", b.in.Rootfs)
	for _, n := range b.in.Spec.Linux.Namespaces {
		bit, _ := namespaceFlag(n.Type)
		joined := b.in.Join[n.Type]
		switch {
		case bit == 0:
			return fmt.Errorf("linux.namespaces: %q is not supported: %w", n.Type, errdefs.ErrInvalidArgument)
		case n.Type == specs.UserNamespace:
			if err := b.userNamespace(joined); err != nil {
				return err
			}
		case n.Type == specs.MountNamespace:
			if joined != nil {
				return fmt.Errorf("linux.namespaces: joining a mount namespace is not supported: %w", errdefs.ErrInvalidArgument)
			}
			c.unshare |= bit
		case n.Type == specs.PIDNamespace && joined != nil:
			c.joinPID = b.fds.add("pid", joined)
		case n.Type == specs.PIDNamespace:
			c.newPID = b.has(specs.UserNamespace)
		case joined != nil:
			c.join = append(c.join, membership{n.Type, b.fds.add(string(n.Type), joined)})
		default:
			c.unshare |= bit
		}
	}
	if c.newPID {
		c.unshare |= unix.CLONE_NEWPID
	}
	if c.user == 0 {
		c.lean = b.fds.add("lean", b.in.LeanMountNS)
		return nil
	}
	visible := b.in.VisibleMountNS
	if visible == nil {
		ns, err := VisibleMountNamespace("/")
		if err != nil {
			return err
		}
		c.lean = b.fds.own("visible", ns)
		return nil
	}
	c.lean = b.fds.add("visible", visible)
	return nil
}

func (b *containerBuilder) userNamespace(joined *os.File) error {
	linux := b.in.Spec.Linux
	if len(linux.UIDMappings) == 0 || len(linux.GIDMappings) == 0 {
		return fmt.Errorf("linux.uidMappings, linux.gidMappings: missing for a user namespace: %w", errdefs.ErrInvalidArgument)
	}
	b.userNS = joined
	if joined == nil {
		ns, err := userNamespace(linux.UIDMappings, linux.GIDMappings, b.in.TmpDir)
		if err != nil {
			return err
		}
		b.userNS = ns
		b.plan.user = b.fds.own("user", ns)
		return nil
	}
	b.plan.user = b.fds.add("user", joined)
	return nil
}

// process prepares what the process itself needs of the host.
func (b *containerBuilder) process() error {
	c := &b.plan
	process := b.in.Spec.Process
	for _, f := range b.in.CgroupTasks {
		c.cgroupTasks = append(c.cgroupTasks, b.fds.add("tasks", f))
	}
	proc, err := hostProc()
	if err != nil {
		return err
	}
	c.hostProc = b.fds.own("proc", proc)
	c.apparmor = hasAppArmorAttributes(proc)
	flags, err := seccompFlags(b.in.Spec)
	if err != nil {
		return err
	}
	last, err := lastCapability(proc)
	if err != nil {
		return err
	}
	c.terminal = b.in.Terminal
	c.process = processPlan{
		process: process, seccomp: b.in.Seccomp, flags: flags, terminal: b.in.Terminal, lastCap: last,
		reparents: c.joinPID != 0, lateLimits: c.user != 0,
	}
	return checkFilter(b.in.Seccomp)
}

// hostProc opens the host's proc, and makes sure that it is one.
func hostProc() (*os.File, error) {
	fd, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("opening /proc: %w", err)
	}
	f := os.NewFile(uintptr(fd), "/proc")
	if err := isFilesystem(f, unix.PROC_SUPER_MAGIC); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("the host's /proc: %w", err)
	}
	return f, nil
}

func isFilesystem(f *os.File, magic int64) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Type != magic {
		return fmt.Errorf("file system type %#x, want %#x: %w", st.Type, magic, errdefs.ErrFailedPrecondition)
	}
	return nil
}

func hasAppArmorAttributes(proc *os.File) bool {
	var st unix.Stat_t
	return unix.Fstatat(int(proc.Fd()), "self/attr/apparmor/exec", &st, 0) == nil
}

func lastCapability(proc *os.File) (int, error) {
	fd, err := unix.Openat(int(proc.Fd()), "sys/kernel/cap_last_cap", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("reading the kernel's last capability: %w", err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 16)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return 0, fmt.Errorf("reading the kernel's last capability: %w", err)
	}
	var last int
	if _, err := fmt.Sscan(string(buf[:n]), &last); err != nil || last < 0 || last > 63 {
		return 0, fmt.Errorf("the kernel's last capability is %q: %w", buf[:n], errors.Join(err, errdefs.ErrInternal))
	}
	return last, nil
}
