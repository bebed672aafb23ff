package kubelet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"golang.org/x/net/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The channels of Kubernetes' WebSocket protocol, each the first byte of a message.
const (
	stdinChannel  = 0
	stdoutChannel = 1
	stderrChannel = 2
	statusChannel = 3
	closeChannel  = 255 // followed by the channel that ends
)

// Exec is `kubectl exec -i`: it runs a command with input to its end, through the kubelet, by WebSocket.
func (k *Kubelet) Exec(ctx context.Context, pod, container, stdin string, command ...string) (stdout, stderr string, code int, err error) {
	query := url.Values{"command": command, "input": {"1"}, "output": {"1"}, "error": {"1"}}
	conn, err := k.dial(ctx, "/exec/default/"+pod+"/"+container+"?"+query.Encode(), "v5.channel.k8s.io")
	if err != nil {
		return "", "", 0, fmt.Errorf("running %q in %s of pod %s: %w", command, container, pod, err)
	}
	defer func() { _ = conn.Close() }() // all that matters was read
	for _, message := range [][]byte{append([]byte{stdinChannel}, stdin...), {closeChannel, stdinChannel}} {
		if err := websocket.Message.Send(conn, message); err != nil {
			return "", "", 0, fmt.Errorf("sending the input of %q: %w", command, err)
		}
	}
	return readStreams(conn)
}

func readStreams(conn *websocket.Conn) (stdout, stderr string, code int, err error) {
	for {
		var message []byte
		if err := websocket.Message.Receive(conn, &message); err != nil {
			return stdout, stderr, 0, fmt.Errorf("reading a command's output: %w", err)
		}
		if len(message) == 0 {
			continue
		}
		switch text := message[1:]; message[0] {
		case stdoutChannel:
			stdout += string(text)
		case stderrChannel:
			stderr += string(text)
		case statusChannel:
			code, err = exitCode(text)
			return stdout, stderr, code, err
		}
	}
}

// exitCode reads the status that ends a command.
func exitCode(text []byte) (int, error) {
	var status metav1.Status
	if err := json.Unmarshal(text, &status); err != nil {
		return 0, fmt.Errorf("reading a command's status: %w: %q", err, text)
	}
	if status.Status == metav1.StatusSuccess {
		return 0, nil
	}
	if status.Details != nil {
		for _, cause := range status.Details.Causes {
			if cause.Type == "ExitCode" {
				return strconv.Atoi(cause.Message)
			}
		}
	}
	return 0, fmt.Errorf("the command was not run: %s", status.Message)
}

// FetchForwarded is `kubectl port-forward` and one HTTP request through it.
func (k *Kubelet) FetchForwarded(ctx context.Context, pod string, podPort int, path string) (string, error) {
	conn, err := k.dial(ctx, "/portForward/default/"+pod+"?port="+strconv.Itoa(podPort), "v4.channel.k8s.io")
	if err != nil {
		return "", fmt.Errorf("forwarding port %d of pod %s: %w", podPort, pod, err)
	}
	defer func() { _ = conn.Close() }() // all that matters was read
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return &forwarded{Conn: conn}, nil
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://forwarded"+path, nil)
	if err != nil {
		return "", err
	}
	answer, err := client.Do(request)
	if err != nil {
		return "", fmt.Errorf("asking through port %d of pod %s: %w", podPort, pod, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return string(body), err
}

// forwarded is the data of the one port that a WebSocket forwards: channel 0, and channel 1 for errors. Each begins with the port's number.
type forwarded struct {
	*websocket.Conn
	started [2]bool
	rest    []byte
}

func (f *forwarded) Read(to []byte) (int, error) {
	for len(f.rest) == 0 {
		var message []byte
		if err := websocket.Message.Receive(f.Conn, &message); err != nil {
			return 0, err
		}
		if len(message) == 0 || message[0] > 1 {
			return 0, fmt.Errorf("an unknown message: %q", message)
		}
		channel, data := message[0], message[1:]
		if !f.started[channel] {
			f.started[channel] = true
			data = data[min(len(data), 2):]
		}
		if channel == 1 && len(data) > 0 {
			return 0, fmt.Errorf("forwarding failed: %s", data)
		}
		f.rest = data
	}
	n := copy(to, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

func (f *forwarded) Write(from []byte) (int, error) {
	if err := websocket.Message.Send(f.Conn, append([]byte{0}, from...)); err != nil {
		return 0, err
	}
	return len(from), nil
}

func (k *Kubelet) dial(ctx context.Context, path, protocol string) (*websocket.Conn, error) {
	trusted, err := k.tls()
	if err != nil {
		return nil, err
	}
	address := "127.0.0.1:" + strconv.Itoa(port)
	config, err := websocket.NewConfig("wss://"+address+path, "https://"+address)
	if err != nil {
		return nil, err
	}
	config.Protocol, config.TlsConfig = []string{protocol}, trusted
	conn, err := config.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}
