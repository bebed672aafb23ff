package wire

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// SocketName is the socket's name in the state directory. A path, never an abstract name: those are reachable from every pod
// in the host's network namespace (CVE-2020-15257).
const SocketName = "keeper.sock"

// address goes through a descriptor of the directory, because a socket's path may not be longer than 107 bytes and a state directory's may.
func address(directory int) *unix.SockaddrUnix {
	return &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(directory) + "/" + SocketName}
}

func socket() (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("making a unix socket: %w", err)
	}
	return fd, nil
}

// Dial connects to the keeper of a state directory. The error is the kernel's: ENOENT or ECONNREFUSED when none listens.
func Dial(stateDir string) (*Conn, error) {
	directory, err := unix.Open(stateDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the state directory %s: %w", stateDir, err)
	}
	defer func() { _ = unix.Close(directory) }()
	fd, err := socket()
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, address(directory)); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("connecting to %s/%s: %w", stateDir, SocketName, err)
	}
	return NewConn(fd)
}

// Listen makes the socket in the directory, in place of one that a dead keeper left. The caller holds the directory's lock.
func Listen(directory int) (int, error) {
	fd, err := socket()
	if err != nil {
		return -1, err
	}
	if err := unix.Unlinkat(directory, SocketName, 0); err != nil && err != unix.ENOENT {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("removing the old socket %s: %w", SocketName, err)
	}
	old := unix.Umask(0o177)
	err = unix.Bind(fd, address(directory))
	unix.Umask(old)
	if err == nil {
		err = unix.Listen(fd, 16)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("listening on %s: %w", SocketName, err)
	}
	return fd, nil
}
