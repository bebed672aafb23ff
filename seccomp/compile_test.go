package seccomp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// data is struct seccomp_data.
type data struct {
	number, arch uint32
	args         [6]uint64
}

// run interprets a filter as the kernel does, and refuses what the kernel would.
func run(f *Filter, d data) (uint32, error) {
	raw := binary.LittleEndian.AppendUint32(nil, d.number)
	raw = binary.LittleEndian.AppendUint32(raw, d.arch)
	raw = binary.LittleEndian.AppendUint64(raw, 0)
	for _, a := range d.args {
		raw = binary.LittleEndian.AppendUint64(raw, a)
	}
	var acc uint32
	for pc := 0; pc < f.Len(); pc++ {
		i := f.Program[8*pc:]
		op, jt, jf, k := binary.NativeEndian.Uint16(i), int(i[2]), int(i[3]), binary.NativeEndian.Uint32(i[4:])
		branch := func(taken bool) {
			if taken {
				pc += jt
			} else {
				pc += jf
			}
		}
		switch op {
		case opLoad:
			if k%4 != 0 || int(k) >= len(raw) {
				return 0, fmt.Errorf("load of offset %d", k)
			}
			acc = binary.LittleEndian.Uint32(raw[k:])
		case opAnd:
			acc &= k
		case opJump:
			pc += int(k)
		case opEQ:
			branch(acc == k)
		case opGT:
			branch(acc > k)
		case opGE:
			branch(acc >= k)
		case opRet:
			return k, nil
		default:
			return 0, fmt.Errorf("unknown instruction %#x", op)
		}
	}
	return 0, errors.New("ran over the end")
}

// naive says what a profile means, rule by rule, without any of the compiler's structures but its tables of numbers.
func naive(t *testing.T, p *specs.LinuxSeccomp, arch specs.Arch, number uint32, args [6]uint64) uint32 {
	t.Helper()
	tab := tableOf(arch)
	fallback, err := action(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		t.Fatal(err)
	}
	var newest uint32
	names := map[string]bool{}
	for n, v := range tab.numbers {
		if v == number {
			names[n] = true
		}
	}
	var conditional, unconditional *uint32
	for _, r := range p.Syscalls {
		ret, _ := action(r.Action, r.ErrnoRet)
		for _, n := range r.Names {
			v, known := tab.numbers[n]
			if known && v&^x32Bit < armPrivate {
				newest = max(newest, v)
			}
			if ret == fallback {
				continue
			}
			if names[n] {
				if len(r.Args) == 0 {
					if unconditional == nil {
						unconditional = &ret
					}
				} else if conditional == nil && holds(r.Args, args, tab.wide) {
					conditional = &ret
				}
			}
			if mux, value, ok := tab.multiplexed(n); ok && mux == number && uint32(args[0]) == uint32(value) && conditional == nil &&
				(len(r.Args) == 0 || r.Action != specs.ActAllow) {
				conditional = &ret
			}
		}
	}
	private := number >= armPrivate && len(names) > 0
	letsThrough := p.DefaultAction == specs.ActAllow || p.DefaultAction == specs.ActLog || p.DefaultAction == specs.ActTrace
	switch {
	case unconditional != nil:
		return *unconditional
	case conditional != nil:
		return *conditional
	case number > newest && newest > 0 && !letsThrough:
		if private && mentions(p, names, fallback) {
			return fallback
		}
		return retErrno | enosys
	}
	return fallback
}

// mentions: the call has a rule, whose conditions did not hold.
func mentions(p *specs.LinuxSeccomp, names map[string]bool, fallback uint32) bool {
	for _, r := range p.Syscalls {
		ret, _ := action(r.Action, r.ErrnoRet)
		for _, n := range r.Names {
			if names[n] && ret != fallback {
				return true
			}
		}
	}
	return false
}

