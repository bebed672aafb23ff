package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ExecInput is what another process in a running container is launched from. Descriptors stay the caller's, and must stay open until the
// keeper has started the launch.
type ExecInput struct {
	Process *specs.Process
	PID     int         // the container's first process
	PIDFD   *os.File    // the same; a PID that was reused is noticed by it
	Spec    *specs.Spec // the container's, for seccomp flags and ID mappings

	CgroupTasks []*os.File // cgroup v1
	CgroupDir   *os.File   // cgroup v2

	Stdio    [3]*os.File // ignored with Terminal
	Terminal bool        // make a terminal in the container's devpts; Launch.Console is its master
	Slave    *os.File    // or take this one
	Seccomp  []byte
	TmpDir   string
}

// PrepareExec prepares a process that joins a container.
func PrepareExec(_ context.Context, in ExecInput) (*Launch, error) {
	l, err := prepareExec(in)
	if err != nil {
		return nil, fmt.Errorf("preparing an exec: %w", err)
	}
	return l, nil
}

func prepareExec(in ExecInput) (*Launch, error) {
	if in.Process == nil || in.PIDFD == nil || in.PID <= 0 {
		return nil, invalid("exec", "no process, or none to join")
	}
	if err := errors.Join(checkProcess(in.Process), checkFilter(in.Seccomp)); err != nil {
		return nil, err
	}
	b := &execBuilder{in: in}
	if in.Terminal && in.Slave == nil {
		if err := b.terminal(); err != nil {
			return nil, fmt.Errorf("making a terminal: %w", err)
		}
	}
	l, err := b.build()
	if err != nil {
		for _, f := range b.opened {
			_ = f.Close()
		}
		if b.fds != nil {
			b.fds.close()
		}
		return nil, err
	}
	return l, nil
}

// execPlan is what an exec's program is compiled from.
type execPlan struct {
	names       []string
	pidfd       int
	hostProc    int
	namespaces  uint64
	user        bool
	cgroup      int // v2
	cgroupTasks []int
	apparmor    bool
	process     processPlan
}

// compileExec writes the program of a process that joins a container.
//
// On cgroup v2 it is cloned into the cgroup first: writing to cgroup.procs would wait for an RCU grace period (10 ms on an idle machine),
// and the clone must be made with the host's rights and in the host's cgroup namespace. The keeper does not clone into it itself, because a
// child that shares its memory must not be in a cgroup whose OOM kills take along whoever shares memory. It enters everything but the PID
// namespace with the rights of the host, where nobody of the container can see it; it gives them up, and only then clones itself into the
// PID namespace and the cgroup. So a container that may trace whatever appears gets at nothing.
func compileExec(c *execPlan) *Program {
	p := &Program{files: c.names}
	p.inherited(c.process.process)
	for _, fd := range c.cgroupTasks {
		p.write("joining the cgroup", p.fd(fd), "0")
	}
	p.scoreAndLabel(c.process.process, c.hostProc, c.apparmor)
	if c.cgroup != 0 {
		p.moveInto("joining the cgroup", p.fd(c.cgroup))
	}
	if c.user {
		p.hardLimits(c.process.process)
	}
	p.do("joining the container's namespaces", sysSetns, p.fd(c.pidfd), named(c.namespaces, namespaceFlags(c.namespaces)))
	if c.user {
		p.do("becoming root in the user namespace", sysSetresgid, num(0), num(0), num(0))
		p.do("becoming root in the user namespace", sysSetresuid, num(0), num(0), num(0))
	}
	p.compileProcess(&c.process)
	return p
}

type execBuilder struct {
	in     ExecInput
	fds    *descriptors
	opened []*os.File
	master *os.File
}

