package launch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// The data segment, as the interpreter reads it (little endian, addresses are absolute):
//
//	dataAddress +0   int32 op, int32 value   the record to report, written on the way out
//	            +16  ops, opSize bytes each
//	            ...  strings, structures and slots
//
//	op +0  uint32 system call number
//	   +4  uint32 bits 0..5: argument is the address of a slot, take its value; bit 7: fork, bit 6: of one in between
//	   +8  uint32 offset of the slot for the result from dataAddress, or 0
//	   +12 uint16 ops to skip on success, +14 uint16 ops to skip on an ignored error
//	   +16 6 uint64 arguments
//	   +64 4 uint16 ignored errnos, from the first on, 0 for none
const (
	textAddress = 0x10000000 // also in the assembly; far above vm.mmap_min_addr, multiples of 64 KiB pages
	dataAddress = 0x20000000
	textOffset  = 64 + 3*56 // behind the ELF headers, in their segment
	dataOffset  = 0x10000   // in the file; a multiple of every page size, the hole takes no memory
	opsOffset   = 16
	opSize      = 72
	forkBit     = 1 << 7
	betweenBit  = 1 << 6
	maxIgnored  = 4
)

// interpreterAddress is where the interpreter's machine code lies in this process. It ends with interpreterEnd.
func interpreterAddress() unsafe.Pointer

// interpreterEnd is a mark that no instruction of the interpreter holds; the assembly has it behind its last one.
const interpreterEnd = "\xf0\x0d\xca\xfeSHMDEND!"

// interpreter copies the machine code out of this package's own text.
func interpreter() ([]byte, error) {
	const most = 4096
	start := interpreterAddress()
	code := unsafe.Slice((*byte)(start), most)
	end := bytes.Index(code, []byte(interpreterEnd))
	if end < 0 {
		return nil, errors.New("launch interpreter: its machine code has no end mark")
	}
	return code[:end], nil
}

// image is the program's executable, in its two parts: what stands at the file's start, and what stands at dataOffset.
func (p *Program) image() (text, data []byte, err error) {
	code, err := interpreter()
	if err != nil {
		return nil, nil, err
	}
	if data, err = p.segment(); err != nil {
		return nil, nil, err
	}
	return append(elfHeaders(uint64(len(code)), uint64(len(data))), code...), data, nil
}

// segment encodes ops and data.
func (p *Program) segment() ([]byte, error) {
	le := binary.LittleEndian
	base := opsOffset + opSize*(len(p.ops)+1)
	out := make([]byte, base, base+len(p.data)+8)
	// A program that runs off its end has done all it had to: it exits with 0. Containers' end in execve or its report.
	ops := append(p.ops[:len(p.ops):len(p.ops)], op{call: sysExitGroup, args: []arg{num(0)}})
	for i := range ops {
		o, at := &ops[i], out[opsOffset+i*opSize:]
		last := i + 1 + int(max(o.onSuccess, o.onIgnored)) // how far it may go on from here
		if len(o.args) > 6 || len(o.ignore) > maxIgnored || i < len(p.ops) && last > len(p.ops) {
			return nil, fmt.Errorf("encoding a launch program: op %d (%s): %w", i, p.line(o), errdefs.ErrInternal)
		}
		le.PutUint32(at, uint32(o.call))
		bits := uint32(0)
		for j, a := range o.args {
			v := a.value
			if a.kind != immediate {
				v += dataAddress + uint64(base)
			}
			if a.kind == result {
				bits |= 1 << j
			}
			le.PutUint64(at[16+8*j:], v)
		}
		if o.forks {
			bits |= forkBit
		}
		if o.between {
			bits |= betweenBit
		}
		le.PutUint32(at[4:], bits)
		if o.result.number != 0 {
			le.PutUint32(at[8:], uint32(base+o.result.offset))
		}
		le.PutUint16(at[12:], o.onSuccess)
		le.PutUint16(at[14:], o.onIgnored)
		for j, e := range o.ignore {
			le.PutUint16(at[64+2*j:], uint16(e))
		}
	}
	out = append(out, p.data...)
	for _, l := range p.links {
		le.PutUint64(out[base+l.at:], dataAddress+uint64(base+l.to))
	}
	return out, nil
}

// elfHeaders describe a static executable of two segments: headers and code, readable and executable; data, readable and writable.
func elfHeaders(code, data uint64) []byte {
	le := binary.LittleEndian
	h := make([]byte, 0, textOffset+code)
	h = append(h, 0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	h = le.AppendUint16(h, 2) // ET_EXEC
	h = le.AppendUint16(h, elfMachine)
	h = le.AppendUint32(h, 1)
	h = le.AppendUint64(h, textAddress+textOffset) // entry
	h = le.AppendUint64(h, 64)                     // program headers follow
	h = le.AppendUint64(h, 0)
	h = le.AppendUint32(h, 0)
	for _, v := range []uint16{64, 56, 3, 0, 0, 0} {
		h = le.AppendUint16(h, v)
	}
	segment := func(kind, flags uint32, offset, address, size uint64) {
		h = le.AppendUint32(h, kind)
		h = le.AppendUint32(h, flags)
		for _, v := range []uint64{offset, address, address, size, size, 0x10000} {
			h = le.AppendUint64(h, v)
		}
	}
	const load, stack, x, w, r = 1, 0x6474e551, 1, 2, 4
	segment(load, r|x, 0, textAddress, textOffset+code)
	segment(load, r|w, dataOffset, dataAddress, data)
	segment(stack, r|w, 0, 0, 0)
	return h
}

// Executable writes the program as an executable file: a sealed memfd, or, where vm.memfd_noexec forbids executing those, an unlinked
// file in dir (which must be on a file system mounted without noexec; tmpfs is best). The caller owns it.
func (p *Program) Executable(dir string) (*os.File, error) {
	text, data, err := p.image()
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("launch", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // below 6.3 every memfd is executable and the flag is unknown
		fd, err = unix.MemfdCreate("launch", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if errors.Is(err, unix.EACCES) { // vm.memfd_noexec=2
		return executableFile(dir, text, data)
	}
	if err != nil {
		return nil, fmt.Errorf("making a memory file for a launch program: %w", err)
	}
	f := os.NewFile(uintptr(fd), "launch program")
	if err := writeImage(fd, text, data); err != nil {
		_ = f.Close()
		return nil, err
	}
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("sealing a launch program: %w", err)
	}
	return f, nil
}

func writeImage(fd int, text, data []byte) error {
	if _, err := unix.Pwrite(fd, text, 0); err != nil {
		return fmt.Errorf("writing a launch program: %w", err)
	}
	if n, err := unix.Pwrite(fd, data, dataOffset); err != nil || n != len(data) {
		return fmt.Errorf("writing a launch program: %d of %d bytes: %w", n, len(data), err)
	}
	return nil
}

// executableFile is the same without memfd. It is opened again read-only, because the kernel executes nothing that is open for writing, and
// unlinked, so that only the descriptor names it.
func executableFile(dir string, text, data []byte) (*os.File, error) {
	w, err := os.CreateTemp(dir, "launch-")
	if err != nil {
		return nil, fmt.Errorf("making a file for a launch program (vm.memfd_noexec forbids a memory file): %w", err)
	}
	defer os.Remove(w.Name()) //nolint:errcheck // it is opened by then, or of no use
	defer w.Close()
	if err := errors.Join(writeImage(int(w.Fd()), text, data), w.Chmod(0o500)); err != nil {
		return nil, err
	}
	r, err := os.Open(w.Name())
	if err != nil {
		return nil, fmt.Errorf("opening a launch program: %w", err)
	}
	return r, nil
}
