#include "textflag.h"

// The interpreter of launch programs; interpreter.go has the layout of what it reads. It uses registers only, no stack and no memory but the
// program's data, and is position independent: its bytes are copied into an executable of their own and never run here.
//
//	R12 op   R13 data   R14 index of op   R15 bits of op
TEXT interpret<>(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ $0x20000000, R13
	LEAQ 16(R13), R12
	XORL R14, R14

next:
	MOVL 4(R12), R15
	MOVQ 16(R12), DI
	TESTL $1, R15
	JZ   second
	MOVQ (DI), DI

second:
	MOVQ 24(R12), SI
	TESTL $2, R15
	JZ   third
	MOVQ (SI), SI

third:
	MOVQ 32(R12), DX
	TESTL $4, R15
	JZ   fourth
	MOVQ (DX), DX

fourth:
	MOVQ 40(R12), R10
	TESTL $8, R15
	JZ   fifth
	MOVQ (R10), R10

fifth:
	MOVQ 48(R12), R8
	TESTL $16, R15
	JZ   sixth
	MOVQ (R8), R8

sixth:
	MOVQ 56(R12), R9
	TESTL $32, R15
	JZ   enter
	MOVQ (R9), R9

enter:
	MOVL (R12), AX
	SYSCALL
	CMPQ AX, $-4095
	JCC  failed // unsigned: -4095 to -1
	TESTL $128, R15
	JZ   store
	TESTQ AX, AX
	JNZ  parent

store:
	MOVL 8(R12), CX
	TESTL CX, CX
	JZ   succeeded
	MOVQ AX, (R13)(CX*1)

succeeded:
	MOVWLZX 12(R12), CX

step:
	INCL CX
	ADDL CX, R14
	IMUL3Q $72, CX, CX
	ADDQ CX, R12
	JMP  next

failed:
	NEGQ AX
	MOVQ 64(R12), DX

ignored:
	TESTQ DX, DX
	JZ   report
	MOVWLZX DX, CX
	SHRQ $16, DX
	CMPL CX, AX
	JNE  ignored
	MOVWLZX 14(R12), CX
	JMP  step

report:
	MOVL R14, (R13)
	MOVL $127, R14
	JMP  tell

parent:
	MOVL $-1, (R13)
	XORL R14, R14
	TESTL $64, R15
	JZ   tell
	MOVL $-2, (R13)

tell:
	MOVL AX, 4(R13)
	MOVL $1, AX // write
	MOVL $3, DI
	MOVQ R13, SI
	MOVL $8, DX
	SYSCALL
	MOVL $231, AX // exit_group
	MOVL R14, DI
	SYSCALL
	INT  $3
	LONG $0xfeca0df0
	LONG $0x444d4853
	LONG $0x21444e45
	RET

// func interpreterAddress() unsafe.Pointer
TEXT ·interpreterAddress(SB), NOSPLIT, $0-8
	LEAQ interpret<>(SB), AX
	MOVQ AX, ret+0(FP)
	RET
