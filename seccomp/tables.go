package seccomp

import (
	"strconv"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

//go:generate go run ./internal/mksyscalls

// The kernel's names of the architectures a filter sees (AUDIT_ARCH_*).
const (
	auditX86_64  = 0xc000003e
	auditI386    = 0x40000003
	auditAarch64 = 0xc00000b7
	auditArm     = 0x40000028
)

const (
	x32Bit = 0x40000000 // set in the numbers of x32 calls, which share AUDIT_ARCH_X86_64
	// The private calls of 32-bit ARM stand far above the others.
	armPrivate = 0x0f0000
)

// table is the calls of one calling convention.
type table struct {
	numbers map[string]uint32
	// socketcall and ipc are the multiplexers of 32-bit x86; 0: there is none.
	socketcall, ipc uint32
	wide            bool // arguments have 64 bits
}

// tableOf finds the calls of an architecture, nil for one that cannot run on amd64 or arm64.
var tableOf = func() func(specs.Arch) *table {
	load := map[specs.Arch]func() *table{
		specs.ArchX86_64:  sync.OnceValue(func() *table { return &table{numbers: parseTable(syscallsX8664), wide: true} }),
		specs.ArchX86:     sync.OnceValue(func() *table { return &table{numbers: parseTable(syscallsI386), socketcall: 102, ipc: 117} }),
		specs.ArchX32:     sync.OnceValue(func() *table { return &table{numbers: x32Numbers(), wide: true} }),
		specs.ArchAARCH64: sync.OnceValue(func() *table { return &table{numbers: parseTable(syscallsAarch64), wide: true} }),
		specs.ArchARM:     sync.OnceValue(func() *table { return &table{numbers: armNumbers()} }),
	}
	return func(a specs.Arch) *table {
		if f := load[a]; f != nil {
			return f()
		}
		return nil
	}
}()

func parseTable(text string) map[string]uint32 {
	numbers := make(map[string]uint32, 512)
	for line := range strings.SplitSeq(text, "\n") {
		number, name, _ := strings.Cut(line, " ")
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			panic("the generated table of system calls is broken: " + err.Error())
		}
		numbers[name] = uint32(n)
	}
	return numbers
}

// x32Numbers are x86-64's with a bit set, but for those whose structures differ: they have numbers of their own from 512 on, and some do not exist
// (arch/x86/entry/syscalls/syscall_64.tbl, "64" and "x32" in its second column).
func x32Numbers() map[string]uint32 {
	const absent = "uselib _sysctl create_module get_kernel_syms query_module nfsservctl set_thread_area get_thread_area epoll_ctl_old epoll_wait_old vserver"
	const own = "rt_sigaction rt_sigreturn ioctl readv writev recvfrom sendmsg recvmsg execve ptrace rt_sigpending rt_sigtimedwait rt_sigqueueinfo " +
		"sigaltstack timer_create mq_notify kexec_load waitid set_robust_list get_robust_list vmsplice move_pages preadv pwritev rt_tgsigqueueinfo " +
		"recvmmsg sendmmsg process_vm_readv process_vm_writev setsockopt getsockopt io_setup io_submit execveat preadv2 pwritev2"
	numbers := parseTable(syscallsX8664)
	for name := range strings.FieldsSeq(absent) {
		delete(numbers, name)
	}
	for i, name := range strings.Fields(own) {
		numbers[name] = uint32(512 + i)
	}
	for name := range numbers {
		numbers[name] |= x32Bit
	}
	return numbers
}

// armNumbers adds ARM's private calls (arch/arm/include/uapi/asm/unistd.h), which x/sys leaves out.
func armNumbers() map[string]uint32 {
	numbers := parseTable(syscallsArm32)
	for i, name := range []string{"breakpoint", "cacheflush", "usr26", "usr32", "set_tls", "get_tls"} {
		numbers[name] = uint32(armPrivate + 1 + i)
	}
	return numbers
}

// multiplexed finds the multiplexer through which a call is reached too, and the value of its first argument.
func (t *table) multiplexed(name string) (number uint32, value uint64, ok bool) {
	if t.socketcall == 0 {
		return 0, 0, false
	}
	// include/uapi/linux/net.h
	for i, n := range strings.Fields("socket bind connect listen accept getsockname getpeername socketpair send recv sendto recvfrom " +
		"shutdown setsockopt getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg") {
		if n == name {
			return t.socketcall, uint64(i + 1), true
		}
	}
	// include/uapi/linux/ipc.h
	switch name {
	case "semop":
		value = 1
	case "semget":
		value = 2
	case "semctl":
		value = 3
	case "semtimedop":
		value = 4
	case "msgsnd":
		value = 11
	case "msgrcv":
		value = 12
	case "msgget":
		value = 13
	case "msgctl":
		value = 14
	case "shmat":
		value = 21
	case "shmdt":
		value = 22
	case "shmget":
		value = 23
	case "shmctl":
		value = 24
	default:
		return 0, 0, false
	}
	return t.ipc, value, true
}
