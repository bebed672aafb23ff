package seccomp

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Filter is a program that the kernel can load by seccomp(SECCOMP_SET_MODE_FILTER).
type Filter struct {
	Program []byte // an array of struct sock_filter, 8 bytes each, in the machine's byte order
	Flags   uint32 // SECCOMP_FILTER_FLAG_*
}

// Len is the number of instructions.
func (f *Filter) Len() int { return len(f.Program) / 8 }

// maxInstructions is the kernel's limit (BPF_MAXINSNS).
const maxInstructions = 4096

// The kernel's values of actions (include/uapi/linux/seccomp.h).
const (
	retKillThread  = 0x00000000
	retKillProcess = 0x80000000
	retTrap        = 0x00030000
	retErrno       = 0x00050000
	retTrace       = 0x7ff00000
	retLog         = 0x7ffc0000
	retAllow       = 0x7fff0000
)

const (
	eperm  = 1
	enosys = 38
)

// Machine is what a filter is compiled for.
type Machine struct {
	Arch string // as GOARCH: amd64 or arm64
	// X32 tells that the kernel has the x32 calling convention, which few are built with. Without it all such calls fail with ENOSYS, so the filter
	// says just that, and is a third shorter.
	X32 bool
}

// Compile makes a filter of a resolved profile. The meaning is that of runc with libseccomp:
//
//   - A rule without conditions decides its calls alone; else the first rule of the profile whose conditions all hold decides, else the default action.
//     Two conditions on the same argument are alternatives, not both needed.
//   - Rules with the default action, names that this architecture does not have and architectures that cannot run here are left out.
//   - Calls newer than the newest one that the profile names fail with ENOSYS, so that programs fall back to older
//     ones, unless the default action lets calls through.
//   - Calls by an architecture that the profile does not have kill the thread.
//
// The program is a balanced search over ranges of call numbers with the same answer: for the default profile some hundred instructions
// instead of libseccomp's thousands, and a short path for each call, which the kernel walks for every call number when it loads the filter.
func Compile(profile *specs.LinuxSeccomp, m Machine) (*Filter, error) {
	flags, err := filterFlags(profile.Flags)
	if err != nil {
		return nil, err
	}
	if profile.ListenerPath != "" || profile.ListenerMetadata != "" {
		return nil, fmt.Errorf("seccomp profile: listenerPath and listenerMetadata are not supported: %w", errdefs.ErrNotImplemented)
	}
	sections, err := sectionsOf(profile, m)
	if err != nil {
		return nil, err
	}
	var code []instruction
	for _, s := range slices.Backward(sections) {
		body := append([]instruction{load(offsetNumber)}, search(s.spans)...)
		code = append(skipUnless(s.audit, body), code...)
	}
	code = append([]instruction{load(offsetArch)}, code...)
	code = append(code, ret(retKillThread))
	if len(code) > maxInstructions {
		return nil, fmt.Errorf("seccomp profile: its filter has %d instructions, the kernel takes %d: use fewer conditions: %w", len(code), maxInstructions, errdefs.ErrInvalidArgument)
	}
	return &Filter{Program: encode(code), Flags: flags}, nil
}

// section is what is done for calls of one AUDIT_ARCH.
type section struct {
	audit uint32
	spans []span
}

// span is a range of call numbers, up to the next span's first one.
type span struct {
	from uint32
	do   *verdict
}

// verdict is what happens to a call: the first of alternatives whose conditions hold, else otherwise.
type verdict struct {
	alternatives []alternative
	otherwise    uint32
}

type alternative struct {
	conditions []condition
	ret        uint32
}

type condition struct {
	index      uint
	op         specs.LinuxSeccompOperator
	value, two uint64
	wide       bool
}

