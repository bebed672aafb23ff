package launch

import (
	"encoding/binary"
	"syscall"

	"golang.org/x/sys/unix"
)

// Program is a launch program: system calls in their order, and the data that they point to. It is built by appending and
// has no effect until its image is executed.
//
//	op ──ok──────────────> next op, or onSuccess ops further
//	 ├──ignored errno────> next op, or onIgnored ops further
//	 ├──fork, parent─────> reports {-1, pid}, exits with 0
//	 └──other errno──────> reports {index, errno}, exits with 127
type Program struct {
	ops   []op
	data  []byte
	links []link   // pointers inside data to data
	files []string // names of descriptors 0, 1, 2, ... for the text
	slots []string // names of the slots for the text, in the order they were made
}

// op is one system call.
type op struct {
	call                 call
	args                 []arg
	result               slot         // where the result goes
	ignore               []unix.Errno // at most four errnos that are no failure
	purpose              string       // "mounting /proc": what it is for, in the words of the operator
	role                 role         // how a failure is told
	fold                 string       // the text of a run of like ops, printed once
	onSuccess, onIgnored uint16       // how many ops to skip
	forks                bool         // the parent reports the child and exits
	between              bool         // the child is not the one that counts
}

// role says which op a failure belongs to where the sentence depends on it.
type role uint8

const (
	roleSetup role = iota
	roleExec
	roleWorkingDir
)

// slot is a place in the data that takes a result: 8 bytes. The zero slot is none.
type slot struct{ offset, number int }

// ref is a place in the data.
type ref struct{ offset int }

type link struct{ at, to int }

type argKind uint8

const (
	immediate argKind = iota
	pointer           // address of data
	result            // value of a slot
)

type arg struct {
	kind  argKind
	value uint64
	text  string
}

func num(v uint64) arg                { return arg{value: v, text: dec(v)} }
func named(v uint64, text string) arg { return arg{value: v, text: text} }

// cwd is AT_FDCWD; with absolute paths only where nothing untrusted can be in the way.
func cwd() arg { return arg{value: uint64(1<<64 - 100), text: "AT_FDCWD"} }

// file adds a descriptor to those the child gets and answers its number as an argument.
func (p *Program) file(name string) arg {
	p.files = append(p.files, name)
	return p.fd(len(p.files) - 1)
}

func (p *Program) fd(n int) arg {
	return arg{value: uint64(n), text: dec(uint64(n)) + "<" + p.files[n] + ">"}
}

func (p *Program) align(n int) int {
	for len(p.data)%n != 0 {
		p.data = append(p.data, 0)
	}
	return len(p.data)
}

// bytes puts b into the data.
func (p *Program) bytes(b []byte) ref {
	at := p.align(8)
	p.data = append(p.data, b...)
	return ref{at}
}

func (p *Program) cstring(s string) ref {
	at := len(p.data)
	p.data = append(append(p.data, s...), 0)
	return ref{at}
}

// str is a pointer to a C string.
func (p *Program) str(s string) arg {
	return arg{kind: pointer, value: uint64(p.cstring(s).offset), text: quote(s)}
}

// mem is a pointer to bytes.
func (p *Program) mem(b []byte, text string) arg {
	return arg{kind: pointer, value: uint64(p.bytes(b).offset), text: text}
}

// list is a pointer to a NULL-terminated array of C strings.
func (p *Program) list(values []string, text string) arg {
	refs := make([]ref, len(values))
	for i, v := range values {
		refs[i] = p.cstring(v)
	}
	at := p.align(8)
	p.data = append(p.data, make([]byte, 8*(len(values)+1))...)
	for i, r := range refs {
		p.links = append(p.links, link{at + 8*i, r.offset})
	}
	return arg{kind: pointer, value: uint64(at), text: text}
}

// slot makes a place for a result. Its value is -1 until a call has put one there, so that a descriptor that was not opened is never
// descriptor 0.
func (p *Program) slot(name string) slot {
	at := p.align(8)
	p.data = binary.LittleEndian.AppendUint64(p.data, 1<<64-1)
	p.slots = append(p.slots, name)
	return slot{offset: at, number: len(p.slots)}
}

