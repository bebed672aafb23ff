package runtime

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// console is the socket that an external runtime sends a terminal's master to.
type console struct {
	path     string
	listener *net.UnixListener
}

// newConsole makes the socket. Its name is short, right below the state directory: the address of a socket takes 107 bytes.
func (r *Runtime) newConsole() (*console, error) {
	dir := filepath.Join(r.State, "tty")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of console sockets: %w", err)
	}
	path := filepath.Join(dir, newID()[:16])
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("making a console socket: %w", err)
	}
	return &console{path: path, listener: listener}, nil
}

func (k *console) close() { _ = k.listener.Close() } // removes its file too

// receive takes the master. The runtime has ended by now, so it is in the socket already.
func (k *console) receive() (*os.File, error) {
	master, err := k.take()
	if err != nil {
		return nil, fmt.Errorf("receiving the terminal from the OCI runtime: %w", err)
	}
	return master, nil
}

func (k *console) take() (*os.File, error) {
	deadline := time.Now().Add(5 * time.Second)
	if err := k.listener.SetDeadline(deadline); err != nil {
		return nil, err
	}
	conn, err := k.listener.AcceptUnix()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	name, control := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*4))
	_, n, _, _, err := conn.ReadMsgUnix(name, control)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		return nil, err
	}
	var fds []int
	for i := range messages {
		more, err := unix.ParseUnixRights(&messages[i])
		if err == nil {
			fds = append(fds, more...)
		}
	}
	if len(fds) != 1 {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil, errors.New("it sent not one descriptor")
	}
	unix.CloseOnExec(fds[0])
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}
