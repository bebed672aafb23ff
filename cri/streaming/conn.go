package streaming

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// conn is a client's connection that tells when its client has gone. net/http stops looking once a connection is hijacked, and the protocols
// read only while somebody takes what they read.
type conn struct {
	net.Conn
	gone context.Context
	end  context.CancelFunc
	once sync.Once
	left func(*conn)
}

// Read notices the end of the client, or of the connection. Deadlines are not an end: net/http sets one in the past to hijack.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.end()
	}
	return n, err
}

// Close closes the connection and ends what runs on it.
func (c *conn) Close() error {
	c.end()
	err := c.Conn.Close()
	c.once.Do(func() { c.left(c) })
	return err
}

// leave lets go of the connection after its session. The library leaves a hijacked one to the client: one whose client never closes it, or never
// opened its streams, must not stay.
func (c *conn) leave() {
	if c.gone.Err() != nil {
		_ = c.Close() // nobody is there to be told
		return
	}
	time.AfterFunc(linger, func() { _ = c.Close() })
}

// watchInterval is how long a client can be gone unnoticed while its input is not being read.
const watchInterval = 5 * time.Second

// watch ends the connection's context when the kernel knows that the client has closed its side, also when unread input stands before the end, as
// with a program that never reads its stdin.
func (c *conn) watch(ctx context.Context) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if !c.established() {
				c.end()
				return
			}
		}
	}
}

// tcpEstablished is TCP_ESTABLISHED of the kernel's tcp_states.h. In any other state that end is closed.
const tcpEstablished = 1

// established asks for the state of both ends. Ours does not change while its receive buffer is full, because the client's FIN has to wait, but the client's
// does, and it is on this machine. It is true in doubt.
func (c *conn) established() bool {
	tcp, ok := c.Conn.(*net.TCPConn)
	if !ok {
		return true
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return false
	}
	ours := true
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		ours = err != nil || info.State == tcpEstablished
	})
	if err != nil || !ours {
		return false
	}
	peer, err := netlink.SocketGet(tcp.RemoteAddr(), tcp.LocalAddr())
	if err != nil {
		return !errors.Is(err, unix.ENOENT) // any other error: the kernel has no socket diagnostics
	}
	return peer.State == tcpEstablished
}

// listener hands out conns.
type listener struct {
	net.Listener
	server *Server
}

func (l *listener) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.server.track(raw)
}
