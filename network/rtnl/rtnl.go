// Package rtnl speaks rtnetlink to one network namespace, several requests in a send.
//
// Inside belongs: entering a namespace for a moment, a socket there, batches, dumps. What the requests mean (bridges, addresses, pods)
// does not.
package rtnl

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// receiveTimeout bounds one answer of the kernel, in seconds. rtnl_lock is machine-wide, and somebody deleting thousands of links holds it
// for long.
const receiveTimeout = 30

// Inside runs f on a thread that is in the network namespace ns, and gives the thread back to the namespace it came from.
// f must not start goroutines that expect to be in ns. If the way back fails the thread ends, so that no other goroutine ever runs in ns.
func Inside(ns *os.File, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("opening the daemon's own network namespace: %w", err)
			return
		}
		defer home.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("entering network namespace %s: %w", ns.Name(), err)
			return
		}
		err = f()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread() // otherwise the thread dies with this goroutine
		}
		done <- err
	}()
	return <-done
}

// OpenNamespace opens a pinned network namespace. It refuses what is not a namespace, such as the plain file that is left when the pin was
// unmounted.
func OpenNamespace(path string) (*os.File, error) {
	// O_NONBLOCK: a FIFO put in the place must not hang the daemon.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	if st.Type != unix.NSFS_MAGIC {
		unix.Close(fd)
		return nil, &os.PathError{Op: "open", Path: path, Err: fmt.Errorf("not a namespace: %w", os.ErrNotExist)}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Socket is a NETLINK_ROUTE socket. It is for one goroutine at a time.
type Socket struct {
	fd  int
	seq uint32
	buf []byte
}

// Open opens a socket in the namespace that the calling thread is in.
func Open() (*Socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	tv := unix.Timeval{Sec: receiveTimeout}
	// Errors come with the kernel's own sentence; the request is not sent back with each answer. Both are comforts, so a refusal is no error.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	if err := errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv), unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("preparing a netlink socket: %w", err)
	}
	return &Socket{fd: fd}, nil
}

// OpenAt opens a socket in the namespace ns.
func OpenAt(ns *os.File) (s *Socket, err error) {
	err = Inside(ns, func() (err error) {
		s, err = Open()
		return err
	})
	return s, err
}

// Close closes the socket.
func (s *Socket) Close() error { return unix.Close(s.fd) }

// Index answers the index of an interface without taking rtnl_lock, or an error that is unix.ENODEV.
func (s *Socket) Index(name string) (int, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, fmt.Errorf("interface name %q: %w", name, err)
	}
	if err := unix.IoctlIfreq(s.fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, fmt.Errorf("looking up interface %q: %w", name, err)
	}
	return int(ifr.Uint32()), nil
}

// Step is a request of a batch: what it does, for error messages, and errors that mean that it was done before.
type Step struct {
	What    string
	Request *nl.NetlinkRequest
	Allow   []unix.Errno
}

// Do sends all steps in one system call and waits for all answers. The kernel carries on after a step that fails; the first
// error is reported, since what follows it mostly fails because of it.
func (s *Socket) Do(steps ...Step) error {
	if len(steps) == 0 {
		return nil
	}
	first := s.seq + 1
	var out []byte
	for _, st := range steps {
		s.seq++
		st.Request.Seq = s.seq
		st.Request.Flags |= unix.NLM_F_ACK
		out = append(out, st.Request.Serialize()...)
	}
	if err := unix.Sendto(s.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("sending netlink requests: %w", err)
	}
	var failed error
	for answered := 0; answered < len(steps); {
		err := s.receive(func(m syscall.NetlinkMessage) {
			i := int(m.Header.Seq - first) // wraps far out of range for what an earlier, abandoned batch left
			if m.Header.Type != unix.NLMSG_ERROR || i < 0 || i >= len(steps) {
				return
			}
			answered++
			if err := ackError(m); err != nil && failed == nil && !allowed(err, steps[i].Allow) {
				failed = fmt.Errorf("%s: %w", steps[i].What, err)
			}
		})
		if err != nil {
			return errors.Join(failed, err)
		}
	}
	return failed
}

func allowed(err error, list []unix.Errno) bool {
	for _, e := range list {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Dump sends a dump request and calls f with the payload of every answer.
func (s *Socket) Dump(req *nl.NetlinkRequest, f func(data []byte)) error {
	s.seq++
	req.Seq = s.seq
	req.Flags |= unix.NLM_F_DUMP
	if err := unix.Sendto(s.fd, req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("sending a netlink dump request: %w", err)
	}
	var result error
	for done := false; !done; {
		err := s.receive(func(m syscall.NetlinkMessage) {
			switch {
			case m.Header.Seq != req.Seq || done:
			case m.Header.Type == unix.NLMSG_DONE:
				done = true
			case m.Header.Type == unix.NLMSG_ERROR:
				done, result = true, ackError(m)
			default:
				f(m.Data)
			}
		})
		if err != nil {
			return err
		}
	}
	return result
}

func (s *Socket) receive(f func(syscall.NetlinkMessage)) error {
	if s.buf == nil {
		s.buf = make([]byte, 32<<10) // the kernel's largest dump part
	}
	n, from, err := unix.Recvfrom(s.fd, s.buf, 0)
	for errors.Is(err, unix.EINTR) {
		n, from, err = unix.Recvfrom(s.fd, s.buf, 0)
	}
	if err != nil {
		return fmt.Errorf("waiting for the kernel's netlink answer: %w", err)
	}
	if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
		return nil // not from the kernel
	}
	msgs, err := syscall.ParseNetlinkMessage(s.buf[:n])
	if err != nil {
		return fmt.Errorf("reading the kernel's netlink answer: %w", err)
	}
	for _, m := range msgs {
		f(m)
	}
	return nil
}

// ackError is the error in an NLMSG_ERROR, nil for an acknowledgement, with the kernel's extended message where it gives one.
func ackError(m syscall.NetlinkMessage) error {
	if len(m.Data) < 4 {
		return unix.EBADMSG
	}
	code := *(*int32)(unsafe.Pointer(&m.Data[0]))
	if code == 0 {
		return nil
	}
	errno := unix.Errno(-code)
	if m.Header.Flags&unix.NLM_F_ACK_TLVS == 0 {
		return errno
	}
	skip := 4 + unix.SizeofNlMsghdr // the failed request's header; NLM_F_CAPPED says that its payload was left out
	if m.Header.Flags&unix.NLM_F_CAPPED == 0 && len(m.Data) >= 8 {
		skip = 4 + int(*(*uint32)(unsafe.Pointer(&m.Data[4])))
	}
	if skip > len(m.Data) {
		return errno
	}
	attrs, err := nl.ParseRouteAttr(m.Data[skip:])
	if err != nil {
		return errno
	}
	for _, a := range attrs {
		if a.Attr.Type == unix.NLMSGERR_ATTR_MSG {
			return fmt.Errorf("%w (%s)", errno, unix.ByteSliceToString(a.Value))
		}
	}
	return errno
}

// LoopbackUp brings up lo in the socket's namespace.
func LoopbackUp() Step {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = 1 // always, in every namespace
	msg.Flags, msg.Change = unix.IFF_UP, unix.IFF_UP
	req.AddData(msg)
	return Step{What: "bringing lo up", Request: req}
}