func (b *execBuilder) build() (*Launch, error) {
	in := b.in
	stdio := in.Stdio
	if in.Slave != nil {
		stdio = [3]*os.File{in.Slave, in.Slave, in.Slave}
	}
	b.fds = newDescriptors(stdio)
	c := &execPlan{}
	proc, err := hostProc()
	if err != nil {
		return nil, err
	}
	last, err := lastCapability(proc)
	if err != nil {
		_ = proc.Close()
		return nil, err
	}
	c.process = processPlan{process: in.Process, seccomp: in.Seccomp, terminal: in.Slave != nil, lastCap: last, reparents: true}
	if in.Spec != nil {
		if c.process.flags, err = seccompFlags(in.Spec); err != nil {
			_ = proc.Close()
			return nil, err
		}
	}
	if in.CgroupDir != nil {
		c.cgroup = b.fds.add("cgroup", in.CgroupDir)
	}
	c.hostProc = b.fds.own("proc", proc)
	c.apparmor = hasAppArmorAttributes(proc)
	c.pidfd = b.fds.add("pidfd", in.PIDFD)
	for _, f := range in.CgroupTasks {
		c.cgroupTasks = append(c.cgroupTasks, b.fds.add("tasks", f))
	}
	if c.namespaces, err = namespacesOf(in.PID, in.PIDFD); err != nil {
		return nil, err
	}
	c.user = c.namespaces&unix.CLONE_NEWUSER != 0
	c.process.lateLimits = c.user
	c.names = b.fds.names
	program := compileExec(c)
	exe, err := program.Executable(in.TmpDir)
	if err != nil {
		return nil, err
	}
	return &Launch{
		Program: program, Executable: exe, Files: b.fds.files, Reparents: true, Console: b.master,
		what: "launching it", where: "in the container", owned: append(append(b.fds.owned, exe), b.opened...),
	}, nil
}

// namespacesOf finds which of a process's namespaces are not this one's. Joining the others again would need rights, or be refused (user).
func namespacesOf(pid int, pidfd *os.File) (uint64, error) {
	kinds := map[string]uint64{
		"mnt": unix.CLONE_NEWNS, "pid": unix.CLONE_NEWPID, "net": unix.CLONE_NEWNET, "ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS,
		"cgroup": unix.CLONE_NEWCGROUP, "user": unix.CLONE_NEWUSER,
	}
	var bits uint64
	var own, other unix.Stat_t
	for name, bit := range kinds {
		if err := unix.Stat("/proc/self/ns/"+name, &own); err != nil {
			return 0, fmt.Errorf("finding namespaces: %w", err)
		}
		if err := unix.Stat("/proc/"+strconv.Itoa(pid)+"/ns/"+name, &other); err != nil {
			return 0, fmt.Errorf("the container's process %d has ended: %w", pid, errdefs.ErrFailedPrecondition)
		}
		if own.Ino != other.Ino {
			bits |= bit
		}
	}
	// Had the process ended, another with its number could have been looked at.
	if err := unix.PidfdSendSignal(int(pidfd.Fd()), 0, nil, 0); err != nil {
		return 0, fmt.Errorf("the container's process %d has ended: %w", pid, errdefs.ErrFailedPrecondition)
	}
	if bits&unix.CLONE_NEWNS == 0 {
		return 0, invalid("exec", "process %d is in the host's mount namespace", pid)
	}
	return bits, nil
}

// terminal makes a pseudo terminal in the container's devpts, so that the name of it is right inside. The container could have put anything
// at /dev/pts, so it is looked for through the first process's root without following links, and must be a devpts.
func (b *execBuilder) terminal() error {
	root, err := unix.Open("/proc/"+strconv.Itoa(b.in.PID)+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening the container's root: %w", err)
	}
	defer unix.Close(root)
	// Opening a device has effects; the directory is checked first, and the device opened relative to it.
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	pts, err := unix.Openat2(root, "dev/pts", &how)
	if err != nil {
		return fmt.Errorf("opening the container's /dev/pts: %w", err)
	}
	dir := os.NewFile(uintptr(pts), "/dev/pts")
	defer dir.Close()
	if err := isFilesystem(dir, unix.DEVPTS_SUPER_MAGIC); err != nil {
		return fmt.Errorf("the container's /dev/pts: %w", err)
	}
	if err := unix.PidfdSendSignal(int(b.in.PIDFD.Fd()), 0, nil, 0); err != nil {
		return fmt.Errorf("the container's process %d has ended: %w", b.in.PID, errdefs.ErrFailedPrecondition)
	}
	master, slave, err := openTerminal(pts, "ptmx")
	if master != nil {
		b.opened = append(b.opened, master)
	}
	if slave != nil {
		b.opened = append(b.opened, slave)
	}
	if err != nil {
		return err
	}
	var uids []specs.LinuxIDMapping
	if b.in.Spec != nil && b.in.Spec.Linux != nil {
		uids = b.in.Spec.Linux.UIDMappings
	}
	b.master, b.in.Slave = master, slave
	return ownTerminal(master, slave, hostID(b.in.Process.User.UID, uids), b.in.Process.ConsoleSize)
}
