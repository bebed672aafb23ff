package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
)

const (
	defaultDialTimeout = 30 * time.Second
	headerTimeout      = time.Minute
	maxRedirects       = 10
)

// endpoint is one host with its connections and what it wants for authentication.
type endpoint struct {
	host
	registry string // the name in the image's reference
	client   *http.Client
	auth     *authorizer
	plain    atomic.Bool // http, by configuration or found out on loopback
}

func newEndpoint(h host, registry, repository string, creds Credentials) (*endpoint, error) {
	tlsConfig, err := h.tls()
	if err != nil {
		return nil, err
	}
	timeout := h.dialTimeout
	if timeout == 0 {
		timeout = defaultDialTimeout
	}
	dialer := &net.Dialer{Timeout: timeout, KeepAlive: 30 * time.Second}
	e := &endpoint{host: h, registry: registry}
	e.plain.Store(h.url.Scheme == "http")
	e.client = &http.Client{
		CheckRedirect: e.checkRedirect,
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           dialer.DialContext,
			TLSClientConfig:       tlsConfig,
			TLSHandshakeTimeout:   timeout,
			ResponseHeaderTimeout: headerTimeout,
			ForceAttemptHTTP2:     true,
			MaxIdleConnsPerHost:   8,
			IdleConnTimeout:       30 * time.Second,
			DisableCompression:    true, // digests are of the bytes as they are
		},
	}
	e.auth = &authorizer{endpoint: e, scope: "repository:" + repository + ":pull", creds: creds.forHost(h, registry)}
	return e, nil
}

func (h *host) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: h.skipVerify} // only when the administrator says so
	if len(h.caFiles) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		for _, file := range h.caFiles {
			pem, err := os.ReadFile(file)
			if err != nil {
				return nil, fmt.Errorf("reading the certificate authority of %s: %w", h.url.Host, err)
			}
			if !pool.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("reading the certificate authority of %s: %s has no certificate in PEM: %w", h.url.Host, file, errdefs.ErrInvalidArgument)
			}
		}
		config.RootCAs = pool
	}
	for _, pair := range h.clientCerts {
		key := pair[1]
		if key == "" {
			key = pair[0]
		}
		cert, err := tls.LoadX509KeyPair(pair[0], key)
		if err != nil {
			return nil, fmt.Errorf("reading the client certificate for %s: %w", h.url.Host, err)
		}
		config.Certificates = append(config.Certificates, cert)
	}
	return config, nil
}

// checkRedirect lets blobs come from the storage that a registry redirects to, but lets no secret go along: Go itself keeps the
// Authorization header for other ports and subdomains of the same host (CVE-2020-15157), and never drops headers of our own.
func (e *endpoint) checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("%d redirects: %w", len(via), errdefs.ErrUnavailable)
	}
	before := via[len(via)-1].URL
	switch req.URL.Scheme {
	case "https":
	case "http":
		if before.Scheme == "https" {
			return fmt.Errorf("%s redirects from https to http at %s: %w", before.Host, req.URL.Host, errdefs.ErrPermissionDenied)
		}
	default:
		return fmt.Errorf("%s redirects to scheme %q: %w", before.Host, req.URL.Scheme, errdefs.ErrPermissionDenied)
	}
	if !sameOrigin(req.URL, via[0].URL) {
		e.stripSecrets(req)
	}
	req.Header.Del("Referer")
	return nil
}

func (e *endpoint) stripSecrets(req *http.Request) {
	req.Header.Del("Authorization")
	req.Header.Del("Cookie")
	for name := range e.header {
		req.Header.Del(name)
	}
}

func sameOrigin(a, b *url.URL) bool { return a.Scheme == b.Scheme && a.Host == b.Host }

// get asks the endpoint for a path below its /v2, with what it wants for authentication. The caller closes the body.
func (e *endpoint) get(ctx context.Context, path string, accept []string) (*http.Response, error) {
	resp, err := e.send(ctx, path, accept)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusUnauthorized || !sameOrigin(resp.Request.URL, e.origin()) {
		return resp, nil
	}
	again, err := e.auth.challenged(ctx, resp)
	if err != nil {
		closeBody(resp)
		return nil, err
	}
	if !again {
		return resp, nil
	}
	closeBody(resp)
	return e.send(ctx, path, accept)
}

func (e *endpoint) origin() *url.URL {
	u := e.url
	if e.plain.Load() {
		u.Scheme = "http"
	}
	return &u
}

func (e *endpoint) send(ctx context.Context, path string, accept []string) (*http.Response, error) {
	u := e.origin()
	u.Path += path
	if !e.upstream && e.url.Host != e.registry {
		// A mirror that serves several registries finds out by this which one is meant.
		u.RawQuery = url.Values{"ns": {e.registry}}.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "shimd")
	for _, mediaType := range accept {
		req.Header.Add("Accept", mediaType)
	}
	for name, values := range e.header {
		req.Header[name] = values
	}
	if value := e.auth.header(); value != "" {
		req.Header.Set("Authorization", value)
	}
	resp, err := e.client.Do(req)
	if err != nil && e.autoScheme && !e.plain.Load() && errors.Is(err, http.ErrSchemeMismatch) {
		// A loopback registry that speaks http: nothing was said about it, and nothing leaves the machine.
		e.plain.Store(true)
		return e.send(ctx, path, accept)
	}
	if err != nil {
		return nil, transportError(ctx, err)
	}
	return resp, nil
}

func transportError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, http.ErrSchemeMismatch) {
		return fmt.Errorf("the registry speaks http, and https is expected; if that is meant so, name it as http:// in its hosts.toml: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	var unverified *tls.CertificateVerificationError
	if errors.As(err, &unverified) || errdefs.IsPermissionDenied(err) {
		return err // asking again changes nothing
	}
	return fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
}