func holds(conds []specs.LinuxSeccompArg, args [6]uint64, wide bool) bool {
	width := uint64(0xffffffff)
	if wide {
		width = ^uint64(0)
	}
	seen, repeated := map[uint]bool{}, false
	all, one := true, false
	for _, c := range conds {
		repeated = repeated || seen[c.Index]
		seen[c.Index] = true
		a, v, two := args[c.Index]&width, c.Value&width, c.ValueTwo&width
		var ok bool
		switch c.Op {
		case specs.OpEqualTo:
			ok = a == v
		case specs.OpNotEqual:
			ok = a != v
		case specs.OpLessThan:
			ok = a < v
		case specs.OpLessEqual:
			ok = a <= v
		case specs.OpGreaterThan:
			ok = a > v
		case specs.OpGreaterEqual:
			ok = a >= v
		case specs.OpMaskedEqual:
			ok = a&v == two
		}
		all, one = all && ok, one || ok
	}
	if repeated {
		return one
	}
	return all
}

// check compares filter and meaning for every call number of every architecture, and the numbers around them.
func check(t *testing.T, p *specs.LinuxSeccomp, goarch string, rng *rand.Rand) *Filter {
	t.Helper()
	f, err := Compile(p, Machine{Arch: goarch, X32: true})
	if errdefs.IsInvalidArgument(err) && len(p.Syscalls) < 100 {
		return nil // a random profile of too many conditions
	}
	if err != nil {
		t.Fatal(err)
	}
	audits := map[string]map[specs.Arch]uint32{
		"amd64": {specs.ArchX86_64: auditX86_64, specs.ArchX86: auditI386, specs.ArchX32: auditX86_64},
		"arm64": {specs.ArchAARCH64: auditAarch64, specs.ArchARM: auditArm},
	}[goarch]
	for arch, audit := range audits {
		native, _ := nativeArch(goarch)
		if arch != native && !slices.Contains(p.Architectures, arch) {
			continue
		}
		numbers := []uint32{}
		base := uint32(0)
		if arch == specs.ArchX32 {
			base = x32Bit
		}
		for n := range uint32(600) {
			numbers = append(numbers, base+n)
		}
		if arch == specs.ArchARM {
			numbers = append(numbers, 0xeffff, 0xf0000, 0xf0001, 0xf0002, 0xf0005, 0xf0006, 0xf0007, 0xffffffff)
		}
		for _, n := range numbers {
			for range 4 {
				d := data{number: n, arch: audit, args: arguments(p, rng, tableOf(arch).wide)}
				got, err := run(f, d)
				if err != nil {
					t.Fatal(err)
				}
				if want := naive(t, p, arch, n, d.args); got != want {
					t.Fatalf("%s call %d args %#x: filter says %#x, profile %#x", arch, n, d.args, got, want)
				}
			}
		}
	}
	if got, _ := run(f, data{number: 1, arch: 0x1234}); got != retKillThread {
		t.Errorf("a foreign architecture gets %#x", got)
	}
	return f
}

// arguments are often those that conditions speak of, or beside them.
func arguments(p *specs.LinuxSeccomp, rng *rand.Rand, wide bool) [6]uint64 {
	var args [6]uint64
	for i := range args {
		args[i] = rng.Uint64N(40)
	}
	if len(p.Syscalls) > 0 {
		for _, a := range p.Syscalls[rng.IntN(len(p.Syscalls))].Args {
			v := a.Value
			if a.Op == specs.OpMaskedEqual {
				v = a.ValueTwo | rng.Uint64()&^a.Value
			}
			args[a.Index] = v + rng.Uint64N(3) - 1 + rng.Uint64N(2)<<32
		}
	}
	if !wide {
		for i := range args {
			args[i] &= 0xffffffff
		}
	}
	return args
}

var amd64 = Machine{Arch: "amd64", X32: true}

func target(goarch string, caps ...string) Target {
	return Target{Arch: goarch, Kernel: 6, Major: 18, Capabilities: caps}
}

