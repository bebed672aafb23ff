package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	tunnels "k8s.io/apimachinery/pkg/util/portforward"
	channels "k8s.io/apimachinery/pkg/util/remotecommand"
	client "k8s.io/client-go/tools/remotecommand"
	clientspdy "k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

const (
	streamIdle    = 4 * time.Hour
	pingPeriod    = 5 * time.Second
	statusTimeout = 10 * time.Second
)

// translate serves a client of v5.channel.k8s.io, which can say over WebSocket that its input has ended. Runtimes' streaming servers know it over SPDY
// alone, so this end is a client of theirs.
func (s *Server) translate(w http.ResponseWriter, r *http.Request, location string, options remotecommand.Options) {
	target, err := url.Parse(location)
	if err != nil {
		plainError(w, http.StatusInternalServerError, fmt.Sprintf("the runtime's URL: %v", err))
		return
	}
	transport, err := spdy.NewRoundTripperWithConfig(spdy.RoundTripperConfig{
		PingPeriod: pingPeriod, Proxier: func(*http.Request) (*url.URL, error) { return nil, nil },
	})
	if err != nil {
		plainError(w, http.StatusInternalServerError, err.Error())
		return
	}
	executor, err := client.NewSPDYExecutorRejectRedirects(transport, clientspdy.NewUpgraderForStreaming(transport), http.MethodPost, target)
	if err != nil {
		plainError(w, http.StatusInternalServerError, err.Error())
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	wanted := client.StreamOptions{Tty: options.TTY}
	conn, streams, err := acceptChannels(w, r, options)
	if err != nil {
		s.log.Debug("a client could not be talked to by WebSocket", "error", err)
		return // it has been told
	}
	defer conn.Close()
	if options.Stdin {
		wanted.Stdin = streams[channels.StreamStdIn]
	}
	if options.Stdout {
		wanted.Stdout = streams[channels.StreamStdOut]
	}
	if options.Stderr {
		wanted.Stderr = streams[channels.StreamStdErr]
	}
	sizes := make(terminalSizes)
	go sizes.read(ctx, streams[channels.StreamResize])
	if options.TTY {
		wanted.TerminalSizeQueue = sizes
	}
	status, err := json.Marshal(outcome(executor.StreamWithContext(ctx, wanted)))
	if err != nil {
		s.log.Error("writing down how a command ended", "error", err)
		return
	}
	conn.SetWriteDeadline(statusTimeout)
	if _, err := streams[channels.StreamErr].Write(status); err != nil {
		s.log.Debug("a client left before its command's end", "error", err)
	}
}

// acceptChannels makes a WebSocket of a request. Its streams are indexed by their numbers in the protocol. An empty message tells the client that they stand.
func acceptChannels(w http.ResponseWriter, r *http.Request, options remotecommand.Options) (*wsstream.Conn, []io.ReadWriteCloser, error) {
	kinds := make([]wsstream.ChannelType, channels.StreamResize+1)
	kinds[channels.StreamErr], kinds[channels.StreamResize] = wsstream.WriteChannel, wsstream.ReadChannel
	first := channels.StreamErr
	for _, c := range []struct {
		number int
		wanted bool
		kind   wsstream.ChannelType
	}{
		{channels.StreamStdErr, options.Stderr, wsstream.WriteChannel}, {channels.StreamStdOut, options.Stdout, wsstream.WriteChannel},
		{channels.StreamStdIn, options.Stdin, wsstream.ReadChannel},
	} {
		kinds[c.number] = wsstream.IgnoreChannel
		if c.wanted {
			kinds[c.number] = c.kind
			if c.kind == wsstream.WriteChannel {
				first = c.number
			}
		}
	}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{channels.StreamProtocolV5Name: {Binary: true, Channels: kinds}})
	conn.SetIdleTimeout(streamIdle)
	_, streams, err := conn.Open(w, r)
	if err != nil {
		return nil, nil, err
	}
	if _, err := streams[first].Write(nil); err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, streams, nil
}

