package streaming

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/net/websocket"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/shimd/shimd/runtime"
)

// patience bounds waiting for what must happen; nothing is asserted on how long it took.
const patience = 30 * time.Second

// scripted is a Runtime that does what a test says.
type scripted struct {
	exec    func(ctx context.Context, cmd []string, s runtime.Streams) (int32, error)
	forward func(ctx context.Context, port int32, stream io.ReadWriteCloser) error
}

func (f *scripted) Exec(ctx context.Context, _ runtime.ContainerID, cmd []string, tty bool, s runtime.Streams) (int32, error) {
	if tty != s.TTY {
		return 0, errors.New("tty and the streams disagree")
	}
	return f.exec(ctx, cmd, s)
}

func (f *scripted) Attach(ctx context.Context, id runtime.ContainerID, s runtime.Streams) error {
	_, err := f.exec(ctx, []string{string(id)}, s)
	return err
}

func (f *scripted) PortForward(ctx context.Context, _ runtime.SandboxID, port int32, stream io.ReadWriteCloser) error {
	return f.forward(ctx, port, stream)
}

func listen(t *testing.T, rt Runtime) *Server {
	t.Helper()
	s, err := Listen("127.0.0.1:0", rt, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// dialSPDY connects to a URL as the kubelet does.
func dialSPDY(t *testing.T, url string, protocols ...string) httpstream.Connection {
	t.Helper()
	conn, err := trySPDY(url, protocols...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func trySPDY(url string, protocols ...string) (httpstream.Connection, error) {
	rt, err := spdy.NewRoundTripper(nil)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequest(http.MethodPost, url, nil)
	if err != nil {
		return nil, err
	}
	for _, p := range protocols {
		req.Header.Add(httpstream.HeaderProtocolVersion, p)
	}
	resp, err := rt.RoundTrip(req) //nolint:bodyclose // NewConnection takes it
	if err != nil {
		return nil, err
	}
	return rt.NewConnection(resp)
}

func stream(t *testing.T, conn httpstream.Connection, kind string, more ...string) httpstream.Stream {
	t.Helper()
	s, err := openStream(conn, kind, more...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openStream(conn httpstream.Connection, kind string, more ...string) (httpstream.Stream, error) {
	h := http.Header{}
	h.Set(remotecommand.StreamType, kind)
	for i := 0; i < len(more); i += 2 {
		h.Set(more[i], more[i+1])
	}
	return conn.CreateStream(h)
}

// refused is what the error stream of a forwarded connection to port says.
// The library may reset the data stream before it has acknowledged it, so that opening that one may fail.
func refused(t *testing.T, conn httpstream.Connection, id, port string) string {
	t.Helper()
	more := []string{portforward.PortHeader, port, portforward.PortForwardRequestIDHeader, id}
	errs := stream(t, conn, portforward.StreamTypeError, more...)
	_, _ = openStream(conn, portforward.StreamTypeData, more...)
	said, _ := io.ReadAll(errs) // it may end with the reset
	return string(said)
}

func within(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		buf := make([]byte, 1<<20)
		t.Fatalf("%s did not happen\n%s", what, buf[:goruntime.Stack(buf, true)])
	}
}

func TestExecOverSPDY(t *testing.T) {
	for _, code := range []int32{0, 42} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			s := listen(t, &scripted{exec: func(_ context.Context, cmd []string, st runtime.Streams) (int32, error) {
				if st.Resize != nil {
					return 0, errors.New("sizes without a terminal")
				}
				fmt.Fprint(st.Stdout, cmd[0])
				fmt.Fprint(st.Stderr, "oops")
				_, err := io.Copy(st.Stdout, st.Stdin)
				return code, err
			}})
			url, err := s.Exec(&criv1.ExecRequest{ContainerId: "c", Cmd: []string{"cat "}, Stdin: true, Stdout: true, Stderr: true})
			if err != nil {
				t.Fatal(err)
			}
			conn := dialSPDY(t, url, remotecommand.StreamProtocolV4Name)
			status, stdin := stream(t, conn, remotecommand.StreamTypeError), stream(t, conn, remotecommand.StreamTypeStdin)
			stdout, stderr := stream(t, conn, remotecommand.StreamTypeStdout), stream(t, conn, remotecommand.StreamTypeStderr)
			fmt.Fprint(stdin, "hello")
			stdin.Close()
			out, _ := io.ReadAll(stdout)
			errOut, _ := io.ReadAll(stderr)
			if string(out) != "cat hello" || string(errOut) != "oops" {
				t.Errorf("stdout %q, stderr %q", out, errOut)
			}
			checkStatus(t, status, code)
		})
	}
}

// checkStatus reads the status that remotecommand clients turn into an exit code.
func checkStatus(t *testing.T, r io.Reader, code int32) {
	t.Helper()
	text, _ := io.ReadAll(r)
	var st struct {
		Status, Reason string
		Details        struct {
			Causes []struct{ Reason, Message string }
		}
	}
	if err := json.Unmarshal(text, &st); err != nil {
		t.Fatalf("status %q: %v", text, err)
	}
	if code == 0 {
		if st.Status != "Success" {
			t.Errorf("status is %s", text)
		}
		return
	}
	if st.Status != "Failure" || st.Reason != "NonZeroExitCode" || st.Details.Causes[0].Reason != "ExitCode" || st.Details.Causes[0].Message != fmt.Sprint(code) {
		t.Errorf("status is %s", text)
	}
}

func TestTerminalSizesArrive(t *testing.T) {
	got := make(chan runtime.TerminalSize, 1)
	s := listen(t, &scripted{exec: func(_ context.Context, _ []string, st runtime.Streams) (int32, error) {
		got <- <-st.Resize
		return 0, nil
	}})
	url, _ := s.Exec(&criv1.ExecRequest{ContainerId: "c", Cmd: []string{"sh"}, Stdout: true, Tty: true})
	conn := dialSPDY(t, url, remotecommand.StreamProtocolV4Name)
	stream(t, conn, remotecommand.StreamTypeError)
	stream(t, conn, remotecommand.StreamTypeStdout)
	fmt.Fprint(stream(t, conn, remotecommand.StreamTypeResize), `{"Width":132,"Height":43}`)
	select {
	case size := <-got:
		if size != (runtime.TerminalSize{Columns: 132, Rows: 43}) {
			t.Errorf("size is %v", size)
		}
	case <-time.After(patience):
		t.Fatal("no size")
	}
}

func TestAttachOverWebSocket(t *testing.T) {
	s := listen(t, &scripted{exec: func(_ context.Context, _ []string, st runtime.Streams) (int32, error) {
		if st.Stderr != nil || st.Resize != nil {
			return 0, errors.New("streams that nobody asked for")
		}
		buf := make([]byte, 5)
		if _, err := io.ReadFull(st.Stdin, buf); err != nil {
			return 0, err
		}
		_, err := st.Stdout.Write(bytes.ToUpper(buf))
		return 0, err
	}})
	url, err := s.Attach(&criv1.AttachRequest{ContainerId: "c", Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	ws := dialWebSocket(t, url, "v4.channel.k8s.io")
	if err := websocket.Message.Send(ws, []byte("\x00hello")); err != nil {
		t.Fatal(err)
	}
	var all []string
	for {
		var msg []byte
		if err := websocket.Message.Receive(ws, &msg); err != nil {
			break
		}
		if len(msg) > 1 {
			all = append(all, string(msg))
		}
	}
	if got := strings.Join(all, " "); !strings.Contains(got, "\x01HELLO") || !strings.Contains(got, "\x03{\"status\":\"Success\"") {
		t.Errorf("received %q", got)
	}
}

func dialWebSocket(t *testing.T, url, protocol string) *websocket.Conn {
	t.Helper()
	cfg, err := websocket.NewConfig("ws"+strings.TrimPrefix(url, "http"), "http://localhost")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Protocol = []string{protocol}
	ws, err := websocket.DialConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.Close() })
	return ws
}

func TestPortForwardOverSPDY(t *testing.T) {
	s := listen(t, &scripted{forward: func(_ context.Context, port int32, st io.ReadWriteCloser) error {
		if port != 80 {
			return fmt.Errorf("nothing listens on %d", port)
		}
		_, err := io.Copy(st, st)
		return err
	}})
	url, err := s.PortForward(&criv1.PortForwardRequest{PodSandboxId: "s"})
	if err != nil {
		t.Fatal(err)
	}
	conn := dialSPDY(t, url, portforward.ProtocolV1Name)
	more := []string{portforward.PortHeader, "80", portforward.PortForwardRequestIDHeader, "1"}
	stream(t, conn, portforward.StreamTypeError, more...)
	data := stream(t, conn, portforward.StreamTypeData, more...)
	fmt.Fprint(data, "ping")
	data.Close()
	if got, _ := io.ReadAll(data); string(got) != "ping" {
		t.Errorf("echo is %q", got)
	}
	if got := refused(t, conn, "2", "81"); !strings.Contains(got, "nothing listens on 81") {
		t.Errorf("error is %q", got)
	}
}

func TestPortForwardOnlyToRequestedPorts(t *testing.T) {
	s := listen(t, &scripted{forward: func(context.Context, int32, io.ReadWriteCloser) error { return nil }})
	url, _ := s.PortForward(&criv1.PortForwardRequest{PodSandboxId: "s", Port: []int32{80}})
	conn := dialSPDY(t, url, portforward.ProtocolV1Name)
	if got := refused(t, conn, "1", "22"); !strings.Contains(got, "port 22 is not one of the requested ones") {
		t.Errorf("error is %q", got)
	}
}

// A client that goes must take everything along: the runtime's call, what passes sizes on, and the server's own goroutines.
func TestCVE_2022_23471_CVE_2025_64329_NothingOutlivesItsClient(t *testing.T) {
	ended := make(chan struct{}, 3)
	begun := make(chan struct{}, 3)
	until := func(ctx context.Context) {
		begun <- struct{}{}
		<-ctx.Done()
		ended <- struct{}{}
	}
	s := listen(t, &scripted{
		// Neither reads nor writes anything: only the context can tell.
		exec: func(ctx context.Context, _ []string, _ runtime.Streams) (int32, error) {
			until(ctx)
			return 0, ctx.Err()
		},
		forward: func(ctx context.Context, _ int32, _ io.ReadWriteCloser) error { until(ctx); return ctx.Err() },
	})
	before := goruntime.NumGoroutine()

	url, _ := s.Exec(&criv1.ExecRequest{ContainerId: "c", Cmd: []string{"sleep"}, Stdin: true, Stdout: true, Tty: true})
	exec := dialSPDY(t, url, remotecommand.StreamProtocolV4Name)
	for _, kind := range []string{remotecommand.StreamTypeError, remotecommand.StreamTypeStdin, remotecommand.StreamTypeStdout} {
		stream(t, exec, kind)
	}
	resize := stream(t, exec, remotecommand.StreamTypeResize)
	fmt.Fprint(resize, strings.Repeat(`{"Width":1,"Height":1}`, 10)) // that nobody takes
	url, _ = s.Attach(&criv1.AttachRequest{ContainerId: "c", Stdout: true})
	attach := dialWebSocket(t, url, "v4.channel.k8s.io")
	url, _ = s.PortForward(&criv1.PortForwardRequest{PodSandboxId: "s"})
	forward := dialSPDY(t, url, portforward.ProtocolV1Name)
	more := []string{portforward.PortHeader, "80", portforward.PortForwardRequestIDHeader, "1"}
	stream(t, forward, portforward.StreamTypeError, more...)
	stream(t, forward, portforward.StreamTypeData, more...)
	for range 3 {
		within(t, "a stream's begin", begun)
	}

	for _, c := range []io.Closer{exec, attach, forward} {
		_ = c.Close()
	}
	for range 3 {
		within(t, "a stream's end", ended)
	}
	deadline := time.Now().Add(patience)
	for goruntime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before\n%s", goruntime.NumGoroutine(), before, buf[:goruntime.Stack(buf, true)])
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) != 0 {
		t.Errorf("%d connections are still tracked", len(s.conns))
	}
}

// With input that nobody reads, the end of the connection stands behind it, unseen: the kernel's state of the socket tells.
func TestClientGoesWhileItsInputIsNotRead(t *testing.T) {
	ended, begun := make(chan struct{}, 1), make(chan struct{}, 1)
	s := listen(t, &scripted{exec: func(ctx context.Context, _ []string, _ runtime.Streams) (int32, error) {
		begun <- struct{}{}
		<-ctx.Done()
		ended <- struct{}{}
		return 0, ctx.Err()
	}})
	url, _ := s.Exec(&criv1.ExecRequest{ContainerId: "c", Cmd: []string{"sleep"}, Stdin: true})
	ws := dialWebSocket(t, url, "v4.channel.k8s.io")
	within(t, "the begin", begun)
	_ = ws.SetWriteDeadline(time.Now().Add(time.Second)) // it fills all buffers on the way
	chunk := make([]byte, 32<<10)
	for {
		if err := websocket.Message.Send(ws, chunk); err != nil {
			break
		}
	}
	_ = ws.Close()
	within(t, "the end", ended)
}

func TestCloseEndsStreams(t *testing.T) {
	begun := make(chan struct{}, 1)
	s := listen(t, &scripted{exec: func(ctx context.Context, _ []string, _ runtime.Streams) (int32, error) {
		begun <- struct{}{}
		<-ctx.Done()
		return 0, ctx.Err()
	}})
	url, _ := s.Attach(&criv1.AttachRequest{ContainerId: "c", Stdout: true})
	dialWebSocket(t, url, "v4.channel.k8s.io")
	within(t, "the begin", begun)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Close() }()
	within(t, "Close", done)
	if _, err := net.Dial("tcp", s.Address()); err == nil {
		t.Error("the server still listens")
	}
}