func TestDefaultProfile(t *testing.T) {
	for _, goarch := range []string{"amd64", "arm64"} {
		for _, caps := range [][]string{nil, {"CAP_SYS_ADMIN"}, {"CAP_SYS_PTRACE", "CAP_BPF"}} {
			p, err := Default().Resolve(target(goarch, caps...))
			if err != nil {
				t.Fatal(err)
			}
			f := check(t, p, goarch, rand.New(rand.NewPCG(1, 2)))
			t.Logf("%s %v: %d instructions", goarch, caps, f.Len())
		}
	}
}

func TestDefaultProfileKnownAnswers(t *testing.T) {
	p, err := Default().Resolve(target("amd64"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := Compile(p, amd64)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		d    data
		want uint32
	}{
		{"read", data{number: 0, arch: auditX86_64}, retAllow},
		{"i386 read", data{number: 3, arch: auditI386}, retAllow},
		{"unshare", data{number: 272, arch: auditX86_64}, retErrno | eperm},
		{"clone of a thread", data{number: 56, arch: auditX86_64, args: [6]uint64{0x3d0f00}}, retAllow},
		{"clone with a user namespace", data{number: 56, arch: auditX86_64, args: [6]uint64{0x10000000}}, retErrno | eperm},
		{"clone3", data{number: 435, arch: auditX86_64}, retErrno | enosys},
		{"socket AF_INET", data{number: 41, arch: auditX86_64, args: [6]uint64{2}}, retAllow},
		{"socket AF_ALG", data{number: 41, arch: auditX86_64, args: [6]uint64{38}}, retErrno | eperm},
		{"socket AF_VSOCK", data{number: 41, arch: auditX86_64, args: [6]uint64{40}}, retErrno | eperm},
		{"a call of the future", data{number: 900, arch: auditX86_64}, retErrno | enosys},
		{"an x32 call of the future", data{number: 900 | x32Bit, arch: auditX86_64}, retErrno | enosys},
	} {
		if got, err := run(f, c.d); err != nil || got != c.want {
			t.Errorf("%s: %#x, %v, want %#x", c.name, got, err, c.want)
		}
	}
}

// TestRandomProfiles compares filters with meanings for profiles of all ops and actions.
func TestRandomProfiles(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 7))
		p := randomProfile(rng)
		for _, goarch := range []string{"amd64", "arm64"} {
			check(t, p, goarch, rng)
		}
	}
}

func randomProfile(rng *rand.Rand) *specs.LinuxSeccomp {
	actions := []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActKillProcess, specs.ActTrap, specs.ActLog, specs.ActTrace}
	ops := []specs.LinuxSeccompOperator{specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual}
	names := []string{"no_such_call", "set_tls", "cacheflush", "socket", "bind", "shmget", "socketcall"}
	for n := range tableOf(specs.ArchX86_64).numbers {
		names = append(names, n)
	}
	slices.Sort(names)
	p := &specs.LinuxSeccomp{DefaultAction: actions[rng.IntN(len(actions))]}
	for _, a := range []specs.Arch{specs.ArchX86, specs.ArchX32, specs.ArchARM, specs.ArchMIPS} {
		if rng.IntN(3) > 0 {
			p.Architectures = append(p.Architectures, a)
		}
	}
	for range rng.IntN(20) {
		rule := specs.LinuxSyscall{Action: actions[rng.IntN(len(actions))]}
		if rule.Action == specs.ActErrno && rng.IntN(2) == 0 {
			e := uint(rng.IntN(100))
			rule.ErrnoRet = &e
		}
		for range 1 + rng.IntN(10) {
			rule.Names = append(rule.Names, names[rng.IntN(len(names))])
		}
		for range rng.IntN(4) {
			rule.Args = append(rule.Args, specs.LinuxSeccompArg{
				Index: uint(rng.IntN(6)), Op: ops[rng.IntN(len(ops))],
				Value: rng.Uint64N(8) << (8 * rng.IntN(6)), ValueTwo: rng.Uint64N(4) << (8 * rng.IntN(6)),
			})
		}
		p.Syscalls = append(p.Syscalls, rule)
	}
	return p
}

