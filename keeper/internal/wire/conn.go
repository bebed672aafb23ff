package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	headerSize = 12
	flagMore   = 1 // the message goes on in the next packet
)

// Message is one that was received. Its descriptors belong to the receiver.
type Message struct {
	Kind        Kind
	Request     uint32
	Body        []byte
	Descriptors []int
}

// Decoder starts to take the message apart; it owns the descriptors from then on.
func (m Message) Decoder() *Decoder { return NewDecoder(m.Body, m.Descriptors) }

// CloseAll closes descriptors.
func CloseAll(descriptors []int) {
	for _, fd := range descriptors {
		_ = unix.Close(fd)
	}
}

// Conn is one connection. Send may be called from everywhere at the same time, Receive from one goroutine.
type Conn struct {
	file *os.File
	raw  syscall.RawConn

	sending sync.Mutex
	packet  []byte // of Receive
	oob     []byte // of Receive
}

// NewConn owns fd, a non-blocking SOCK_SEQPACKET socket.
func NewConn(fd int) (*Conn, error) {
	f := os.NewFile(uintptr(fd), "keeper connection")
	raw, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("polling the keeper's connection: %w", err)
	}
	return &Conn{file: f, raw: raw}, nil
}

// Close ends Receive and Send on both sides.
func (c *Conn) Close() error { return c.file.Close() }

// PeerIsRoot checks the other side's credentials, which the kernel took when it connected (or listened).
func (c *Conn) PeerIsRoot() error {
	var cred *unix.Ucred
	var err error
	if cerr := c.raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); cerr != nil {
		return cerr
	}
	if err != nil {
		return fmt.Errorf("reading the peer's credentials: %w", err)
	}
	if cred.Uid != 0 {
		return fmt.Errorf("peer is user %d (process %d), only root may speak here: %w", cred.Uid, cred.Pid, errdefs.ErrPermissionDenied)
	}
	return nil
}

// Send sends a message. It waits for a receiver that is slow, but not longer than the patience, after which the connection is of no more use.
func (c *Conn) Send(kind Kind, request uint32, e *Encoder, patience time.Duration) error {
	if err := e.Err(); err != nil {
		return err
	}
	if len(e.Body) > MaxBody || len(e.Files) > MaxDescriptors {
		return fmt.Errorf("message of %d bytes and %d descriptors, %d and %d are allowed: %w", len(e.Body), len(e.Files), MaxBody, MaxDescriptors, errdefs.ErrInvalidArgument)
	}
	descriptors, err := numbers(e.Files)
	if err != nil {
		return err
	}
	body := e.Body
	c.sending.Lock()
	defer c.sending.Unlock()
	if err := c.file.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	for {
		part, fds, flags := body, descriptors, byte(0)
		if len(part) > maxPacketBody {
			part, flags = part[:maxPacketBody], flagMore
		}
		if len(fds) > maxPacketDescriptors {
			fds, flags = fds[:maxPacketDescriptors], flagMore
		}
		if err := c.sendPacket(kind, flags, request, part, fds); err != nil {
			// Half a message cannot be taken back.
			_ = c.file.Close()
			return err
		}
		body, descriptors = body[len(part):], descriptors[len(fds):]
		if flags == 0 {
			break
		}
	}
	runtime.KeepAlive(e.Files)
	return nil
}

func (c *Conn) sendPacket(kind Kind, flags byte, request uint32, body []byte, fds []int) error {
	p := make([]byte, 0, headerSize+len(body))
	p = append(p, byte(kind), flags)
	p = binary.LittleEndian.AppendUint16(p, uint16(len(fds)))
	p = binary.LittleEndian.AppendUint32(p, request)
	p = binary.LittleEndian.AppendUint32(p, uint32(len(body)))
	p = append(p, body...)
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	var err error
	if werr := c.raw.Write(func(fd uintptr) bool {
		for {
			_, err = unix.SendmsgN(int(fd), p, oob, nil, unix.MSG_NOSIGNAL)
			if !errors.Is(err, unix.EINTR) {
				return !errors.Is(err, unix.EAGAIN)
			}
		}
	}); werr != nil {
		return werr
	}
	return err
}

// Receive waits for the next message. io.EOF when the other side is gone; after any error the connection is of no more use.
func (c *Conn) Receive() (Message, error) {
	var m Message
	for first := true; ; first = false {
		more, err := c.receivePacket(&m, first)
		if err != nil {
			CloseAll(m.Descriptors)
			return Message{}, err
		}
		if !more {
			return m, nil
		}
	}
}