// value is what the slot holds when the op runs.
func (p *Program) value(s slot) arg {
	return arg{kind: result, value: uint64(s.offset), text: "%" + p.slots[s.number-1]}
}

// do appends a system call and answers it, to be qualified.
func (p *Program) do(purpose string, c call, args ...arg) *op {
	p.ops = append(p.ops, op{call: c, args: args, purpose: purpose})
	return &p.ops[len(p.ops)-1]
}

func (o *op) into(s slot) *op                 { o.result = s; return o }
func (o *op) ignoring(errs ...unix.Errno) *op { o.ignore = append(o.ignore, errs...); return o }
func (o *op) as(r role) *op                   { o.role = r; return o }
func (o *op) folded(text string) *op          { o.fold = text; return o }

// orSkip jumps over the next n ops when the error was ignored.
func (o *op) orSkip(n uint16) *op { o.onIgnored = n; return o }

// thenSkip jumps over the next n ops on success.
func (o *op) thenSkip(n uint16) *op { o.onSuccess = n; return o }

// open, with O_CLOEXEC always: nothing that a program opens survives its execve.
func (p *Program) openat(purpose string, dir arg, path string, flags int, text string) slot {
	s := p.slot("open" + dec(uint64(len(p.slots))))
	p.do(purpose, sysOpenat, dir, p.str(path), named(uint64(flags|unix.O_CLOEXEC), text+"|O_CLOEXEC"), num(0)).into(s)
	return s
}

// openBeneath opens path below dir with no symbolic link on the way, of whatever kind.
func (p *Program) openBeneath(purpose string, dir arg, path string, flags uint64, text string) *op {
	s := p.slot("open" + dec(uint64(len(p.slots))))
	how := binary.LittleEndian.AppendUint64(nil, flags|unix.O_CLOEXEC)
	how = binary.LittleEndian.AppendUint64(how, 0)
	how = binary.LittleEndian.AppendUint64(how, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_MAGICLINKS)
	return p.do(purpose, sysOpenat2, dir, p.str(path), p.mem(how, "{"+text+"|O_CLOEXEC, RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS}"), num(uint64(len(how)))).into(s)
}

// attach moves a detached mount on to a target, both descriptors.
func (p *Program) attach(purpose string, mount, target arg) *op {
	return p.do(purpose, sysMoveMount, mount, p.str(""), target, p.str(""),
		named(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH, "F_EMPTY_PATH|T_EMPTY_PATH"))
}

func (p *Program) write(purpose string, fd arg, content string) *op {
	return p.do(purpose, sysWrite, fd, p.mem([]byte(content), quote(content)), num(uint64(len(content))))
}

// errnoOf makes the kernel's number an error.
func errnoOf(n int) syscall.Errno { return syscall.Errno(n) } // a kernel errno is small and positive

// reparent clones the process; the child goes on as a sibling with the same parent, which learns of it by the report.
func (p *Program) reparent(purpose string) *op {
	return p.clone(purpose, unix.CLONE_PARENT, "CLONE_PARENT", arg{})
}

// moveInto clones the process into a cgroup v2 directory. The child goes on, until another clone makes the one that counts.
func (p *Program) moveInto(purpose string, cgroup arg) {
	o := p.clone(purpose, unix.CLONE_PARENT|unix.CLONE_INTO_CGROUP, "CLONE_PARENT|CLONE_INTO_CGROUP, cgroup="+cgroup.text, cgroup)
	o.between = true
}

func (p *Program) clone(purpose string, flags uint64, text string, cgroup arg) *op {
	raw := make([]byte, 88) // struct clone_args up to cgroup, CLONE_ARGS_SIZE_VER2
	binary.LittleEndian.PutUint64(raw, flags)
	binary.LittleEndian.PutUint64(raw[80:], cgroup.value)
	o := p.do(purpose, sysClone3, p.mem(raw, "{"+text+"}"), num(uint64(len(raw))))
	o.forks = true
	return o
}
