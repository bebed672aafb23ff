package seccomp

import specs "github.com/opencontainers/runtime-spec/specs-go"

// instruction is a struct sock_filter.
type instruction struct {
	op     uint16
	jt, jf uint8
	k      uint32
}

// The instructions of classic BPF that filters need (include/uapi/linux/bpf_common.h). Those on call number and architecture are all of a kind that
// the kernel can evaluate ahead, so that it answers calls which are always allowed from a bitmap (since 5.11).
const (
	opLoad = 0x20 // LD W ABS
	opJump = 0x05 // JMP JA
	opEQ   = 0x15 // JMP JEQ K
	opGT   = 0x25 // JMP JGT K
	opGE   = 0x35 // JMP JGE K
	opAnd  = 0x54 // ALU AND K
	opRet  = 0x06 // RET K
)

// Offsets in struct seccomp_data. Both supported architectures are little-endian: the low half of an argument comes first.
const (
	offsetNumber = 0
	offsetArch   = 4
	offsetArgs   = 16
)

func load(offset uint32) instruction { return instruction{op: opLoad, k: offset} }
func ret(value uint32) instruction   { return instruction{op: opRet, k: value} }

func jump(op uint16, k uint32, jt, jf int) instruction {
	return instruction{op: op, jt: uint8(jt), jf: uint8(jf), k: k}
}

// maxSkip is how far a conditional jump reaches.
const maxSkip = 255

// skipUnless runs body, which returns on every path, if the accumulator equals k.
func skipUnless(k uint32, body []instruction) []instruction {
	if len(body) <= maxSkip {
		return append([]instruction{jump(opEQ, k, 0, len(body))}, body...)
	}
	return append([]instruction{jump(opEQ, k, 1, 0), {op: opJump, k: uint32(len(body))}}, body...)
}

// search finds the span of the call number in the accumulator by halving; every path returns.
func search(spans []span) []instruction {
	if len(spans) == 1 {
		return decide(spans[0].do)
	}
	mid := len(spans) / 2
	low, high := search(spans[:mid]), search(spans[mid:])
	var code []instruction
	if len(low) <= maxSkip {
		code = append(code, jump(opGE, spans[mid].from, len(low), 0))
	} else {
		code = append(code, jump(opGE, spans[mid].from, 0, 1), instruction{op: opJump, k: uint32(len(low))})
	}
	return append(append(code, low...), high...)
}

// decide tries the alternatives of a verdict in their order.
func decide(v *verdict) []instruction {
	var code []instruction
	for _, a := range v.alternatives {
		one := []instruction{ret(a.ret)}
		for i := len(a.conditions) - 1; i >= 0; i-- {
			one = append(test(a.conditions[i], len(one)), one...)
		}
		code = append(code, one...)
	}
	return append(code, ret(v.otherwise))
}

// test goes on behind itself if the condition holds, else skips the rest of the alternative, which has that many instructions.
func test(c condition, rest int) []instruction {
	low, high := uint32(c.value), uint32(c.value>>32)
	offset := uint32(offsetArgs + 8*c.index)
	loadLow, loadHigh := load(offset), load(offset+4)
	if !c.wide {
		// The kernel passes 32-bit arguments with nothing above.
		return testLow(c, loadLow, low, rest)
	}
	switch c.op {
	case specs.OpEqualTo:
		return []instruction{loadHigh, jump(opEQ, high, 0, 2+rest), loadLow, jump(opEQ, low, 0, rest)}
	case specs.OpNotEqual:
		return []instruction{loadHigh, jump(opEQ, high, 0, 2), loadLow, jump(opEQ, low, rest, 0)}
	case specs.OpMaskedEqual:
		return []instruction{
			loadHigh, {op: opAnd, k: high}, jump(opEQ, uint32(c.two>>32), 0, 3+rest),
			loadLow, {op: opAnd, k: low}, jump(opEQ, uint32(c.two), 0, rest),
		}
	case specs.OpGreaterThan, specs.OpGreaterEqual:
		op := uint16(opGT)
		if c.op == specs.OpGreaterEqual {
			op = opGE
		}
		return []instruction{
			loadHigh, jump(opGT, high, 3, 0), jump(opEQ, high, 0, 2+rest),
			loadLow, jump(op, low, 0, rest),
		}
	default: // less than, less or equal: what is not greater or equal, not greater
		op := uint16(opGE)
		if c.op == specs.OpLessEqual {
			op = opGT
		}
		return []instruction{
			loadHigh, jump(opGT, high, 3+rest, 0), jump(opEQ, high, 0, 2),
			loadLow, jump(op, low, rest, 0),
		}
	}
}

func testLow(c condition, loadLow instruction, low uint32, rest int) []instruction {
	switch c.op {
	case specs.OpEqualTo:
		return []instruction{loadLow, jump(opEQ, low, 0, rest)}
	case specs.OpNotEqual:
		return []instruction{loadLow, jump(opEQ, low, rest, 0)}
	case specs.OpMaskedEqual:
		return []instruction{loadLow, {op: opAnd, k: low}, jump(opEQ, uint32(c.two), 0, rest)}
	case specs.OpGreaterThan:
		return []instruction{loadLow, jump(opGT, low, 0, rest)}
	case specs.OpGreaterEqual:
		return []instruction{loadLow, jump(opGE, low, 0, rest)}
	case specs.OpLessThan:
		return []instruction{loadLow, jump(opGE, low, rest, 0)}
	default:
		return []instruction{loadLow, jump(opGT, low, rest, 0)}
	}
}
