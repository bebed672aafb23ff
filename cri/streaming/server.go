package streaming

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

const (
	// idleTimeout closes connections over which nothing was said for so long. It is the kubelet's default.
	idleTimeout = 4 * time.Hour
	// linger is how long a client has to close its end after a session, so that it reads what was sent last before the connection is cut.
	linger = 10 * time.Second
	// creationTimeout is how long a SPDY client has to open its streams after the connection. The library does not look whether the client is still there.
	creationTimeout = remotecommand.DefaultStreamCreationTimeout
	// closeTimeout is how long Close waits for sessions. All end at once but those whose client has not opened its streams.
	closeTimeout = 5 * time.Second
	// headerTimeout bounds how long a connection may say nothing at all.
	headerTimeout = 30 * time.Second
)

// Server hands out URLs for streams and serves them.
type Server struct {
	runtime  Runtime
	log      *slog.Logger
	listener net.Listener
	http     *http.Server
	tokens   *tokens
	stop     context.CancelFunc
	base     context.Context
	creation time.Duration // creationTimeout but in tests

	mu       sync.Mutex
	conns    map[*conn]struct{}
	closed   bool
	sessions sync.WaitGroup
}

// Listen starts a server on address, a loopback address with a port (0 for any): there is no TLS, and tokens are all that protects a stream.
func Listen(address string, rt Runtime, log *slog.Logger) (*Server, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("streaming address %q: %w: %w", address, err, errdefs.ErrInvalidArgument)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("streaming address %q is not on loopback: the kubelet connects from this machine and the streams are not encrypted: %w", address, errdefs.ErrInvalidArgument)
	}
	raw, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening for streams: %w", err)
	}
	s := &Server{runtime: rt, log: log, tokens: newTokens(time.Now), conns: make(map[*conn]struct{}), creation: creationTimeout}
	s.base, s.stop = context.WithCancel(context.Background())
	s.listener = &listener{Listener: raw, server: s}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{verb}/{token}", s.serve)
	mux.HandleFunc("POST /{verb}/{token}", s.serve)
	s.http = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: headerTimeout,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return s.base },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			tracked, ok := c.(*conn) // always: the listener makes no others
			if !ok {
				return ctx
			}
			ctx, cancel := context.WithCancel(ctx)
			context.AfterFunc(tracked.gone, cancel)
			return context.WithValue(ctx, connKey{}, tracked)
		},
	}
	s.http.SetKeepAlivesEnabled(false) // a connection carries one session
	go func() {
		if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("serving streams", "error", err)
		}
	}()
	return s, nil
}

// connKey finds the conn in a request's context.
type connKey struct{}

// Address is where it listens.
func (s *Server) Address() string { return s.listener.Addr().String() }

// Exec answers the URL of a stream for a request that was checked.
func (s *Server) Exec(req *criv1.ExecRequest) (string, error) {
	return s.url("exec", execSession{req})
}

// Attach answers the URL of a stream for a request that was checked.
func (s *Server) Attach(req *criv1.AttachRequest) (string, error) {
	return s.url("attach", attachSession{req})
}

// PortForward answers the URL of a stream for a request that was checked.
func (s *Server) PortForward(req *criv1.PortForwardRequest) (string, error) {
	return s.url("portforward", portForwardSession{req})
}

func (s *Server) url(verb string, session session) (string, error) {
	token, err := s.tokens.issue(session)
	if err != nil {
		return "", err
	}
	return "http://" + s.Address() + "/" + verb + "/" + token, nil
}

// serve runs a token's session on the request's connection.
func (s *Server) serve(w http.ResponseWriter, req *http.Request) {
	session, ok := s.tokens.redeem(req.PathValue("token"))
	if !ok || session.verb() != req.PathValue("verb") {
		http.NotFound(w, req)
		return
	}
	c, ok := req.Context().Value(connKey{}).(*conn)
	if !ok || !s.begin() {
		http.Error(w, "shutting down", http.StatusServiceUnavailable)
		return
	}
	defer s.sessions.Done()
	ctx, cancel := context.WithCancel(req.Context())
	defer cancel()
	go c.watch(ctx)
	defer c.leave()
	session.serve(s.runtime, w, req.WithContext(ctx), s.creation)
}

func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.sessions.Add(1)
	return true
}

func (s *Server) track(raw net.Conn) (net.Conn, error) {
	c := &conn{Conn: raw}
	c.gone, c.end = context.WithCancel(s.base)
	c.left = func(c *conn) {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = raw.Close() // nothing was said on it
		return nil, net.ErrClosed
	}
	s.conns[c] = struct{}{}
	return c, nil
}

// Close ends all sessions and answers when they have ended, or have had time to.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	open := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		open = append(open, c)
	}
	s.mu.Unlock()
	s.stop()
	err := s.http.Close()
	for _, c := range open {
		_ = c.Close() // net/http no longer knows the hijacked ones; what was closed already has nothing to tell
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.sessions.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(closeTimeout):
		s.log.Warn("streams have not ended", "waited", closeTimeout)
	}
	if err != nil {
		return fmt.Errorf("closing the streaming server: %w", err)
	}
	return nil
}
