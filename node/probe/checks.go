package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/node/manifest"
)

// Target is what is probed.
type Target struct {
	Container *corev1.Container
	IP        string // the pod's; where a handler names no host
	// Exec runs a command in the container. It answers an error of the kind context.DeadlineExceeded (or gRPC's) when that took too long.
	Exec func(ctx context.Context, command []string, timeout time.Duration) (output []byte, exitCode int32, err error)
}

const (
	userAgent  = "kube-probe/1.37"
	maxBody    = 10 << 10 // bytes of an answer that are read
	maxMessage = 1 << 10  // bytes of an answer that are told
)

// Of makes the check of a probe.
func Of(p *corev1.Probe, target Target) Check {
	timeout := seconds(p.TimeoutSeconds)
	switch {
	case p.Exec != nil:
		return func(ctx context.Context) (Result, string) { return execute(ctx, target, p.Exec.Command, timeout) }
	case p.HTTPGet != nil:
		return limited(timeout, func(ctx context.Context) (Result, string) { return httpGet(ctx, target, p.HTTPGet) })
	case p.TCPSocket != nil:
		return limited(timeout, func(ctx context.Context) (Result, string) { return tcpSocket(ctx, target, p.TCPSocket) })
	case p.GRPC != nil:
		return limited(timeout, func(ctx context.Context) (Result, string) { return askHealth(ctx, target, p.GRPC) })
	}
	return func(context.Context) (Result, string) { return Unknown, "a probe without a handler" }
}

// HTTPGet asks once, for lifecycle hooks.
func HTTPGet(ctx context.Context, target Target, get *corev1.HTTPGetAction) error {
	if result, message := httpGet(ctx, target, get); result != Success {
		return errors.New(message)
	}
	return nil
}

func limited(timeout time.Duration, check Check) Check {
	return func(ctx context.Context) (Result, string) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return check(ctx)
	}
}

func execute(ctx context.Context, target Target, command []string, timeout time.Duration) (Result, string) {
	output, exitCode, err := target.Exec(ctx, command, timeout)
	switch {
	case errors.Is(err, context.DeadlineExceeded) || status.Code(rootStatus(err)) == codes.DeadlineExceeded:
		return Failure, fmt.Sprintf("command timed out: %q timed out after %s", command, timeout)
	case err != nil:
		return Unknown, err.Error()
	case exitCode != 0:
		return Failure, shorten(output)
	}
	return Success, ""
}

// rootStatus takes the gRPC error out of what was wrapped around it.
func rootStatus(err error) error {
	var carrier interface{ GRPCStatus() *status.Status }
	if errors.As(err, &carrier) {
		return carrier.GRPCStatus().Err()
	}
	return err
}

func httpGet(ctx context.Context, target Target, get *corev1.HTTPGetAction) (Result, string) {
	port, err := manifest.Port(get.Port, target.Container)
	if err != nil {
		return Failure, err.Error()
	}
	host := get.Host
	if host == "" {
		host = target.IP
	}
	where, err := url.Parse(get.Path)
	if err != nil { // as the kubelet: then it is a path
		where = &url.URL{Path: get.Path}
	}
	where.Scheme, where.Host = strings.ToLower(string(get.Scheme)), net.JoinHostPort(host, strconv.Itoa(port))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, where.String(), http.NoBody)
	if err != nil {
		return Failure, err.Error()
	}
	request.Header.Set("User-Agent", userAgent)
	request.Header.Set("Accept", "*/*")
	for _, header := range get.HTTPHeaders {
		if strings.EqualFold(header.Name, "Host") {
			request.Host = header.Value
			continue
		}
		request.Header.Set(header.Name, header.Value)
	}
	// A connection of its own for each check, no proxy, and no trust in certificates: what is asked is whether somebody answers.
	client := &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true, DisableCompression: true,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10},
		},
		CheckRedirect: stayHere,
	}
	answer, err := client.Do(request)
	if err != nil {
		return Failure, err.Error()
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(answer.Body, maxBody)); err != nil {
		return Failure, fmt.Sprintf("reading the answer of %s: %v", where.Redacted(), err)
	}
	if answer.StatusCode < http.StatusOK || answer.StatusCode >= http.StatusBadRequest {
		return Failure, fmt.Sprintf("HTTP probe failed with statuscode: %d", answer.StatusCode)
	}
	return Success, ""
}

// stayHere follows redirects on the same host only: a pod must not make the node call others for it. Such a redirect is an answer, and so a success.
func stayHere(request *http.Request, via []*http.Request) error {
	if request.URL.Hostname() != via[0].URL.Hostname() {
		return http.ErrUseLastResponse
	}
	if len(via) >= 10 {
		return errors.New("more than 10 redirects")
	}
	return nil
}

func tcpSocket(ctx context.Context, target Target, action *corev1.TCPSocketAction) (Result, string) {
	port, err := manifest.Port(action.Port, target.Container)
	if err != nil {
		return Failure, err.Error()
	}
	host := action.Host
	if host == "" {
		host = target.IP
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return Failure, err.Error()
	}
	conn.Close()
	return Success, ""
}

func askHealth(ctx context.Context, target Target, action *corev1.GRPCAction) (Result, string) {
	address := net.JoinHostPort(target.IP, strconv.Itoa(int(action.Port)))
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent(userAgent), grpc.WithNoProxy())
	if err != nil {
		return Failure, err.Error()
	}
	defer func() { _ = conn.Close() }()
	service := ""
	if action.Service != nil {
		service = *action.Service
	}
	answer, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
	switch status.Code(err) {
	case codes.OK:
	case codes.Unimplemented:
		return Failure, "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): " + status.Convert(err).Message()
	case codes.DeadlineExceeded:
		return Failure, fmt.Sprintf("timeout: failed to connect service %q within the probe's timeout: %v", address, err)
	default:
		return Failure, fmt.Sprintf("error: health rpc probe failed: %v", err)
	}
	if answer.Status != healthv1.HealthCheckResponse_SERVING {
		return Failure, fmt.Sprintf("service unhealthy (responded with %q)", answer.Status)
	}
	return Success, ""
}

func shorten(text []byte) string {
	return strings.ToValidUTF8(strings.TrimSpace(string(text[:min(len(text), maxMessage)])), "?")
}