// outcome is what a client is told of how its command ended.
func outcome(err error) *metav1.Status {
	var exit exec.CodeExitError
	var told interface{ Status() metav1.Status }
	switch {
	case err == nil:
		return &metav1.Status{Status: metav1.StatusSuccess}
	case errors.As(err, &exit):
		return &metav1.Status{
			Status: metav1.StatusFailure, Reason: channels.NonZeroExitCodeReason,
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: channels.ExitCodeCauseType, Message: fmt.Sprint(exit.Code)}}},
			Message: fmt.Sprintf("command terminated with non-zero exit code: %v", exit),
		}
	case errors.As(err, &told):
		status := told.Status()
		return &status
	}
	return &metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Reason: metav1.StatusReasonInternalError, Message: "Internal error occurred: " + err.Error()}
}

// terminalSizes are what a client says of its terminal.
type terminalSizes chan client.TerminalSize

// read passes on what the client says, and closes the channel at its end.
func (t terminalSizes) read(ctx context.Context, from io.Reader) {
	defer close(t)
	for decoder := json.NewDecoder(from); ; {
		var size client.TerminalSize
		if decoder.Decode(&size) != nil {
			return
		}
		select {
		case t <- size:
		case <-ctx.Done():
			return
		}
	}
}

// Next waits for a new size; nil: there will be none.
func (t terminalSizes) Next() *client.TerminalSize {
	size, ok := <-t
	if !ok {
		return nil
	}
	return &size
}

// tunnel serves port forwarding by SPDY inside a WebSocket, which proxies that know no SPDY let through. The runtime gets the SPDY.
func (s *Server) tunnel(w http.ResponseWriter, r *http.Request, location string) {
	var protocols []string
	for header := range strings.SplitSeq(strings.Join(r.Header.Values("Sec-Websocket-Protocol"), ","), ",") {
		if inner, ok := strings.CutPrefix(strings.TrimSpace(header), tunnels.WebsocketsSPDYTunnelingPrefix); ok {
			protocols = append(protocols, inner)
		}
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, location, http.NoBody)
	if err != nil {
		plainError(w, http.StatusInternalServerError, fmt.Sprintf("the runtime's URL: %v", err))
		return
	}
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", spdy.HeaderSpdy31)
	request.Header["X-Stream-Protocol-Version"] = protocols
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	answer, err := transport.RoundTrip(request) //nolint:bodyclose // it is: below, and the linter does not see it through the interface
	if err != nil {
		plainError(w, http.StatusInternalServerError, fmt.Sprintf("connecting to the runtime's streaming server: %v", err))
		return
	}
	defer answer.Body.Close()
	backend, ok := answer.Body.(io.ReadWriter)
	if answer.StatusCode != http.StatusSwitchingProtocols || !ok {
		w.WriteHeader(answer.StatusCode)
		_, _ = io.Copy(w, answer.Body) // a client that has left is not told
		return
	}
	server := websocket.Server{
		Handshake: func(config *websocket.Config, _ *http.Request) error {
			config.Protocol = nil
			if chosen := answer.Header.Get("X-Stream-Protocol-Version"); chosen != "" {
				config.Protocol = []string{tunnels.WebsocketsSPDYTunnelingPrefix + chosen}
			}
			return nil
		},
		Handler: func(ws *websocket.Conn) {
			ws.PayloadType = websocket.BinaryFrame
			ended := make(chan struct{}, 2) // either side's end is the other's
			for _, way := range []struct {
				to   io.Writer
				from io.Reader
			}{{backend, ws}, {ws, backend}} {
				go func() {
					_, _ = io.Copy(way.to, way.from)
					ended <- struct{}{}
				}()
			}
			<-ended
			cancel()
		},
	}
	server.ServeHTTP(w, r)
}
