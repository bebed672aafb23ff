// Package devicefilter decides about access to devices on cgroup v2, by eBPF programs. It is apart from package cgroups because the libraries that
// load programs are a megabyte, which those that never limit devices (shimlet) need not hold in memory.
package devicefilter

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/cgroups"
)

// programName tells our programs from others' (systemd's) on the same cgroup.
const programName = "shimd_devices"

// Filter loads eBPF programs of type BPF_PROG_TYPE_CGROUP_DEVICE, which on v2 decide about access to devices, and keeps them by
// their rules: verifying one costs 0.3 ms, attaching one that is loaded 3 µs, and nearly all containers of a node have the same rules.
type Filter struct {
	mu     sync.Mutex
	loaded map[string]*ebpf.Program
}

// maxPrograms bounds what is kept. A program that is attached lives on in the kernel without us.
const maxPrograms = 64

var _ cgroups.DeviceFilter = (*Filter)(nil)

// New makes a filter without programs.
func New() *Filter {
	return &Filter{loaded: map[string]*ebpf.Program{}}
}

// Attach puts rules on the cgroup whose directory is open, in place of those that an earlier Attach put there, in one step: at no time is everything
// allowed or denied.
func (f *Filter) Attach(dir *os.File, rules []cgroups.DeviceRule) error {
	fd := int(dir.Fd())
	f.mu.Lock()
	defer f.mu.Unlock()
	program, err := f.program(rules)
	if err != nil {
		return err
	}
	old, same, err := attached(fd, program)
	if err != nil {
		return fmt.Errorf("devices: looking for the program of %s: %w", dir.Name(), err)
	}
	if same {
		return nil
	}
	options := link.RawAttachProgramOptions{Target: fd, Program: program, Attach: ebpf.AttachCGroupDevice, Flags: unix.BPF_F_ALLOW_MULTI}
	if old != nil {
		defer old.Close()
		options.Anchor = link.ReplaceProgram(old) // from 5.6 on
	}
	if err := link.RawAttachProgram(options); err != nil {
		return fmt.Errorf("devices: attaching the program to %s: %w", dir.Name(), err)
	}
	return nil
}

// attached finds our program on a cgroup: same when it is the very one.
func attached(dirFD int, program *ebpf.Program) (old *ebpf.Program, same bool, err error) {
	on, err := link.QueryPrograms(link.QueryOptions{Target: dirFD, Attach: ebpf.AttachCGroupDevice})
	if err != nil {
		return nil, false, err
	}
	info, err := program.Info()
	if err != nil {
		return nil, false, err
	}
	own, _ := info.ID()
	for _, p := range on.Programs {
		if p.ID == own {
			return nil, true, nil
		}
		other, err := ebpf.NewProgramFromID(p.ID)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, false, err
		}
		if info, err := other.Info(); err == nil && info.Name == programName {
			return other, false, nil
		}
		_ = other.Close()
	}
	return nil, false, nil
}

// program loads the program for the rules, or takes it from before.
func (f *Filter) program(rules []cgroups.DeviceRule) (*ebpf.Program, error) {
	key := fmt.Sprint(rules)
	if p, found := f.loaded[key]; found {
		return p, nil
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: programName, Type: ebpf.CGroupDevice, AttachType: ebpf.AttachCGroupDevice,
		Instructions: instructions(rules), License: "Apache",
	})
	if err != nil {
		return nil, fmt.Errorf("devices: loading the program for %d rules (it needs CAP_BPF or CAP_SYS_ADMIN outside of user namespaces): %w", len(rules), err)
	}
	for k, p := range f.loaded {
		if len(f.loaded) < maxPrograms {
			break
		}
		_ = p.Close()
		delete(f.loaded, k)
	}
	f.loaded[key] = program
	return program, nil
}

// instructions compiles rules. What is asked is one to three of read, write, mknod; of each of them the last rule that says
// something about it decides, so the program walks from the last rule to the first and strikes out what is allowed, until nothing
// is left, or something is denied. (containerd's cgroup2.DeviceFilter 3.1.3 isn't used: there a rule that allows one way of access
// lets pass a request for several, so "r" opens for writing, too.)
func instructions(rules []cgroups.DeviceRule) asm.Instructions {
	const kind, asked, major, minor, scratch = asm.R2, asm.R3, asm.R4, asm.R5, asm.R1
	// R1 is struct bpf_cgroup_dev_ctx { __u32 access_type /* access << 16 | type */, major, minor; }
	program := asm.Instructions{
		asm.LoadMem(kind, asm.R1, 0, asm.Word),
		asm.Mov.Reg(asked, kind),
		asm.And.Imm(kind, 0xFFFF),
		asm.RSh.Imm(asked, 16),
		asm.LoadMem(major, asm.R1, 4, asm.Word),
		asm.LoadMem(minor, asm.R1, 8, asm.Word),
	}
	allows := false
	for i := len(rules) - 1; i >= 0; i-- {
		r := rules[i]
		next := fmt.Sprintf("rule-%d", i-1)
		if i == 0 {
			next = "deny"
		}
		start := len(program)
		switch r.Kind {
		case 'c':
			program = append(program, asm.JNE.Imm(kind, unix.BPF_DEVCG_DEV_CHAR, next))
		case 'b':
			program = append(program, asm.JNE.Imm(kind, unix.BPF_DEVCG_DEV_BLOCK, next))
		}
		if r.Major >= 0 {
			program = append(program, asm.JNE.Imm(major, int32(r.Major), next))
		}
		if r.Minor >= 0 {
			program = append(program, asm.JNE.Imm(minor, int32(r.Minor), next))
		}
		bits := accessBits(r.Access)
		if r.Allow {
			allows = true
			program = append(program, asm.And.Imm(asked, accessBits("rwm")&^bits), asm.JEq.Imm(asked, 0, "allow"))
		} else {
			program = append(program, asm.Mov.Reg(scratch, asked), asm.And.Imm(scratch, bits), asm.JNE.Imm(scratch, 0, "deny"))
		}
		program[start] = program[start].WithSymbol(fmt.Sprintf("rule-%d", i))
	}
	program = append(program, asm.Mov.Imm(asm.R0, 0).WithSymbol("deny"), asm.Return())
	if allows { // the verifier refuses instructions that nothing reaches
		program = append(program, asm.Mov.Imm(asm.R0, 1).WithSymbol("allow"), asm.Return())
	}
	return program
}

func accessBits(access string) int32 {
	var bits int32
	for _, c := range access {
		switch c {
		case 'r':
			bits |= unix.BPF_DEVCG_ACC_READ
		case 'w':
			bits |= unix.BPF_DEVCG_ACC_WRITE
		case 'm':
			bits |= unix.BPF_DEVCG_ACC_MKNOD
		}
	}
	return bits
}
