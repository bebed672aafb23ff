#include "textflag.h"

// The interpreter of launch programs; interpreter.go has the layout of what it reads. It uses registers only, no stack and no memory but the
// program's data, and is position independent: its bytes are copied into an executable of their own and never run here.
//
//	R19 op   R20 data   R21 index of op   R22 bits of op
TEXT interpret<>(SB), NOSPLIT|NOFRAME, $0-0
	MOVD $0x20000000, R20
	ADD  $16, R20, R19
	MOVD ZR, R21

next:
	MOVWU 4(R19), R22
	MOVD 16(R19), R0
	TBZ  $0, R22, second
	MOVD (R0), R0

second:
	MOVD 24(R19), R1
	TBZ  $1, R22, third
	MOVD (R1), R1

third:
	MOVD 32(R19), R2
	TBZ  $2, R22, fourth
	MOVD (R2), R2

fourth:
	MOVD 40(R19), R3
	TBZ  $3, R22, fifth
	MOVD (R3), R3

fifth:
	MOVD 48(R19), R4
	TBZ  $4, R22, sixth
	MOVD (R4), R4

sixth:
	MOVD 56(R19), R5
	TBZ  $5, R22, enter
	MOVD (R5), R5

enter:
	MOVWU (R19), R8
	SVC
	CMN  $4095, R0
	BHS  failed // unsigned: -4095 to -1
	TBZ  $7, R22, store
	CBNZ R0, parent

store:
	MOVWU 8(R19), R6
	CBZ  R6, succeeded
	MOVD R0, (R20)(R6)

succeeded:
	MOVHU 12(R19), R6

step:
	ADD  $1, R6, R6
	ADD  R6, R21, R21
	MOVD $72, R7
	MADD R7, R19, R6, R19
	B    next

failed:
	NEG  R0, R0
	MOVD 64(R19), R2

ignored:
	CBZ  R2, report
	UBFX $0, R2, $16, R6
	LSR  $16, R2, R2
	CMP  R0, R6
	BNE  ignored
	MOVHU 14(R19), R6
	B    step

report:
	MOVW R21, (R20)
	MOVD $127, R21
	B    tell

parent:
	MOVD $-1, R6
	TBZ  $6, R22, counts
	MOVD $-2, R6

counts:
	MOVW R6, (R20)
	MOVD ZR, R21

tell:
	MOVW R0, 4(R20)
	MOVD $3, R0
	MOVD R20, R1
	MOVD $8, R2
	MOVD $64, R8 // write
	SVC
	MOVD R21, R0
	MOVD $94, R8 // exit_group
	SVC
	BRK
	WORD $0xfeca0df0
	WORD $0x444d4853
	WORD $0x21444e45
	RET

// func interpreterAddress() unsafe.Pointer
TEXT ·interpreterAddress(SB), NOSPLIT, $0-8
	MOVD $interpret<>(SB), R0
	MOVD R0, ret+0(FP)
	RET
