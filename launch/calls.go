package launch

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// call is a system call, by its number on this architecture.
type call uint32

// The calls that programs make.
const (
	sysCapset       call = unix.SYS_CAPSET
	sysChdir        call = unix.SYS_CHDIR
	sysChroot       call = unix.SYS_CHROOT
	sysClone        call = unix.SYS_CLONE
	sysClone3       call = unix.SYS_CLONE3
	sysClose        call = unix.SYS_CLOSE
	sysCloseRange   call = unix.SYS_CLOSE_RANGE
	sysExecve       call = unix.SYS_EXECVE
	sysExitGroup    call = unix.SYS_EXIT_GROUP
	sysFchdir       call = unix.SYS_FCHDIR
	sysFsconfig     call = unix.SYS_FSCONFIG
	sysFsmount      call = unix.SYS_FSMOUNT
	sysFsopen       call = unix.SYS_FSOPEN
	sysIoctl        call = unix.SYS_IOCTL
	sysIoprioSet    call = unix.SYS_IOPRIO_SET
	sysKeyctl       call = unix.SYS_KEYCTL
	sysMountSetattr call = unix.SYS_MOUNT_SETATTR
	sysMoveMount    call = unix.SYS_MOVE_MOUNT
	sysOpenTree     call = unix.SYS_OPEN_TREE
	sysOpenat       call = unix.SYS_OPENAT
	sysOpenat2      call = unix.SYS_OPENAT2
	sysPersonality  call = unix.SYS_PERSONALITY
	sysPivotRoot    call = unix.SYS_PIVOT_ROOT
	sysPpoll        call = unix.SYS_PPOLL
	sysPrctl        call = unix.SYS_PRCTL
	sysPrlimit      call = unix.SYS_PRLIMIT64
	sysRead         call = unix.SYS_READ
	sysSchedSetattr call = unix.SYS_SCHED_SETATTR
	sysSeccomp      call = unix.SYS_SECCOMP
	sysSetdomain    call = unix.SYS_SETDOMAINNAME
	sysSetgroups    call = unix.SYS_SETGROUPS
	sysSethostname  call = unix.SYS_SETHOSTNAME
	sysSetns        call = unix.SYS_SETNS
	sysSetresgid    call = unix.SYS_SETRESGID
	sysSetresuid    call = unix.SYS_SETRESUID
	sysSetsid       call = unix.SYS_SETSID
	sysSigaction    call = unix.SYS_RT_SIGACTION
	sysSigprocmask  call = unix.SYS_RT_SIGPROCMASK
	sysUmask        call = unix.SYS_UMASK
	sysUmount       call = unix.SYS_UMOUNT2
	sysUnshare      call = unix.SYS_UNSHARE
	sysWrite        call = unix.SYS_WRITE
)

// String is the call's name.
func (c call) String() string {
	switch c {
	case sysCapset:
		return "capset"
	case sysChdir:
		return "chdir"
	case sysChroot:
		return "chroot"
	case sysClone:
		return "clone"
	case sysClone3:
		return "clone3"
	case sysClose:
		return "close"
	case sysCloseRange:
		return "close_range"
	case sysExecve:
		return "execve"
	case sysExitGroup:
		return "exit_group"
	case sysFchdir:
		return "fchdir"
	case sysFsconfig:
		return "fsconfig"
	case sysFsmount:
		return "fsmount"
	case sysFsopen:
		return "fsopen"
	case sysIoctl:
		return "ioctl"
	case sysIoprioSet:
		return "ioprio_set"
	case sysKeyctl:
		return "keyctl"
	case sysMountSetattr:
		return "mount_setattr"
	case sysMoveMount:
		return "move_mount"
	case sysOpenTree:
		return "open_tree"
	case sysOpenat:
		return "openat"
	case sysOpenat2:
		return "openat2"
	case sysPersonality:
		return "personality"
	case sysPivotRoot:
		return "pivot_root"
	case sysPpoll:
		return "ppoll"
	case sysPrctl:
		return "prctl"
	case sysPrlimit:
		return "prlimit64"
	case sysRead:
		return "read"
	case sysSchedSetattr:
		return "sched_setattr"
	case sysSeccomp:
		return "seccomp"
	case sysSetdomain:
		return "setdomainname"
	case sysSetgroups:
		return "setgroups"
	case sysSethostname:
		return "sethostname"
	case sysSetns:
		return "setns"
	case sysSetresgid:
		return "setresgid"
	case sysSetresuid:
		return "setresuid"
	case sysSetsid:
		return "setsid"
	case sysSigaction:
		return "rt_sigaction"
	case sysSigprocmask:
		return "rt_sigprocmask"
	case sysUmask:
		return "umask"
	case sysUmount:
		return "umount2"
	case sysUnshare:
		return "unshare"
	case sysWrite:
		return "write"
	}
	return "syscall_" + strconv.FormatUint(uint64(c), 10)
}
