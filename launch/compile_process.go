package launch

import (
	"encoding/binary"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// defaultPath is searched when the environment has no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func itoa(n int) string { return strconv.Itoa(n) }

// compileProcess gives up rights and executes. By now the process is inside of the container. The order and why:
//
//  1. the descriptors are closed but the report's, so that no path of the image ("/proc/self/fd/7") can name one of the host's (CVE-2024-21626).
//  2. limits, and seccomp where it needs CAP_SYS_ADMIN because no_new_privs is not wanted.
//  3. the bounding set while there is CAP_SETPCAP, the working directory as root, groups, ids; capabilities last, kept over the change of ids.
//  4. the clone into the container's PID namespace (exec, shared namespaces): what becomes visible there has no more rights than the container itself.
//  5. session and terminal; seccomp otherwise; execve.
func (p *Program) compileProcess(c *processPlan) {
	process := c.process
	p.do("closing the host's descriptors", sysCloseRange, num(ReportFD+1), named(1<<32-1, "~0U"), num(0))
	p.do("closing the host's descriptors", sysCloseRange, num(ReportFD), num(ReportFD), named(unix.CLOSE_RANGE_CLOEXEC, "CLOSE_RANGE_CLOEXEC"))
	p.limits(process, c.lateLimits)
	if !process.NoNewPrivileges {
		p.seccomp(c)
	}
	p.bounding(process.Capabilities, c.lastCap)
	p.do("keeping capabilities", sysPrctl, named(unix.PR_SET_KEEPCAPS, "PR_SET_KEEPCAPS"), num(1), num(0), num(0), num(0))
	p.identity(process)
	p.do("closing the working directory's descriptor", sysCloseRange, num(ReportFD+1), named(1<<32-1, "~0U"), num(0))
	p.capabilities(process.Capabilities)
	if process.NoNewPrivileges {
		p.do("setting no_new_privs", sysPrctl, named(unix.PR_SET_NO_NEW_PRIVS, "PR_SET_NO_NEW_PRIVS"), num(1), num(0), num(0), num(0))
	}
	if c.reparents {
		p.lastClone(c)
	}
	p.do("starting a session", sysSetsid)
	if c.terminal {
		p.do("taking the terminal", sysIoctl, p.fd(0), named(unix.TIOCSCTTY, "TIOCSCTTY"), num(0))
	}
	if process.NoNewPrivileges {
		p.seccomp(c)
	}
	p.execute(process)
}

// lastClone makes the process that executes. A seccomp filter that is loaded by now may forbid clone3, which it can't look into; plain clone does as well.
func (p *Program) lastClone(c *processPlan) {
	const purpose = "starting the process in the container's PID namespace"
	if len(c.seccomp) == 0 || c.process.NoNewPrivileges {
		p.reparent(purpose)
		return
	}
	p.do(purpose, sysClone, named(unix.CLONE_PARENT, "CLONE_PARENT"), num(0), num(0), num(0), num(0)).forks = true
}

func rlimits(process *specs.Process) []rlimit {
	var out []rlimit
	for _, l := range process.Rlimits {
		out = append(out, rlimit{name: l.Type, number: rlimitNumbers()[l.Type], soft: l.Soft, hard: l.Hard})
	}
	return out
}

type rlimit struct {
	name       string
	number     int
	soft, hard uint64
}

func (p *Program) setLimit(l rlimit, soft uint64) {
	raw := binary.LittleEndian.AppendUint64(nil, soft)
	raw = binary.LittleEndian.AppendUint64(raw, l.hard)
	p.do("setting "+l.name, sysPrlimit, num(0), named(uint64(l.number), l.name), p.mem(raw, "{"+dec(soft)+", "+dec(l.hard)+"}"), num(0))
}

// hardLimits raises what only the host's root may raise.
func (p *Program) hardLimits(process *specs.Process) {
	for _, l := range rlimits(process) {
		p.setLimit(l, l.hard)
	}
}

func (p *Program) limits(process *specs.Process, late bool) {
	for _, l := range rlimits(process) {
		if !late || l.soft != l.hard {
			p.setLimit(l, l.soft)
		}
	}
}

func (p *Program) seccomp(c *processPlan) {
	if len(c.seccomp) == 0 {
		return
	}
	filter := p.bytes(c.seccomp)
	prog := make([]byte, 16)
	binary.LittleEndian.PutUint16(prog, uint16(len(c.seccomp)/8))
	at := p.bytes(prog)
	p.links = append(p.links, link{at.offset + 8, filter.offset})
	p.do("loading the seccomp filter", sysSeccomp, named(unix.SECCOMP_SET_MODE_FILTER, "SECCOMP_SET_MODE_FILTER"), named(c.flags, "flags="+dec(c.flags)),
		arg{kind: pointer, value: uint64(at.offset), text: "{" + itoa(len(c.seccomp)/8) + " instructions}"})
}

// identity changes groups and ids, and the working directory: as root where root may go there, else as the user (root may be without rights on a network file system,
// the user may be without them in /root). It is opened without magic links, as proc has them to places outside.
func (p *Program) identity(process *specs.Process) {
	dir := process.Cwd
	if dir == "" {
		dir = "/"
	}
	purpose := "changing to the working directory " + quote(dir)
	how := binary.LittleEndian.AppendUint64(nil, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC)
	how = binary.LittleEndian.AppendUint64(how, 0)
	how = binary.LittleEndian.AppendUint64(how, unix.RESOLVE_NO_MAGICLINKS)
	open := p.mem(how, "{O_PATH|O_DIRECTORY|O_CLOEXEC, RESOLVE_NO_MAGICLINKS}")
	name := p.str(dir)
	s := p.slot("cwd")
	const ids, change = 3, 2 // ops each
	p.do(purpose, sysOpenat2, cwd(), name, open, num(24)).into(s).as(roleWorkingDir).ignoring(unix.EACCES, unix.EPERM).orSkip(1 + ids)
	p.do(purpose, sysFchdir, p.value(s)).as(roleWorkingDir).ignoring(unix.EACCES, unix.EPERM).orSkip(ids)
	p.ids(process).thenSkip(ids + change)
	p.ids(process)
	p.do(purpose, sysOpenat2, cwd(), name, open, num(24)).into(s).as(roleWorkingDir)
	p.do(purpose, sysFchdir, p.value(s)).as(roleWorkingDir)
}

func (p *Program) ids(process *specs.Process) *op {
	u := process.User
	var raw []byte
	names := make([]string, len(u.AdditionalGids))
	for i, g := range u.AdditionalGids {
		raw = binary.LittleEndian.AppendUint32(raw, g)
		names[i] = dec(uint64(g))
	}
	uid, gid := num(uint64(u.UID)), num(uint64(u.GID))
	p.do("setting supplementary groups", sysSetgroups, num(uint64(len(names))), p.mem(raw, "["+strings.Join(names, " ")+"]"))
	p.do("setting the group", sysSetresgid, gid, gid, gid)
	return p.do("setting the user", sysSetresuid, uid, uid, uid)
}

// bounding drops what the process may never have.
func (p *Program) bounding(caps *specs.LinuxCapabilities, last int) {
	var names []string
	if caps != nil {
		names = caps.Bounding
	}
	keep := capabilityBits(names)
	text := "prctl(PR_CAPBSET_DROP, all but " + strings.Join(capabilityNames(keep), " ") + ")"
	if keep == 0 {
		text = "prctl(PR_CAPBSET_DROP, all)"
	}
	for n := 0; n <= last; n++ {
		if keep&(1<<n) == 0 {
			p.do("limiting capabilities", sysPrctl, named(unix.PR_CAPBSET_DROP, "PR_CAPBSET_DROP"), num(uint64(n)), num(0), num(0), num(0)).folded(text)
		}
	}
}

// capabilities sets what the process has. The inheritable set is empty but for what ambient ones need, whatever is asked: a program with file capabilities
// would gain from it what the user should not have (CVE-2022-29162).
func (p *Program) capabilities(caps *specs.LinuxCapabilities) {
	var effective, permitted, ambient uint64
	if caps != nil {
		effective, permitted, ambient = capabilityBits(caps.Effective), capabilityBits(caps.Permitted), capabilityBits(caps.Ambient)
	}
	ambient &= permitted
	effective &= permitted
	header := binary.LittleEndian.AppendUint64(nil, unix.LINUX_CAPABILITY_VERSION_3)
	var data []byte
	for shift := 0; shift < 64; shift += 32 {
		for _, set := range []uint64{effective, permitted, ambient} {
			data = binary.LittleEndian.AppendUint32(data, uint32(set>>shift))
		}
	}
	text := "{effective=[" + strings.Join(capabilityNames(effective), " ") + "], permitted=[" + strings.Join(capabilityNames(permitted), " ") +
		"], inheritable=[" + strings.Join(capabilityNames(ambient), " ") + "]}"
	p.do("setting capabilities", sysCapset, p.mem(header, "{_LINUX_CAPABILITY_VERSION_3, 0}"), p.mem(data, text))
	p.do("clearing ambient capabilities", sysPrctl, named(unix.PR_CAP_AMBIENT, "PR_CAP_AMBIENT"), named(unix.PR_CAP_AMBIENT_CLEAR_ALL, "PR_CAP_AMBIENT_CLEAR_ALL"), num(0), num(0), num(0))
	for n := uint64(0); n < 64; n++ {
		if ambient&(1<<n) != 0 {
			p.do("raising ambient capabilities", sysPrctl, named(unix.PR_CAP_AMBIENT, "PR_CAP_AMBIENT"), named(unix.PR_CAP_AMBIENT_RAISE, "PR_CAP_AMBIENT_RAISE"),
				named(n, capabilityNames(1 << n)[0]), num(0), num(0))
		}
	}
}

// execute tries the candidates of the PATH; the last reports.
func (p *Program) execute(process *specs.Process) {
	args, env := p.list(process.Args, quoted(process.Args)), p.list(process.Env, itoa(len(process.Env))+" variables")
	candidates := candidates(process)
	for i, name := range candidates {
		o := p.do("executing "+quote(process.Args[0]), sysExecve, p.str(name), args, env).as(roleExec)
		if i < len(candidates)-1 {
			o.ignoring(unix.ENOENT, unix.ENOTDIR, unix.EACCES)
		}
	}
}

func candidates(process *specs.Process) []string {
	name := process.Args[0]
	if strings.Contains(name, "/") {
		return []string{name}
	}
	search := defaultPath
	for _, v := range process.Env {
		if value, ok := strings.CutPrefix(v, "PATH="); ok {
			search = value
		}
	}
	var out []string
	for _, dir := range strings.Split(search, ":") {
		if dir == "" {
			dir = "."
		}
		out = append(out, strings.TrimRight(dir, "/")+"/"+name)
	}
	return out
}

func quoted(values []string) string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = quote(v)
	}
	return "[" + strings.Join(out, ", ") + "]"
}