func sectionsOf(profile *specs.LinuxSeccomp, m Machine) ([]section, error) {
	has := func(a specs.Arch) bool { return slices.Contains(profile.Architectures, a) }
	var sections []section
	switch m.Arch {
	case "amd64":
		native, err := numbersOf(profile, tableOf(specs.ArchX86_64))
		if err != nil {
			return nil, err
		}
		spans := native.spans(0)
		switch {
		case has(specs.ArchX32) && m.X32:
			x32, err := numbersOf(profile, tableOf(specs.ArchX32))
			if err != nil {
				return nil, err
			}
			spans = append(spans, x32.spans(x32Bit)...)
		case has(specs.ArchX32):
			spans = append(spans, span{x32Bit, &verdict{otherwise: retErrno | enosys}})
		default:
			// -1 is what a tracer leaves in place of a call that it skipped.
			spans = append(spans,
				span{x32Bit, &verdict{otherwise: retKillThread}},
				span{0xffffffff, &verdict{otherwise: native.fallback}})
		}
		sections = append(sections, section{auditX86_64, spans})
		if has(specs.ArchX86) {
			i386, err := numbersOf(profile, tableOf(specs.ArchX86))
			if err != nil {
				return nil, err
			}
			sections = append(sections, section{auditI386, i386.spans(0)})
		}
	case "arm64":
		native, err := numbersOf(profile, tableOf(specs.ArchAARCH64))
		if err != nil {
			return nil, err
		}
		sections = append(sections, section{auditAarch64, native.spans(0)})
		if has(specs.ArchARM) {
			arm, err := numbersOf(profile, tableOf(specs.ArchARM))
			if err != nil {
				return nil, err
			}
			sections = append(sections, section{auditArm, arm.spans(0)})
		}
	default:
		return nil, fmt.Errorf("seccomp: no filters for %s: %w", m.Arch, errdefs.ErrNotImplemented)
	}
	for i := range sections {
		sections[i].spans = merge(sections[i].spans)
	}
	return sections, nil
}

// numbered are the verdicts of one table by call number.
type numbered struct {
	verdicts map[uint32]*verdict
	fallback uint32 // the default action
	newest   uint32 // the highest number that the profile names; 0: none
	unknown  uint32 // the answer to higher ones
}

func numbersOf(profile *specs.LinuxSeccomp, t *table) (*numbered, error) {
	fallback, err := action(profile.DefaultAction, profile.DefaultErrnoRet)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: defaultAction: %w", err)
	}
	n := &numbered{verdicts: map[uint32]*verdict{}, fallback: fallback, unknown: retErrno | enosys}
	switch profile.DefaultAction {
	case specs.ActAllow, specs.ActLog, specs.ActTrace:
		n.unknown = fallback
	}
	decided := map[uint32]bool{} // by a rule without conditions
	add := func(number uint32, alternatives []alternative, unconditional bool, ret uint32) {
		v := n.verdicts[number]
		if v == nil {
			v = &verdict{otherwise: fallback}
			n.verdicts[number] = v
		}
		switch {
		case decided[number]:
		case unconditional:
			*v = verdict{otherwise: ret}
			decided[number] = true
		default:
			v.alternatives = append(v.alternatives, alternatives...)
		}
	}
	for i, rule := range profile.Syscalls {
		ret, err := action(rule.Action, rule.ErrnoRet)
		if err != nil {
			return nil, fmt.Errorf("seccomp profile: syscalls[%d] (%v): %w", i, rule.Names, err)
		}
		alternatives, err := alternativesOf(rule.Args, ret, t.wide)
		if err != nil {
			return nil, fmt.Errorf("seccomp profile: syscalls[%d] (%v): %w", i, rule.Names, err)
		}
		for _, name := range rule.Names {
			number, known := t.numbers[name]
			if known && number&^x32Bit < armPrivate {
				n.newest = max(n.newest, number)
			}
			if ret == fallback {
				continue
			}
			if known {
				add(number, alternatives, len(rule.Args) == 0, ret)
			}
			// The multiplexer's other arguments are in memory, where a filter cannot look: a conditional rule holds there always if it refuses, never if it allows.
			if mux, value, ok := t.multiplexed(name); ok && (len(rule.Args) == 0 || rule.Action != specs.ActAllow) {
				add(mux, []alternative{{[]condition{{op: specs.OpEqualTo, value: value}}, ret}}, false, ret)
			}
		}
	}
	return n, nil
}

// spans covers the numbers from first on.
func (n *numbered) spans(first uint32) []span {
	fallback, unknown := &verdict{otherwise: n.fallback}, &verdict{otherwise: n.unknown}
	if n.newest == 0 {
		unknown = fallback // the profile says nothing about this architecture
	}
	list := []span{{first, fallback}}
	gap := func(number uint32) *verdict {
		if number > n.newest {
			return unknown
		}
		return fallback
	}
	numbers := slices.Sorted(maps.Keys(n.verdicts))
	for _, number := range numbers {
		list = append(list, span{number, n.verdicts[number]}, span{number + 1, gap(number + 1)})
	}
	if n.newest > 0 {
		list = append(list, span{n.newest + 1, unknown})
		// The newest one named may have no verdict of its own (it has the default action), and ARM's private calls stand above it.
		slices.SortStableFunc(list, func(a, b span) int {
			switch {
			case a.from < b.from:
				return -1
			case a.from > b.from:
				return 1
			}
			return 0
		})
	}
	return list
}

