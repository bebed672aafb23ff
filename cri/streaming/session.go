package streaming

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"github.com/shimd/shimd/runtime"
)

// Runtime is what streams need of the runtime: cri.Runtime has it, with the contract of each method.
type Runtime interface {
	Exec(ctx context.Context, id runtime.ContainerID, cmd []string, tty bool, streams runtime.Streams) (exitCode int32, err error)
	Attach(ctx context.Context, id runtime.ContainerID, streams runtime.Streams) error
	PortForward(ctx context.Context, id runtime.SandboxID, port int32, stream io.ReadWriteCloser) error
}

// session is a request for a stream, with the protocol that serves it.
type session interface {
	verb() string
	// serve upgrades the connection and returns at the session's end. The request's context ends when the client has gone; it has the creation time to
	// open its streams.
	serve(rt Runtime, w http.ResponseWriter, req *http.Request, creation time.Duration)
}

type execSession struct{ *criv1.ExecRequest }

func (execSession) verb() string { return "exec" }

func (e execSession) serve(rt Runtime, w http.ResponseWriter, req *http.Request, creation time.Duration) {
	opts := &remotecommand.Options{Stdin: e.GetStdin(), Stdout: e.GetStdout(), Stderr: e.GetStderr(), TTY: e.GetTty()}
	remotecommand.ServeExec(w, req, command{rt, opts}, "", "", e.GetContainerId(), e.GetCmd(), opts,
		idleTimeout, creation, slices.Clone(remotecommand.SupportedStreamingProtocols))
}

type attachSession struct{ *criv1.AttachRequest }

func (attachSession) verb() string { return "attach" }

func (a attachSession) serve(rt Runtime, w http.ResponseWriter, req *http.Request, creation time.Duration) {
	opts := &remotecommand.Options{Stdin: a.GetStdin(), Stdout: a.GetStdout(), Stderr: a.GetStderr(), TTY: a.GetTty()}
	remotecommand.ServeAttach(w, req, command{rt, opts}, "", "", a.GetContainerId(), opts,
		idleTimeout, creation, slices.Clone(remotecommand.SupportedStreamingProtocols))
}

type portForwardSession struct{ *criv1.PortForwardRequest }

func (portForwardSession) verb() string { return "portforward" }

func (p portForwardSession) serve(rt Runtime, w http.ResponseWriter, req *http.Request, creation time.Duration) {
	forwarder := forward{rt, req.Context(), p.GetPort()}
	portforward.ServePortForward(w, req, forwarder, p.GetPodSandboxId(), "", &portforward.V4Options{Ports: p.GetPort()},
		idleTimeout, creation, slices.Clone(portforward.SupportedProtocols))
}

// command is the library's Executor and Attacher over the runtime.
type command struct {
	runtime Runtime
	opts    *remotecommand.Options
}

// ExecInContainer answers a CodeExitError for a command that ended with another code than 0: the client gets the code from it.
func (c command) ExecInContainer(ctx context.Context, _, _, container string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	code, err := c.runtime.Exec(ctx, runtime.ContainerID(container), cmd, tty, c.streams(ctx, in, out, errOut, resize))
	if err != nil {
		return err
	}
	if code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command exited with code %d", code), Code: int(code)}
	}
	return nil
}

// AttachContainer connects to the container's own streams.
func (c command) AttachContainer(ctx context.Context, _, _, container string, in io.Reader, out, errOut io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return c.runtime.Attach(ctx, runtime.ContainerID(container), c.streams(ctx, in, out, errOut, resize))
}

// streams keeps those that the request asked for: the library has an object for each one with WebSocket.
func (c command) streams(ctx context.Context, in io.Reader, out, errOut io.WriteCloser, resize <-chan remotecommand.TerminalSize) runtime.Streams {
	s := runtime.Streams{TTY: c.opts.TTY}
	if c.opts.Stdin {
		s.Stdin = in
	}
	if c.opts.Stdout {
		s.Stdout = out
	}
	if c.opts.Stderr {
		s.Stderr = errOut
	}
	if c.opts.TTY && resize != nil {
		s.Resize = sizes(ctx, resize)
	}
	return s
}

// sizes passes terminal sizes on until the client has no more or ctx is done, whether or not anybody takes them.
func sizes(ctx context.Context, in <-chan remotecommand.TerminalSize) <-chan runtime.TerminalSize {
	out := make(chan runtime.TerminalSize)
	go func() {
		defer close(out)
		for {
			select {
			case size, ok := <-in:
				if !ok {
					return
				}
				select {
				case out <- runtime.TerminalSize{Columns: size.Width, Rows: size.Height}:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// forward is the library's PortForwarder over the runtime, with the context of the connection instead of the library's endless one.
type forward struct {
	runtime Runtime
	ctx     context.Context // one per connection
	ports   []int32
}

// PortForward serves one forwarded connection. A request that listed ports gets those alone.
func (f forward) PortForward(_ context.Context, sandbox, _ string, port int32, stream io.ReadWriteCloser) error {
	if len(f.ports) > 0 && !slices.Contains(f.ports, port) {
		return fmt.Errorf("port %d is not one of the requested ones: %w", port, errdefs.ErrInvalidArgument)
	}
	return f.runtime.PortForward(f.ctx, runtime.SandboxID(sandbox), port, stream)
}