func TestTokensWorkOnceAndForTheirVerb(t *testing.T) {
	s := listen(t, &scripted{exec: func(context.Context, []string, runtime.Streams) (int32, error) { return 0, nil }})
	get := func(url string) int {
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	url, _ := s.Exec(&criv1.ExecRequest{ContainerId: "c", Cmd: []string{"true"}, Stdout: true})
	if got := get(url); got == http.StatusNotFound {
		t.Error("a fresh token was not found") // 400: no upgrade was asked for
	}
	if got := get(url); got != http.StatusNotFound {
		t.Errorf("a used token: %d", got)
	}
	url, _ = s.Exec(&criv1.ExecRequest{ContainerId: "c", Cmd: []string{"true"}, Stdout: true})
	if got := get(strings.Replace(url, "/exec/", "/attach/", 1)); got != http.StatusNotFound {
		t.Errorf("a token for another verb: %d", got)
	}
	if got := get("http://" + s.Address() + "/exec/guess"); got != http.StatusNotFound {
		t.Errorf("a guessed token: %d", got)
	}
}

func TestTokensExpireAndAreBounded(t *testing.T) {
	now := time.Unix(0, 0)
	tok := newTokens(func() time.Time { return now })
	first, err := tok.issue(execSession{})
	if err != nil {
		t.Fatal(err)
	}
	for range maxTokens - 1 {
		if _, err := tok.issue(execSession{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tok.issue(execSession{}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("one too many: %v", err)
	}
	now = now.Add(tokenLife)
	if _, ok := tok.redeem(first); ok {
		t.Error("an expired token works")
	}
	if len(tok.waiting) != 0 || len(tok.order) != 0 {
		t.Errorf("%d tokens and %d names are kept", len(tok.waiting), len(tok.order))
	}
	if _, err := tok.issue(execSession{}); err != nil {
		t.Error(err)
	}
}

func TestListenRefuses(t *testing.T) {
	for _, address := range []string{"", "0.0.0.0:0", "127.0.0.1", "example.com:80", "10.0.0.1:0", ":0"} {
		if _, err := Listen(address, nil, slog.Default()); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", address, err)
		}
	}
}