func (c *Conn) receivePacket(m *Message, first bool) (more bool, err error) {
	var n, oobn, rflags int
	if rerr := c.raw.Read(func(fd uintptr) bool {
		if c.packet == nil {
			c.packet = make([]byte, headerSize+maxPacketBody)
			c.oob = make([]byte, unix.CmsgSpace(maxPacketDescriptors*4))
		}
		for {
			n, oobn, rflags, _, err = unix.Recvmsg(int(fd), c.packet, c.oob, unix.MSG_CMSG_CLOEXEC)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if errors.Is(err, unix.EAGAIN) {
				c.packet, c.oob = nil, nil // an idle connection holds no buffer
				return false
			}
			return true
		}
	}); rerr != nil {
		return false, rerr
	}
	if err != nil {
		return false, err
	}
	fds, err := rights(c.oob[:oobn])
	m.Descriptors = append(m.Descriptors, fds...) // kept before any check, so that the caller closes them
	if err != nil {
		return false, err
	}
	if n == 0 {
		return false, io.EOF
	}
	if rflags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return false, fmt.Errorf("packet was cut off (too long, or no descriptors left here): %w", errdefs.ErrInvalidArgument)
	}
	return m.add(c.packet[:n], len(fds), first)
}

// add checks a packet and appends it to the message. Everything in it was written by the other side.
func (m *Message) add(packet []byte, descriptors int, first bool) (more bool, err error) {
	if len(packet) < headerSize {
		return false, fmt.Errorf("packet of %d bytes is shorter than a header: %w", len(packet), errdefs.ErrInvalidArgument)
	}
	kind, flags := Kind(packet[0]), packet[1]
	count := int(binary.LittleEndian.Uint16(packet[2:]))
	request := binary.LittleEndian.Uint32(packet[4:])
	length := binary.LittleEndian.Uint32(packet[8:])
	body := packet[headerSize:]
	switch {
	case !kind.known() || flags&^flagMore != 0:
		return false, fmt.Errorf("packet of unknown kind %d, flags %#x: %w", kind, flags, errdefs.ErrInvalidArgument)
	case uint64(length) != uint64(len(body)):
		return false, fmt.Errorf("packet announces %d bytes and has %d: %w", length, len(body), errdefs.ErrInvalidArgument)
	case count != descriptors:
		return false, fmt.Errorf("packet announces %d descriptors and has %d: %w", count, descriptors, errdefs.ErrInvalidArgument)
	case !first && (kind != m.Kind || request != m.Request):
		return false, fmt.Errorf("packet of request %d amid a message of request %d: %w", request, m.Request, errdefs.ErrInvalidArgument)
	case flags&flagMore != 0 && len(body) == 0 && count == 0:
		return false, fmt.Errorf("empty packet that announces more: %w", errdefs.ErrInvalidArgument)
	case len(m.Body)+len(body) > MaxBody || len(m.Descriptors) > MaxDescriptors:
		return false, fmt.Errorf("message of more than %d bytes or %d descriptors: %w", MaxBody, MaxDescriptors, errdefs.ErrInvalidArgument)
	}
	m.Kind, m.Request = kind, request
	m.Body = append(m.Body, body...)
	return flags&flagMore != 0, nil
}

// rights takes the descriptors out of control messages.
func rights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	controls, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("control message of a packet: %w", err)
	}
	var all []int
	for i := range controls {
		fds, err := unix.ParseUnixRights(&controls[i])
		if err != nil {
			return all, fmt.Errorf("control message that holds no descriptors: %w", err)
		}
		all = append(all, fds...)
	}
	return all, nil
}

// numbers reads the descriptors' numbers without File.Fd, which may turn off the non-blocking mode that others rely on.
func numbers(files []*os.File) ([]int, error) {
	if len(files) == 0 {
		return nil, nil
	}
	fds := make([]int, 0, len(files))
	for _, f := range files {
		fd, err := Number(f)
		if err != nil {
			return nil, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// Number is a file's descriptor, valid as long as the caller keeps the file open and alive.
func Number(f *os.File) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, fmt.Errorf("%s: %w", f.Name(), err)
	}
	n := -1
	if err := raw.Control(func(fd uintptr) { n = int(fd) }); err != nil {
		return -1, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return n, nil
}
