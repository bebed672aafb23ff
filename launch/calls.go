package launch

import "golang.org/x/sys/unix"

// call is a system call: its number on this architecture and its name.
type call struct {
	number uint32
	name   string
}

// The calls that programs make. They are constants in all but syntax.
var (
	sysCapset       = &call{unix.SYS_CAPSET, "capset"}
	sysChdir        = &call{unix.SYS_CHDIR, "chdir"}
	sysChroot       = &call{unix.SYS_CHROOT, "chroot"}
	sysClone        = &call{unix.SYS_CLONE, "clone"}
	sysClone3       = &call{unix.SYS_CLONE3, "clone3"}
	sysClose        = &call{unix.SYS_CLOSE, "close"}
	sysCloseRange   = &call{unix.SYS_CLOSE_RANGE, "close_range"}
	sysExecve       = &call{unix.SYS_EXECVE, "execve"}
	sysExitGroup    = &call{unix.SYS_EXIT_GROUP, "exit_group"}
	sysFchdir       = &call{unix.SYS_FCHDIR, "fchdir"}
	sysFsconfig     = &call{unix.SYS_FSCONFIG, "fsconfig"}
	sysFsmount      = &call{unix.SYS_FSMOUNT, "fsmount"}
	sysFsopen       = &call{unix.SYS_FSOPEN, "fsopen"}
	sysIoctl        = &call{unix.SYS_IOCTL, "ioctl"}
	sysIoprioSet    = &call{unix.SYS_IOPRIO_SET, "ioprio_set"}
	sysKeyctl       = &call{unix.SYS_KEYCTL, "keyctl"}
	sysMountSetattr = &call{unix.SYS_MOUNT_SETATTR, "mount_setattr"}
	sysMoveMount    = &call{unix.SYS_MOVE_MOUNT, "move_mount"}
	sysOpenTree     = &call{unix.SYS_OPEN_TREE, "open_tree"}
	sysOpenat       = &call{unix.SYS_OPENAT, "openat"}
	sysOpenat2      = &call{unix.SYS_OPENAT2, "openat2"}
	sysPersonality  = &call{unix.SYS_PERSONALITY, "personality"}
	sysPivotRoot    = &call{unix.SYS_PIVOT_ROOT, "pivot_root"}
	sysPrctl        = &call{unix.SYS_PRCTL, "prctl"}
	sysPrlimit      = &call{unix.SYS_PRLIMIT64, "prlimit64"}
	sysRead         = &call{unix.SYS_READ, "read"}
	sysSchedSetattr = &call{unix.SYS_SCHED_SETATTR, "sched_setattr"}
	sysSeccomp      = &call{unix.SYS_SECCOMP, "seccomp"}
	sysSetdomain    = &call{unix.SYS_SETDOMAINNAME, "setdomainname"}
	sysSetgroups    = &call{unix.SYS_SETGROUPS, "setgroups"}
	sysSethostname  = &call{unix.SYS_SETHOSTNAME, "sethostname"}
	sysSetns        = &call{unix.SYS_SETNS, "setns"}
	sysSetresgid    = &call{unix.SYS_SETRESGID, "setresgid"}
	sysSetresuid    = &call{unix.SYS_SETRESUID, "setresuid"}
	sysSetsid       = &call{unix.SYS_SETSID, "setsid"}
	sysSigaction    = &call{unix.SYS_RT_SIGACTION, "rt_sigaction"}
	sysSigprocmask  = &call{unix.SYS_RT_SIGPROCMASK, "rt_sigprocmask"}
	sysUmask        = &call{unix.SYS_UMASK, "umask"}
	sysUmount       = &call{unix.SYS_UMOUNT2, "umount2"}
	sysUnshare      = &call{unix.SYS_UNSHARE, "unshare"}
	sysWrite        = &call{unix.SYS_WRITE, "write"}
)
