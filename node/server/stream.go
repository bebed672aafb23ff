package server

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"

	corev1 "k8s.io/api/core/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// exec runs a command in a container, with streams to the client.
func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	s.remoteCommand(w, r, func(ctx context.Context, id string, tty bool, o *remotecommand.Options) (string, error) {
		answer, err := s.Runtime.Exec(ctx, &criv1.ExecRequest{
			ContainerId: id, Cmd: r.URL.Query()["command"], Tty: o.TTY, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr,
		})
		return answer.GetUrl(), err
	})
}

// attach connects a client with a container's own streams. Whether there is a terminal was decided when the container was made.
func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	s.remoteCommand(w, r, func(ctx context.Context, id string, tty bool, o *remotecommand.Options) (string, error) {
		answer, err := s.Runtime.Attach(ctx, &criv1.AttachRequest{ContainerId: id, Tty: tty, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr && !tty})
		return answer.GetUrl(), err
	})
}

func (s *Server) remoteCommand(w http.ResponseWriter, r *http.Request, prepare func(ctx context.Context, id string, tty bool, o *remotecommand.Options) (string, error)) {
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		plainError(w, http.StatusBadRequest, err.Error())
		return
	}
	pod, id := s.askedContainer(w, r)
	if pod == nil {
		return
	}
	_, tty := names(pod, r.PathValue("container"))
	target, err := prepare(r.Context(), id, tty, options)
	if err != nil {
		runtimeError(w, err)
		return
	}
	if wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
		s.translate(w, r, target, *options)
		return
	}
	s.pass(w, r, target)
}

// askedContainer answers the pod and the ID of the running container that a request names; nil, when the request has got its answer: there is none.
func (s *Server) askedContainer(w http.ResponseWriter, r *http.Request) (*corev1.Pod, string) {
	pod := s.asked(w, r)
	if pod == nil {
		return nil, ""
	}
	name := r.PathValue("container")
	id, err := s.running(r.Context(), pod, name)
	switch {
	case err != nil:
		runtimeError(w, err)
	case id == "":
		plainError(w, http.StatusInternalServerError, fmt.Sprintf("container not found (%q)", name))
	default:
		return pod, id
	}
	return nil, ""
}

// portForward connects a client with ports in a pod's network.
func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	tunnel := wsstream.IsWebSocketRequestWithTunnelingProtocol(r)
	options := &portforward.V4Options{}
	if !tunnel {
		var err error
		if options, err = portforward.NewV4Options(r); err != nil {
			plainError(w, http.StatusBadRequest, err.Error())
			return
		}
	}
	pod := s.asked(w, r)
	if pod == nil {
		return
	}
	id, err := s.sandbox(r.Context(), pod)
	if err != nil {
		runtimeError(w, err)
		return
	}
	if id == "" {
		plainError(w, http.StatusInternalServerError, fmt.Sprintf("pod not found (%q)", pod.Name+"_"+pod.Namespace))
		return
	}
	answer, err := s.Runtime.PortForward(r.Context(), &criv1.PortForwardRequest{PodSandboxId: id, Port: options.Ports})
	if err != nil {
		runtimeError(w, err)
		return
	}
	if tunnel {
		s.tunnel(w, r, answer.Url)
		return
	}
	s.pass(w, r, answer.Url)
}

// run runs a command to its end and answers what it wrote.
func (s *Server) run(w http.ResponseWriter, r *http.Request) {
	pod, id := s.askedContainer(w, r)
	if pod == nil {
		return
	}
	answer, err := s.Runtime.ExecSync(r.Context(), &criv1.ExecSyncRequest{ContainerId: id, Cmd: strings.Split(r.FormValue("cmd"), " ")})
	if err != nil {
		plainError(w, http.StatusInternalServerError, err.Error())
		return
	}
	output := append(answer.Stdout, answer.Stderr...)
	if answer.ExitCode != 0 {
		plainError(w, http.StatusInternalServerError, fmt.Sprintf("command '%s' exited with %d: %s", r.FormValue("cmd"), answer.ExitCode, output))
		return
	}
	w.Header().Set("Content-Type", "application/json") // as the kubelet calls it
	if _, err := w.Write(output); err != nil {
		s.log.Debug("a client left before its answer", "error", err)
	}
}

// pass connects a client that asks for another protocol (SPDY, or WebSocket) with the runtime's streaming server. The bytes are not looked at.
func (s *Server) pass(w http.ResponseWriter, r *http.Request, location string) {
	if !strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade") {
		plainError(w, http.StatusBadRequest, "Upgrade request required")
		return
	}
	target, err := url.Parse(location)
	if err != nil {
		plainError(w, http.StatusInternalServerError, fmt.Sprintf("the runtime's URL: %v", err))
		return
	}
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true} // HTTP/1.1, no proxy: a stream is one connection on this machine
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL, p.Out.Host = target, target.Host
			p.Out.Header.Del("Authorization") // the runtime is no place for the API server's token
		},
		ModifyResponse: func(answer *http.Response) error {
			if body, ok := answer.Body.(io.ReadWriteCloser); ok {
				answer.Body = whole{body}
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			s.log.Error("a stream could not be passed on to the runtime", "error", err)
			plainError(w, http.StatusInternalServerError, err.Error())
		},
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	proxy.ServeHTTP(hijacking{w}, r)
}

// whole and wholeConn hide that a connection can be closed one way. A stream over it ends when either side is closed, as with the kubelet; with half of
// one a client that has vanished would hold the other half.
type whole struct{ io.ReadWriteCloser }

type wholeConn struct{ net.Conn }

type hijacking struct{ http.ResponseWriter }

func (h hijacking) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	return wholeConn{conn}, buffered, nil
}
