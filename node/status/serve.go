package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

const (
	maxDocument   = 64 << 20 // bytes
	clientTimeout = 10 * time.Second
	socketMode    = 0o660
)

// Source is who knows.
type Source interface {
	Status() Node
	Healthy() error // nil: all is well
}

// Handler answers /healthz and, with full, /status.
func Handler(source Source, full bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := source.Healthy(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, "ok")
	})
	if full {
		mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			encoder := json.NewEncoder(w)
			encoder.SetIndent("", "  ")
			_ = encoder.Encode(source.Status()) // the client has gone: nobody to tell
		})
	}
	return mux
}

// Listen makes the agent's socket, in the place of one that a dead agent left. It is a file, which no pod reaches that is not given it: an
// abstract socket would be open to every pod in the node's network (CVE-2020-15257).
func Listen(path string) (net.Listener, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("listening: socket %q is not an absolute path: %w", path, errdefs.ErrInvalidArgument)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("listening on %s: another shimlet answers there; give one of them another --socket: %w", path, errdefs.ErrAlreadyExists)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("listening on %s: removing what was there: %w", path, err)
		}
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	if err := os.Chmod(path, socketMode); err != nil {
		listener.Close()
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	return listener, nil
}

// Serve answers until the context ends.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: clientTimeout, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving on %s: %w", listener.Addr(), err)
	}
	return nil
}

// Get asks the agent on a socket.
func Get(ctx context.Context, path string) (Node, error) {
	var node Node
	ctx, cancel := context.WithTimeout(ctx, clientTimeout)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", path)
	}}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://shimlet/status", http.NoBody)
	if err != nil {
		return node, fmt.Errorf("asking for the status: %w", err)
	}
	answer, err := client.Do(request)
	if err != nil {
		return node, fmt.Errorf("asking shimlet on %s for its status (is it running, and with this --socket?): %w", path, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return node, fmt.Errorf("asking shimlet on %s for its status: it answered %s: %w", path, strings.TrimSpace(answer.Status), errdefs.ErrUnavailable)
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, answer.Body, maxDocument)).Decode(&node); err != nil {
		return node, fmt.Errorf("reading shimlet's status: %w", err)
	}
	return node, nil
}