// merge drops spans that are empty or say the same as the one before.
func merge(spans []span) []span {
	var out []span
	for i, s := range spans {
		if i+1 < len(spans) && spans[i+1].from == s.from {
			continue
		}
		if len(out) > 0 {
			last := out[len(out)-1].do
			if last == s.do || (len(last.alternatives) == 0 && len(s.do.alternatives) == 0 && last.otherwise == s.do.otherwise) {
				continue
			}
		}
		out = append(out, s)
	}
	return out
}

// alternativesOf translates the conditions of a rule.
func alternativesOf(args []specs.LinuxSeccompArg, ret uint32, wide bool) ([]alternative, error) {
	var conditions []condition
	repeated := false
	for _, a := range args {
		if a.Index > 5 {
			return nil, fmt.Errorf("args: index %d, a call has arguments 0 to 5: %w", a.Index, errdefs.ErrInvalidArgument)
		}
		switch a.Op {
		case specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual:
		default:
			return nil, fmt.Errorf("args: unknown op %q: %w", a.Op, errdefs.ErrInvalidArgument)
		}
		if slices.ContainsFunc(conditions, func(c condition) bool { return c.index == a.Index }) {
			repeated = true
		}
		conditions = append(conditions, condition{index: a.Index, op: a.Op, value: a.Value, two: a.ValueTwo, wide: wide})
	}
	if !repeated {
		return []alternative{{conditions, ret}}, nil
	}
	var list []alternative
	for _, c := range conditions {
		list = append(list, alternative{[]condition{c}, ret})
	}
	return list, nil
}

// action is the kernel's value of an action.
func action(a specs.LinuxSeccompAction, errnoRet *uint) (uint32, error) {
	if errnoRet != nil && a != specs.ActErrno && a != specs.ActTrace {
		return 0, fmt.Errorf("errnoRet goes with SCMP_ACT_ERRNO and SCMP_ACT_TRACE, not with %s: %w", a, errdefs.ErrInvalidArgument)
	}
	data := uint32(eperm)
	if errnoRet != nil {
		if *errnoRet > 0xffff {
			return 0, fmt.Errorf("errnoRet %d is above 65535: %w", *errnoRet, errdefs.ErrInvalidArgument)
		}
		data = uint32(*errnoRet)
	}
	switch a {
	case specs.ActKill, specs.ActKillThread:
		return retKillThread, nil
	case specs.ActKillProcess:
		return retKillProcess, nil
	case specs.ActTrap:
		return retTrap, nil
	case specs.ActErrno:
		return retErrno | data, nil
	case specs.ActTrace:
		return retTrace | data, nil
	case specs.ActLog:
		return retLog, nil
	case specs.ActAllow:
		return retAllow, nil
	case specs.ActNotify:
		return 0, fmt.Errorf("SCMP_ACT_NOTIFY needs a listener, which this runtime does not have: %w", errdefs.ErrNotImplemented)
	}
	return 0, fmt.Errorf("unknown action %q: %w", a, errdefs.ErrInvalidArgument)
}

// filterFlags translates flags; none given means SPEC_ALLOW, as in runc: mitigations of speculation stay as the process had them.
func filterFlags(flags []specs.LinuxSeccompFlag) (uint32, error) {
	const log, specAllow = 2, 4
	if flags == nil {
		return specAllow, nil
	}
	var out uint32
	for _, f := range flags {
		switch f {
		case specs.LinuxSeccompFlagLog:
			out |= log
		case specs.LinuxSeccompFlagSpecAllow:
			out |= specAllow
		case "SECCOMP_FILTER_FLAG_TSYNC": // the process has one thread when it loads the filter
		default:
			return 0, fmt.Errorf("seccomp profile: flag %q is not supported: %w", f, errdefs.ErrNotImplemented)
		}
	}
	return out, nil
}

func encode(code []instruction) []byte {
	out := make([]byte, 0, 8*len(code))
	for _, i := range code {
		out = binary.NativeEndian.AppendUint16(out, i.op)
		out = append(out, i.jt, i.jf)
		out = binary.NativeEndian.AppendUint32(out, i.k)
	}
	return out
}
