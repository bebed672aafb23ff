package launch

import (
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// pauseID is the user and group of a pause process: nobody else's.
const pauseID = 65535

// PauseInput is what the process that holds a pod's shared PID namespace is launched from. Descriptors stay the caller's.
type PauseInput struct {
	LeanMountNS *os.File
	Join        map[specs.LinuxNamespaceType]*os.File // the sandbox's namespaces
	CgroupTasks []*os.File                            // cgroup v1
	CgroupDir   *os.File                              // cgroup v2
	TmpDir      string
}

// PreparePause prepares the first process of a shared PID namespace. It is a launch program without an execve: a page of memory that sleeps.
//
// All containers of the pod see it as process 1, so it holds nothing: its root is the empty lean one, copied, so that nobody who gets at it (CAP_SYS_PTRACE) can mount into
// the one that other containers start from; it has the sandbox's namespaces, no capability, no descriptor, and a user that nobody else has. The kernel reaps its orphans, because it ignores SIGCHLD.
func PreparePause(in PauseInput) (*Launch, error) {
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("preparing a pause process: %w", err)
	}
	fds := newDescriptors([3]*os.File{null, null, null})
	fds.owned = append(fds.owned, null)
	p := &Program{}
	user := in.Join[specs.UserNamespace]
	lean := fds.add("lean", in.LeanMountNS)
	var tasks, joins []int
	for _, file := range in.CgroupTasks {
		tasks = append(tasks, fds.add("tasks", file))
	}
	kinds := []specs.LinuxNamespaceType{specs.UserNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace}
	for _, kind := range kinds {
		if file := in.Join[kind]; file != nil {
			joins = append(joins, fds.add(string(kind), file))
		}
	}
	p.files = fds.names
	for _, fd := range tasks {
		p.write("joining the cgroup", p.fd(fd), "0")
	}
	p.do("starting a session", sysSetsid)
	p.do("entering the lean mount namespace", sysSetns, p.fd(lean), named(unix.CLONE_NEWNS, "CLONE_NEWNS"))
	for _, fd := range joins {
		p.do("joining the sandbox's namespaces", sysSetns, p.fd(fd), named(0, "0"))
	}
	flags, text := uint64(unix.CLONE_NEWNS), "CLONE_NEWNS"
	if user != nil {
		flags, text = flags|unix.CLONE_NEWPID, text+"|CLONE_NEWPID"
	}
	p.do("making a mount namespace", sysUnshare, named(flags, text))
	if user != nil {
		p.reparent("becoming the first process of the PID namespace")
	}
	p.holdStill()
	exe, err := p.Executable(in.TmpDir)
	if err != nil {
		return nil, fmt.Errorf("preparing a pause process: %w", err)
	}
	return &Launch{
		Program: p, Executable: exe, Files: fds.files, CgroupDir: in.CgroupDir,
		NewPIDNamespace: user == nil, Reparents: user != nil,
		what: "starting the pause process", where: "of the sandbox", owned: append(fds.owned, exe),
	}, nil
}

// holdStill gives everything up and sleeps for ever.
func (p *Program) holdStill() {
	ignore := make([]byte, 32) // struct sigaction: the handler is SIG_IGN
	ignore[0] = 1
	p.do("ignoring SIGCHLD", sysSigaction, named(uint64(unix.SIGCHLD), "SIGCHLD"), p.mem(ignore, "{SIG_IGN}"), num(0), num(8))
	p.do("taking its name", sysPrctl, named(unix.PR_SET_NAME, "PR_SET_NAME"), p.str("pause"), num(0), num(0), num(0))
	p.do("dropping groups", sysSetgroups, num(0), num(0))
	p.do("becoming nobody", sysSetresgid, num(pauseID), num(pauseID), num(pauseID)).ignoring(unix.EINVAL)
	p.do("becoming nobody", sysSetresuid, num(pauseID), num(pauseID), num(pauseID)).ignoring(unix.EINVAL)
	none := make([]byte, 24)
	header := make([]byte, 8)
	header[0], header[1], header[2], header[3] = 0x22, 0x05, 0x08, 0x20 // _LINUX_CAPABILITY_VERSION_3
	p.do("dropping capabilities", sysCapset, p.mem(header, "{VERSION_3}"), p.mem(none, "{}"))
	p.do("giving up privileges", sysPrctl, named(unix.PR_SET_NO_NEW_PRIVS, "PR_SET_NO_NEW_PRIVS"), num(1), num(0), num(0), num(0))
	p.do("closing all descriptors", sysCloseRange, num(0), num(1<<32-1), num(0))
	// Nothing wakes it: it has no handler, and a namespace's first process is not ended by its own. A debugger or SIGCONT may, some times.
	for range 64 {
		p.do("sleeping", sysPpoll, num(0), num(0), num(0), num(0), num(0)).ignoring(unix.EINTR)
	}
}
