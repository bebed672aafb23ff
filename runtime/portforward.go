package runtime

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// PortForward connects to a port on the loopback addresses of the sandbox's network namespace, and copies until both sides have ended or ctx has.
func (r *Runtime) PortForward(ctx context.Context, id SandboxID, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	s, err := r.findSandbox(id)
	if err != nil {
		return err
	}
	record := s.snapshot()
	if record.Phase != sandboxReady {
		return fmt.Errorf("port forward to sandbox %s: it is not ready: %w", s.id, errdefs.ErrFailedPrecondition)
	}
	if port < 1 || port > 65535 {
		return fmt.Errorf("port forward to sandbox %s: %d is not a port: %w", s.id, port, errdefs.ErrInvalidArgument)
	}
	namespace := ""
	if ownNetwork(record.Config) {
		namespace = s.namespacePath("net")
	}
	conn, err := dialLoopback(ctx, namespace, int(port))
	if err != nil {
		return fmt.Errorf("port forward to sandbox %s: %w", s.id, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close(); stream.Close() })
	defer stop()
	splice(conn, stream)
	return nil
}

// splice copies both ways. The end of what the client sends is passed on; the end of the answer ends both.
func splice(conn net.Conn, stream io.ReadWriteCloser) {
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.Copy(conn, stream)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	})
	_, _ = io.Copy(stream, conn)
	stream.Close()
	up.Wait()
}

// dialLoopback connects to 127.0.0.1, else to ::1, in the namespace at path ("": the daemon's own). A socket belongs to the namespace that it was
// made in, so only that is done there.
func dialLoopback(ctx context.Context, path string, port int) (net.Conn, error) {
	var dialer net.Dialer
	var conn net.Conn
	dial := func() error {
		if path != "" {
			if err := enterNamespace(path, unix.CLONE_NEWNET); err != nil {
				return err
			}
		}
		var err error
		for _, host := range []string{"127.0.0.1", "::1"} {
			// One literal address: the dialer makes its socket on this very thread.
			if conn, err = dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, fmt.Sprint(port))); err == nil {
				return nil
			}
		}
		return fmt.Errorf("nothing listens on port %d of the pod's loopback: %w: %w", port, err, errdefs.ErrUnavailable)
	}
	err := onThrowawayThread(dial)
	return conn, err
}
