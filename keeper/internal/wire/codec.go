package wire

import (
	"encoding/binary"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
)

// Encoder builds a message's body and collects its descriptors. The zero value is ready.
type Encoder struct {
	Body  []byte
	Files []*os.File // borrowed: the sender's copies stay open
	err   error
}

// Err tells whether something could not be encoded.
func (e *Encoder) Err() error { return e.err }

// Bool appends a truth value.
func (e *Encoder) Bool(v bool) {
	b := byte(0)
	if v {
		b = 1
	}
	e.Body = append(e.Body, b)
}

// Uint16 appends 2 bytes.
func (e *Encoder) Uint16(v uint16) { e.Body = binary.LittleEndian.AppendUint16(e.Body, v) }

// Int32 appends 4 bytes.
func (e *Encoder) Int32(v int) { e.Body = binary.LittleEndian.AppendUint32(e.Body, uint32(int32(v))) }

// Int64 appends 8 bytes.
func (e *Encoder) Int64(v int64) { e.Body = binary.LittleEndian.AppendUint64(e.Body, uint64(v)) }

// String appends a length and the bytes.
func (e *Encoder) String(s string) {
	if len(s) > MaxString {
		e.err = fmt.Errorf("a text of %d bytes where %d are allowed: %w", len(s), MaxString, errdefs.ErrInvalidArgument)
		return
	}
	e.Uint16(uint16(len(s)))
	e.Body = append(e.Body, s...)
}

// Bytes appends a length and the bytes.
func (e *Encoder) Bytes(b []byte) {
	e.Int32(len(b))
	e.Body = append(e.Body, b...)
}

// File appends a descriptor, or a note that there is none.
func (e *Encoder) File(f *os.File) {
	e.Bool(f != nil)
	if f != nil {
		e.Files = append(e.Files, f)
	}
}

// Decoder takes a message apart. After the first mistake every further value is zero; End tells it.
type Decoder struct {
	body        []byte
	descriptors []int
	err         error
}

// NewDecoder reads body; descriptors belong to the decoder until they are taken.
func NewDecoder(body []byte, descriptors []int) *Decoder {
	return &Decoder{body: body, descriptors: descriptors}
}

func (d *Decoder) take(n int) []byte {
	if d.err != nil {
		return nil
	}
	if n < 0 || n > len(d.body) {
		d.err = fmt.Errorf("message ends %d bytes early: %w", n-len(d.body), errdefs.ErrInvalidArgument)
		return nil
	}
	b := d.body[:n]
	d.body = d.body[n:]
	return b
}

// Bool reads a truth value: 0 or 1, nothing else.
func (d *Decoder) Bool() bool {
	b := d.take(1)
	if b == nil {
		return false
	}
	if b[0] > 1 {
		d.err = fmt.Errorf("message has %d for a truth value: %w", b[0], errdefs.ErrInvalidArgument)
		return false
	}
	return b[0] == 1
}

// Uint16 reads 2 bytes.
func (d *Decoder) Uint16() uint16 {
	if b := d.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

// Int32 reads 4 bytes.
func (d *Decoder) Int32() int {
	if b := d.take(4); b != nil {
		return int(int32(binary.LittleEndian.Uint32(b)))
	}
	return 0
}

// Int64 reads 8 bytes.
func (d *Decoder) Int64() int64 {
	if b := d.take(8); b != nil {
		return int64(binary.LittleEndian.Uint64(b))
	}
	return 0
}

// String reads a text.
func (d *Decoder) String() string {
	n := int(d.Uint16())
	if n > MaxString && d.err == nil {
		d.err = fmt.Errorf("message has a text of %d bytes where %d are allowed: %w", n, MaxString, errdefs.ErrInvalidArgument)
	}
	return string(d.take(n))
}

// Bytes reads bytes; they are a copy.
func (d *Decoder) Bytes() []byte { return append([]byte(nil), d.take(d.Int32())...) }

// Descriptor takes the next descriptor, which is the caller's then; -1 for none.
func (d *Decoder) Descriptor() int {
	if !d.Bool() {
		return -1
	}
	if len(d.descriptors) == 0 {
		if d.err == nil {
			d.err = fmt.Errorf("message names more descriptors than came with it: %w", errdefs.ErrInvalidArgument)
		}
		return -1
	}
	fd := d.descriptors[0]
	d.descriptors = d.descriptors[1:]
	return fd
}

// File is Descriptor as a file; nil for none.
func (d *Decoder) File(name string) *os.File {
	if fd := d.Descriptor(); fd >= 0 {
		return os.NewFile(uintptr(fd), name)
	}
	return nil
}

// End checks that all went well and nothing is left, and closes descriptors that nobody took.
func (d *Decoder) End() error {
	if d.err == nil && len(d.body) > 0 {
		d.err = fmt.Errorf("message has %d bytes too many: %w", len(d.body), errdefs.ErrInvalidArgument)
	}
	if d.err == nil && len(d.descriptors) > 0 {
		d.err = fmt.Errorf("message has %d descriptors too many: %w", len(d.descriptors), errdefs.ErrInvalidArgument)
	}
	CloseAll(d.descriptors)
	d.descriptors = nil
	return d.err
}
