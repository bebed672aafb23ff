package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func connected(t testing.TB) (a, b *Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, err = NewConn(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	b, err = NewConn(fds[1])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

func openDescriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// More descriptors and bytes than one packet holds arrive in order, close-on-exec.
func TestLargeMessage(t *testing.T) {
	a, b := connected(t)
	before := openDescriptors(t)
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	e := &Encoder{}
	const count = 600
	for range count {
		e.File(file)
	}
	body := make([]byte, 100<<10)
	body[len(body)-1] = 7
	e.Bytes(body)
	sent := make(chan error, 1)
	go func() { sent <- a.Send(Start, 9, e, time.Minute) }()
	m, err := b.Receive()
	if err != nil {
		t.Fatal(err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	d := m.Decoder()
	for range count {
		fd := d.Descriptor()
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Fatalf("descriptor %d: flags %#x, %v", fd, flags, err)
		}
		_ = unix.Close(fd)
	}
	got := d.Bytes()
	if err := d.End(); err != nil || m.Request != 9 || len(got) != len(body) || got[len(got)-1] != 7 {
		t.Errorf("message of request %d, %d bytes, %v", m.Request, len(got), err)
	}
	_ = file.Close()
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

func packet(kind Kind, flags byte, count uint16, request, length uint32, body string) []byte {
	p := []byte{byte(kind), flags}
	p = binary.LittleEndian.AppendUint16(p, count)
	p = binary.LittleEndian.AppendUint32(p, request)
	p = binary.LittleEndian.AppendUint32(p, length)
	return append(p, body...)
}

// CVE-2021-43784: no length or count of the other side is believed, and no descriptor of a bad message stays open.
func TestCVE_2021_43784_LengthsAreChecked(t *testing.T) {
	tests := map[string][][]byte{
		"short":              {[]byte("abc")},
		"length too long":    {packet(Start, 0, 1, 1, 5, "abcd")},
		"length too short":   {packet(Start, 0, 1, 1, 3, "abcd")},
		"length overflows":   {packet(Start, 0, 1, 1, 0xffffffff, "abcd")},
		"too few files":      {packet(Start, 0, 2, 1, 1, "a")},
		"too many files":     {packet(Start, 0, 0, 1, 1, "a")},
		"unknown kind":       {packet(99, 0, 1, 1, 1, "a")},
		"unknown flag":       {packet(Start, 2, 1, 1, 1, "a")},
		"other request":      {packet(Start, 1, 1, 1, 1, "a"), packet(Start, 0, 1, 2, 1, "a")},
		"other kind":         {packet(Start, 1, 1, 1, 1, "a"), packet(Adopt, 0, 1, 1, 1, "a")},
		"ends amid":          {packet(Start, 1, 1, 1, 1, "a")},
		"longer than a body": {append(packet(Start, 0, 1, 1, maxPacketBody+1, ""), make([]byte, maxPacketBody+1)...)},
	}
	for name, packets := range tests {
		t.Run(name, func(t *testing.T) {
			a, b := connected(t)
			before := openDescriptors(t)
			fd, err := Number(a.file)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range packets {
				if err := unix.Sendmsg(fd, p, unix.UnixRights(0), nil, 0); err != nil {
					t.Fatal(err)
				}
			}
			_ = a.Close()
			if m, err := b.Receive(); err == nil {
				t.Errorf("received %+v", m)
			}
			if after := openDescriptors(t); after != before-1 {
				t.Errorf("%d descriptors, want %d", after, before-1)
			}
		})
	}
}

func TestReceiveEnds(t *testing.T) {
	a, b := connected(t)
	_ = a.Close()
	if _, err := b.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("Receive: %v", err)
	}
}

func TestErrorsKeepTheirKind(t *testing.T) {
	for _, kind := range []error{errdefs.ErrNotFound, errdefs.ErrInvalidArgument, errdefs.ErrUnavailable, context.Canceled, errdefs.ErrInternal} {
		e := &Encoder{}
		EncodeError(e, fmt.Errorf("doing it: %w", kind))
		d := NewDecoder(e.Body, nil)
		err := DecodeError(d)
		if !errors.Is(err, kind) || err.Error() != "doing it: "+kind.Error() || d.End() != nil {
			t.Errorf("%v became %v", kind, err)
		}
	}
}

// FuzzMessage feeds packets and decodes what comes of them in every way there is.
func FuzzMessage(f *testing.F) {
	f.Add(packet(Start, 0, 0, 1, 4, "abcd"))
	f.Add(packet(List, 0, 0, 1, 2, "\xff\xff"))
	f.Fuzz(func(t *testing.T, p []byte) {
		var m Message
		if more, err := m.add(p, 0, true); err != nil || more {
			return
		}
		for _, read := range []func(d *Decoder){
			func(d *Decoder) { _ = d.String(); _ = d.Int32(); _ = d.Descriptor() },
			func(d *Decoder) { _ = d.Bytes(); _ = d.Int64(); _ = d.Bool() },
			func(d *Decoder) { _ = DecodeError(d); _ = d.Uint16() },
		} {
			d := NewDecoder(m.Body, nil)
			read(d)
			_ = d.End()
		}
	})
}