func TestX32WithoutTheProfilesConsentIsKilled(t *testing.T) {
	f, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow}, amd64)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := run(f, data{number: x32Bit | 1, arch: auditX86_64}); got != retKillThread {
		t.Errorf("x32 write: %#x", got)
	}
	if got, _ := run(f, data{number: 0xffffffff, arch: auditX86_64}); got != retAllow {
		t.Errorf("call -1: %#x", got)
	}
}

func TestKernelWithoutX32(t *testing.T) {
	p, err := Default().Resolve(target("amd64"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := Compile(p, Machine{Arch: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := run(f, data{number: x32Bit | 1, arch: auditX86_64}); got != retErrno|enosys {
		t.Errorf("x32 write: %#x", got)
	}
	if got, _ := run(f, data{number: 1, arch: auditX86_64}); got != retAllow {
		t.Errorf("write: %#x", got)
	}
}

func TestRefused(t *testing.T) {
	errno := uint(1)
	for name, p := range map[string]*specs.LinuxSeccomp{
		"notify":         {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"mount"}, Action: specs.ActNotify}}},
		"unknown action": {DefaultAction: "SCMP_ACT_DANCE"},
		"unknown flag":   {DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_DANCE"}},
		"errno of allow": {DefaultAction: specs.ActAllow, DefaultErrnoRet: &errno},
		"index":          {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"mount"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}}},
		"op":             {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"mount"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Op: "SCMP_CMP_XY"}}}}},
	} {
		if _, err := Compile(p, amd64); err == nil || !(errdefs.IsInvalidArgument(err) || errdefs.IsNotImplemented(err)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTooLong(t *testing.T) {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
	for i := range uint64(1500) {
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{"ioctl"}, Action: specs.ActAllow,
			Args: []specs.LinuxSeccompArg{{Index: 1, Op: specs.OpEqualTo, Value: i}}})
	}
	if _, err := Compile(p, amd64); !errdefs.IsInvalidArgument(err) {
		t.Errorf("1500 conditions: %v", err)
	}
	p.Syscalls = p.Syscalls[:700]
	p.Architectures = nil
	check(t, p, "amd64", rand.New(rand.NewPCG(3, 4))) // jumps further than a byte
}

func TestCache(t *testing.T) {
	c := NewCache(amd64, 2)
	a, b := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}, &specs.LinuxSeccomp{DefaultAction: specs.ActLog}
	first, _ := c.Compile(a)
	same, _ := c.Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow})
	other, _ := c.Compile(b)
	if first != same || first == other {
		t.Error("filters are not kept by content")
	}
	if _, err := c.Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActTrap}); err != nil {
		t.Fatal(err)
	}
	if again, _ := c.Compile(a); again == first {
		t.Error("the oldest was not dropped")
	}
}

func BenchmarkCompileDefault(b *testing.B) {
	p, _ := Default().Resolve(target("amd64"))
	for b.Loop() {
		if _, err := Compile(p, amd64); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkResolveAndCache(b *testing.B) {
	c, d := NewCache(amd64, 4), Default()
	for b.Loop() {
		p, _ := d.Resolve(target("amd64"))
		if _, err := c.Compile(p); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"mkdir","action":"SCMP_ACT_ERRNO"}]}`))
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],"syscalls":[null]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := Parse(raw)
		if err != nil {
			return
		}
		r, err := p.Resolve(target("amd64"))
		if err != nil {
			return
		}
		if filter, err := Compile(r, amd64); err == nil {
			if _, err := run(filter, data{number: 1, arch: auditX86_64}); err != nil {
				t.Fatal(err)
			}
		}
	})
}
