package launch

import (
	"encoding/binary"
	"fmt"
	"path"
	"slices"
	"sort"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// compileContainer writes the program of a container's first process. The order and why:
//
//  1. signals, session keyring: what is inherited of the keeper goes first.
//  2. cgroup v1 tasks: before anything is allocated, and before the cgroup namespace, whose root is where the process is by then.
//  3. OOM score, LSM label, hard limits: need the host's proc or the host's rights, which the user namespace ends.
//  4. namespaces that exist, with the host's rights; then the user namespace; then new ones, so that it owns them.
//  5. in a user namespace the PID namespace is made here as well, and the process that goes on is its first.
//  6. file systems that show namespaces; the root; every mount by descriptor, no path is resolved but below proc and sysfs.
//  7. sysctls before /proc/sys becomes read-only; masks; read-only paths; the root last, since all mount points are below.
//  8. the root is entered, the descriptors are closed: only now are paths of the image looked at.
//  9. the process's own rights are given up (compileProcess).
func compileContainer(c *containerPlan) *Program {
	p := &Program{files: c.names}
	p.inherited(c.spec.Process)
	for _, fd := range c.cgroupTasks {
		p.write("joining the cgroup", p.fd(fd), "0")
	}
	p.hostRights(c)
	p.namespaces(c)
	lean := p.openat("opening the lean root", cwd(), "/", unix.O_PATH|unix.O_DIRECTORY, "O_PATH|O_DIRECTORY")
	made := p.filesystems(c)
	p.attachRoot(c, lean)
	p.attachMounts(c, made)
	p.sysctls(c, made)
	p.protect(c, lean)
	p.enterRoot(c, lean)
	if c.joinPID != 0 {
		p.do("joining the PID namespace", sysSetns, p.fd(c.joinPID), named(unix.CLONE_NEWPID, "CLONE_NEWPID"))
	}
	p.compileProcess(&c.process)
	return p
}

// inherited resets what a Go process leaves to its children: ignored signals (handlers end with an execve, ignored ones stay), the signal
// mask, the session keyring.
func (p *Program) inherited(process *specs.Process) {
	action := p.mem(make([]byte, 32), "{SIG_DFL}")
	for n := uint64(1); n <= 64; n++ {
		if n != uint64(unix.SIGKILL) && n != uint64(unix.SIGSTOP) {
			p.do("resetting signals", sysSigaction, num(n), action, num(0), num(8)).folded("rt_sigaction(every signal, {SIG_DFL}, 0, 8)")
		}
	}
	p.do("resetting the signal mask", sysSigprocmask, named(unix.SIG_SETMASK, "SIG_SETMASK"), p.mem(make([]byte, 8), "[]"), num(0), num(8))
	p.do("joining a session keyring", sysKeyctl, named(unix.KEYCTL_JOIN_SESSION_KEYRING, "KEYCTL_JOIN_SESSION_KEYRING"), num(0)).
		ignoring(unix.ENOSYS, unix.EPERM, unix.EDQUOT)
	umask := uint32(0o022)
	if process.User.Umask != nil {
		umask = *process.User.Umask
	}
	p.do("setting the umask", sysUmask, named(uint64(umask), fmt.Sprintf("%04o", umask)))
}

func (p *Program) hostRights(c *containerPlan) {
	p.scoreAndLabel(c.spec.Process, c.hostProc, c.apparmor)
	if c.user != 0 {
		p.hardLimits(c.spec.Process)
	}
}

// scoreAndLabel writes what has to be written to the process's own proc files, below a descriptor of the host's proc, which no container
// can stand in for (CVE-2025-52881).
func (p *Program) scoreAndLabel(process *specs.Process, proc int, apparmor bool) {
	put := func(purpose, name, content string) {
		o := p.openBeneathProc(purpose, p.fd(proc), name)
		p.write(purpose, o, content)
	}
	if process.OOMScoreAdj != nil {
		put("setting the OOM score", "oom_score_adj", itoa(*process.OOMScoreAdj))
	}
	if process.SelinuxLabel != "" {
		put("setting the SELinux label "+process.SelinuxLabel, "attr/exec", process.SelinuxLabel)
	}
	if process.ApparmorProfile != "" {
		name := "attr/exec"
		if apparmor {
			name = "attr/apparmor/exec"
		}
		put("setting the AppArmor profile "+process.ApparmorProfile, name, "exec "+process.ApparmorProfile)
	}
}

// openBeneathProc opens a file of this thread. thread-self is a symbolic link of proc's own making, so this is the one open that follows
// links: it starts at the host's proc.
func (p *Program) openBeneathProc(purpose string, proc arg, name string) arg {
	return p.value(p.openat(purpose, proc, "thread-self/"+name, unix.O_WRONLY, "O_WRONLY"))
}

func (p *Program) namespaces(c *containerPlan) {
	for _, m := range c.join {
		bit, text := namespaceFlag(m.kind)
		p.do("joining the "+string(m.kind)+" namespace", sysSetns, p.fd(m.fd), named(bit, text))
	}
	p.do("leaving the host's mounts", sysSetns, p.fd(c.lean), named(unix.CLONE_NEWNS, "CLONE_NEWNS"))
	if c.user != 0 {
		p.do("joining the user namespace", sysSetns, p.fd(c.user), named(unix.CLONE_NEWUSER, "CLONE_NEWUSER"))
		p.do("becoming root in the user namespace", sysSetresgid, num(0), num(0), num(0))
		p.do("becoming root in the user namespace", sysSetresuid, num(0), num(0), num(0))
	}
	p.do("making namespaces", sysUnshare, named(c.unshare, namespaceFlags(c.unshare)))
	if c.newPID {
		p.reparent("starting the first process of the PID namespace")
	}
	if c.spec.Hostname != "" {
		p.do("setting the host name", sysSethostname, p.str(c.spec.Hostname), num(uint64(len(c.spec.Hostname))))
	}
	if c.spec.Domainname != "" {
		p.do("setting the domain name", sysSetdomain, p.str(c.spec.Domainname), num(uint64(len(c.spec.Domainname))))
	}
}

// filesystems makes those that show the namespaces of their maker: proc, sysfs, mqueue, cgroup2.
func (p *Program) filesystems(c *containerPlan) map[int]slot {
	made := map[int]slot{}
	for i, m := range c.mounts {
		f := m.filesystem
		if f == nil {
			continue
		}
		purpose := "mounting " + f.kind + " at " + m.destination
		context := p.slot(f.kind + ".context")
		p.do(purpose, sysFsopen, p.str(f.kind), named(unix.FSOPEN_CLOEXEC, "FSOPEN_CLOEXEC")).into(context)
		for _, parameter := range f.parameters {
			key, value, isString := strings.Cut(parameter, "=")
			if isString {
				p.do(purpose, sysFsconfig, p.value(context), named(unix.FSCONFIG_SET_STRING, "FSCONFIG_SET_STRING"), p.str(key), p.str(value), num(0))
			} else {
				p.do(purpose, sysFsconfig, p.value(context), named(unix.FSCONFIG_SET_FLAG, "FSCONFIG_SET_FLAG"), p.str(key), num(0), num(0))
			}
		}
		p.do(purpose, sysFsconfig, p.value(context), named(unix.FSCONFIG_CMD_CREATE, "FSCONFIG_CMD_CREATE"), num(0), num(0), num(0))
		s := p.slot(f.kind)
		p.do(purpose, sysFsmount, p.value(context), named(unix.FSMOUNT_CLOEXEC, "FSMOUNT_CLOEXEC"), named(f.attributes, attributeNames(f.attributes))).into(s)
		made[i+1] = s
	}
	return made
}

// attachRoot puts the root where it can be entered: on top of the lean root, or, for pivot_root, beside it.
func (p *Program) attachRoot(c *containerPlan, lean slot) {
	const purpose = "mounting the root file system"
	if c.user == 0 {
		p.do(purpose, sysMoveMount, p.fd(c.root), p.str(""), cwd(), p.str("/"), named(unix.MOVE_MOUNT_F_EMPTY_PATH, "F_EMPTY_PATH"))
		return
	}
	p.do(purpose, sysMoveMount, p.fd(c.root), p.str(""), p.value(lean), p.str(leanRoot), named(unix.MOVE_MOUNT_F_EMPTY_PATH, "F_EMPTY_PATH"))
}

func (p *Program) attachMounts(c *containerPlan, made map[int]slot) {
	for i, m := range c.mounts {
		var source arg
		if m.filesystem != nil {
			source = p.value(made[i+1])
		} else {
			source = p.fd(m.fd)
		}
		p.attachAt("mounting "+m.destination, source, m.at, made)
	}
	if c.terminal && c.devpts != 0 {
		// The mount is attached by now: kernels before 6.15 clone no other. The slave is the first of its devpts.
		console := p.slot("console")
		p.do("binding /dev/console", sysOpenTree, p.fd(c.devpts), p.str("0"), named(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC, "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC")).into(console)
		p.attachAt("mounting /dev/console", p.value(console), c.console, made)
	}
}

func (p *Program) attachAt(purpose string, source arg, at place, made map[int]slot) {
	var target arg
	switch {
	case at.fd != 0:
		target = p.fd(at.fd)
	case at.path == "":
		target = p.value(made[at.made])
	default:
		s := p.openBeneath(purpose, p.value(made[at.made]), at.path, unix.O_PATH, "O_PATH").result
		target = p.value(s)
	}
	p.attach(purpose, source, target)
}

// sysctls are written below the descriptor of the container's own proc.
func (p *Program) sysctls(c *containerPlan, made map[int]slot) {
	names := make([]string, 0, len(c.spec.Linux.Sysctl))
	for name := range c.spec.Linux.Sysctl {
		names = append(names, name)
	}
	sort.Strings(names)
	for i, m := range c.mounts {
		if m.destination != "/proc" || len(names) == 0 {
			continue
		}
		var proc arg
		if m.filesystem != nil {
			proc = p.value(made[i+1])
		} else {
			proc = p.fd(m.fd)
		}
		for _, name := range names {
			purpose := "setting sysctl " + name
			s := p.openBeneath(purpose, proc, "sys/"+sysctlPath(name), unix.O_WRONLY, "O_WRONLY").result
			p.write(purpose, p.value(s), c.spec.Linux.Sysctl[name])
		}
	}
}

// protect masks paths, makes others read-only, and then the root.
func (p *Program) protect(c *containerPlan, lean slot) {
	cloned := named(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC, "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC")
	for _, name := range c.spec.Linux.MaskedPaths {
		purpose := "masking " + name
		target := p.value(p.openInRoot(c, purpose, name, 4))
		null, empty := p.slot("null"), p.slot("empty")
		p.do(purpose, sysOpenTree, p.value(lean), p.str(leanNull), cloned).into(null)
		p.attach(purpose, p.value(null), target).ignoring(unix.EINVAL, unix.ENOTDIR).thenSkip(2) // a file does not go on a directory
		p.do(purpose, sysOpenTree, p.value(lean), p.str(leanEmpty), cloned).into(empty)
		p.attach(purpose, p.value(empty), target)
	}
	readOnly := p.mem(mountAttributes(unix.MOUNT_ATTR_RDONLY, 0, 0), "{set=RDONLY}")
	for _, name := range c.spec.Linux.ReadonlyPaths {
		purpose := "making " + name + " read-only"
		target := p.value(p.openInRoot(c, purpose, name, 3))
		self := p.slot("self")
		p.do(purpose, sysOpenTree, target, p.str(""), named(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE,
			"OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_EMPTY_PATH|AT_RECURSIVE")).into(self)
		p.do(purpose, sysMountSetattr, p.value(self), p.str(""), named(unix.AT_EMPTY_PATH, "AT_EMPTY_PATH"), readOnly, num(32))
		p.attach(purpose, p.value(self), target)
	}
	if bit, text := rootPropagation(c.spec.Linux.RootfsPropagation); bit != 0 {
		p.do("setting the propagation of the root", sysMountSetattr, p.fd(c.root), p.str(""), named(unix.AT_EMPTY_PATH, "AT_EMPTY_PATH"),
			p.mem(mountAttributes(0, 0, bit), "{propagation="+text+"}"), num(32))
	}
	if c.spec.Root != nil && c.spec.Root.Readonly {
		p.do("making the root read-only", sysMountSetattr, p.fd(c.root), p.str(""), named(unix.AT_EMPTY_PATH, "AT_EMPTY_PATH"), readOnly, num(32))
	}
}

// openInRoot opens a path as the container will see it, and skips the next n ops when it does not exist.
func (p *Program) openInRoot(c *containerPlan, purpose, name string, n uint16) slot {
	s := p.slot("at" + dec(uint64(len(p.slots))))
	how := binary.LittleEndian.AppendUint64(nil, unix.O_PATH|unix.O_CLOEXEC)
	how = binary.LittleEndian.AppendUint64(how, 0)
	how = binary.LittleEndian.AppendUint64(how, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	p.do(purpose, sysOpenat2, p.fd(c.root), p.str(path.Clean(name)), p.mem(how, "{O_PATH|O_CLOEXEC, RESOLVE_IN_ROOT|RESOLVE_NO_MAGICLINKS}"), num(24)).
		into(s).ignoring(unix.ENOENT, unix.ENOTDIR).orSkip(n)
	return s
}

// enterRoot makes the container's root the process's, and leaves no way back: below it is an empty read-only file system, or, in a user
// namespace, where that one had proc and sysfs on it, nothing at all.
func (p *Program) enterRoot(c *containerPlan, lean slot) {
	const purpose = "entering the root file system"
	p.do(purpose, sysFchdir, p.fd(c.root))
	if c.user == 0 {
		p.do(purpose, sysChroot, p.str("."))
		return
	}
	p.do(purpose, sysPivotRoot, p.str("."), p.str("."))
	p.do(purpose, sysFchdir, p.value(lean))
	p.do(purpose, sysUmount, p.str("."), named(unix.MNT_DETACH, "MNT_DETACH"))
	p.do(purpose, sysChdir, p.str("/"))
}

func mountAttributes(set, clear, propagation uint64) []byte {
	var b []byte
	for _, v := range []uint64{set, clear, propagation, 0} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

func rootPropagation(name string) (uint64, string) {
	switch name {
	case "shared", "rshared":
		return unix.MS_SHARED, "MS_SHARED"
	case "unbindable", "runbindable":
		return unix.MS_UNBINDABLE, "MS_UNBINDABLE"
	}
	return 0, "" // a new mount is private and nobody's slave
}

// namespaceFlag is the clone flag of a namespace.
func namespaceFlag(kind specs.LinuxNamespaceType) (uint64, string) {
	switch kind {
	case specs.PIDNamespace:
		return unix.CLONE_NEWPID, "CLONE_NEWPID"
	case specs.NetworkNamespace:
		return unix.CLONE_NEWNET, "CLONE_NEWNET"
	case specs.MountNamespace:
		return unix.CLONE_NEWNS, "CLONE_NEWNS"
	case specs.IPCNamespace:
		return unix.CLONE_NEWIPC, "CLONE_NEWIPC"
	case specs.UTSNamespace:
		return unix.CLONE_NEWUTS, "CLONE_NEWUTS"
	case specs.UserNamespace:
		return unix.CLONE_NEWUSER, "CLONE_NEWUSER"
	case specs.CgroupNamespace:
		return unix.CLONE_NEWCGROUP, "CLONE_NEWCGROUP"
	}
	return 0, ""
}

func namespaceFlags(bits uint64) string {
	var names []string
	for _, kind := range []specs.LinuxNamespaceType{
		specs.MountNamespace, specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace, specs.UserNamespace,
	} {
		if bit, text := namespaceFlag(kind); bits&bit != 0 {
			names = append(names, text)
		}
	}
	return strings.Join(names, "|")
}

func attributeNames(bits uint64) string {
	var names []string
	for name, bit := range map[string]uint64{
		"RDONLY": unix.MOUNT_ATTR_RDONLY, "NOSUID": unix.MOUNT_ATTR_NOSUID, "NODEV": unix.MOUNT_ATTR_NODEV, "NOEXEC": unix.MOUNT_ATTR_NOEXEC,
		"NOATIME": unix.MOUNT_ATTR_NOATIME, "STRICTATIME": unix.MOUNT_ATTR_STRICTATIME, "NOSYMFOLLOW": unix.MOUNT_ATTR_NOSYMFOLLOW,
	} {
		if bits&bit != 0 {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return dec(bits)
	}
	slices.Sort(names)
	return strings.Join(names, "|")
}
