package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

const (
	// MaxMetadata bounds a manifest, an index and an image configuration (CVE-2023-25153). Registries themselves refuse manifests beyond 4 MiB.
	MaxMetadata = 8 << 20

	attempts     = 4
	firstBackoff = 300 * time.Millisecond
	maxBackoff   = 20 * time.Second

	// smallAnswerTimeout is for errors, tokens and the rest of an answer that is not wanted.
	smallAnswerTimeout = 15 * time.Second
)

// sha256Digest is the only form of digest that is taken anywhere: what does not match never becomes part of a path or a URL (CVE-2024-3727).
var sha256Digest = regexp.MustCompile(`^sha256:[a-f0-9]{64}$`)

// CheckDigest refuses what is not a SHA-256 digest in its only form.
func CheckDigest(digest string) error {
	if !sha256Digest.MatchString(digest) {
		return fmt.Errorf("digest %.100q is not sha256: and 64 hexadecimal digits: %w", digest, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Options configure how registries are reached.
type Options struct {
	CertsDir     string        // of <host>/hosts.toml; "" for none
	StallTimeout time.Duration // how long a transfer may bring nothing; 0: one minute
}

// Repository is one repository of one registry, for one pull. It may be used by many goroutines.
type Repository struct {
	registry, name string
	stall          time.Duration

	mu        sync.Mutex
	endpoints []*endpoint // in the order to try; one that breaks down while a blob comes goes to the end
}

// Open reads how the registry is reached. registry is "docker.io", "host:5000"; name "library/busybox". Close it.
func Open(registry, name string, creds Credentials, opts Options) (*Repository, error) {
	hosts, err := hostsFor(opts.CertsDir, registry)
	if err != nil {
		return nil, err
	}
	r := &Repository{registry: registry, name: name, stall: opts.StallTimeout}
	if r.stall == 0 {
		r.stall = time.Minute
	}
	for _, h := range hosts {
		e, err := newEndpoint(h, registry, name, creds)
		if err != nil {
			r.Close()
			return nil, err
		}
		r.endpoints = append(r.endpoints, e)
	}
	return r, nil
}

// Close ends idle connections.
func (r *Repository) Close() {
	for _, e := range r.endpoints {
		e.client.CloseIdleConnections()
	}
}

// Document is a manifest or an index as it came.
type Document struct {
	Body      []byte
	MediaType string // of the answer's header
	Digest    string // of the body
}

// Manifest fetches the manifest or index that a tag or digest names. ErrNotFound, ErrUnauthenticated, ErrPermissionDenied, ErrUnavailable.
func (r *Repository) Manifest(ctx context.Context, identifier string) (Document, error) {
	byDigest := strings.Contains(identifier, ":")
	if byDigest {
		if err := CheckDigest(identifier); err != nil {
			return Document{}, err
		}
	}
	var doc Document
	usable := func(e *endpoint) bool { return e.resolve || byDigest && e.pull }
	err := r.each(ctx, usable, func(e *endpoint) error {
		resp, err := e.get(ctx, "/"+r.name+"/manifests/"+identifier, acceptedManifests())
		if err != nil {
			return err
		}
		defer closeBody(resp)
		if resp.StatusCode != http.StatusOK {
			return statusError(resp)
		}
		body, err := r.readAll(ctx, resp, MaxMetadata)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(body)
		doc = Document{Body: body, MediaType: mediaTypeOf(resp), Digest: "sha256:" + hex.EncodeToString(sum[:])}
		if byDigest && doc.Digest != identifier {
			return fmt.Errorf("%s answers %s with content of digest %s: %w", e.url.Host, identifier, doc.Digest, errdefs.ErrInvalidArgument)
		}
		return nil
	})
	return doc, err
}

func mediaTypeOf(resp *http.Response) string {
	mediaType, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	return strings.TrimSpace(mediaType)
}

// Config fetches a small blob whole and checks it.
func (r *Repository) Config(ctx context.Context, digest string, size int64) ([]byte, error) {
	if size < 0 || size > MaxMetadata {
		return nil, fmt.Errorf("an image configuration of %d bytes: %d are allowed: %w", size, MaxMetadata, errdefs.ErrInvalidArgument)
	}
	if err := CheckDigest(digest); err != nil {
		return nil, err
	}
	var body []byte
	err := r.each(ctx, canPull, func(e *endpoint) error {
		resp, err := r.blob(ctx, e, digest)
		if err != nil {
			return err
		}
		defer closeBody(resp)
		if body, err = r.readAll(ctx, resp, size); err != nil {
			return err
		}
		sum := sha256.Sum256(body)
		if got := "sha256:" + hex.EncodeToString(sum[:]); got != digest {
			return fmt.Errorf("%s answers blob %s with content of digest %s: %w", e.url.Host, digest, got, errdefs.ErrInvalidArgument)
		}
		return nil
	})
	return body, err
}

// Blob hands the blob's stream to use, which checks its digest and size. When reading fails half-way, it is asked for again, elsewhere if
// there is another host: so use may be called several times. Errors that use makes itself end it, but for those of kind ErrUnavailable.
//
// Only registries are asked. URLs that a manifest gives for a layer, on hosts of its author's choice, are not followed (CVE-2020-15157).
func (r *Repository) Blob(ctx context.Context, digest string, use func(io.Reader) error) error {
	if err := CheckDigest(digest); err != nil {
		return err
	}
	return r.each(ctx, canPull, func(e *endpoint) error {
		blobCtx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		resp, err := r.blob(blobCtx, e, digest)
		if err != nil {
			return err
		}
		defer closeNow(resp)
		err = use(&stallReader{ctx: blobCtx, cancel: cancel, body: resp.Body, limit: r.stall})
		if err != nil && errdefs.IsUnavailable(err) && ctx.Err() == nil {
			r.demote(e)
		}
		return err
	})
}

func canPull(e *endpoint) bool { return e.pull }

func (r *Repository) blob(ctx context.Context, e *endpoint, digest string) (*http.Response, error) {
	resp, err := e.get(ctx, "/"+r.name+"/blobs/"+digest, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer closeBody(resp)
		return nil, statusError(resp)
	}
	return resp, nil
}

func (r *Repository) readAll(ctx context.Context, resp *http.Response, limit int64) ([]byte, error) {
	readCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if resp.ContentLength > limit {
		return nil, fmt.Errorf("%s answers %d bytes, %d are allowed: %w", resp.Request.URL.Host, resp.ContentLength, limit, errdefs.ErrInvalidArgument)
	}
	stop := context.AfterFunc(readCtx, func() { _ = resp.Body.Close() })
	defer stop()
	body, err := io.ReadAll(io.LimitReader(&stallReader{ctx: readCtx, cancel: cancel, body: resp.Body, limit: r.stall}, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > limit {
		return nil, fmt.Errorf("%s answers more than %d bytes: %w", resp.Request.URL.Host, limit, errdefs.ErrInvalidArgument)
	}
	return body, nil
}

func (r *Repository) demote(e *endpoint) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, other := range r.endpoints {
		if other == e {
			r.endpoints = append(append(append([]*endpoint{}, r.endpoints[:i]...), r.endpoints[i+1:]...), e)
			return
		}
	}
}

// each tries the hosts in order until one answers, and all of them again, after a pause, when one of them might answer later.
func (r *Repository) each(ctx context.Context, usable func(*endpoint) bool, try func(*endpoint) error) error {
	pause := firstBackoff
	for attempt := 1; ; attempt++ {
		r.mu.Lock()
		endpoints := append([]*endpoint{}, r.endpoints...)
		r.mu.Unlock()
		var failures []error
		transient := false
		var retryAfter time.Duration
		for _, e := range endpoints {
			if !usable(e) {
				continue
			}
			err := try(e)
			if err == nil {
				return nil
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			failures = append(failures, err)
			transient = transient || errdefs.IsUnavailable(err)
			if fault := (*localError)(nil); errors.As(err, &fault) {
				return fault.error // not the host's doing
			}
			var status *StatusError
			if errors.As(err, &status) {
				retryAfter = max(retryAfter, status.retryAfter)
			}
		}
		if len(failures) == 0 {
			return fmt.Errorf("no host of registry %s may be asked for this, see its hosts.toml: %w", r.registry, errdefs.ErrFailedPrecondition)
		}
		if !transient || attempt == attempts {
			return summary(failures)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(min(max(pause, retryAfter), maxBackoff)):
		}
		pause *= 3
	}
}

// summary makes one error of the hosts' ones. Its kind is that of the registry itself, the last one asked; what the mirrors said is told as text.
func summary(failures []error) error {
	last := failures[len(failures)-1]
	if len(failures) == 1 {
		return last
	}
	var mirrors []string
	for _, err := range failures[:len(failures)-1] {
		mirrors = append(mirrors, err.Error())
	}
	return fmt.Errorf("%w (tried before: %s)", last, strings.Join(mirrors, "; "))
}

// localError is an error that trying another host cannot mend.
type localError struct{ error }

// Local marks an error of the function given to Blob as none of the host's.
func Local(err error) error { return &localError{err} }

func (e *localError) Unwrap() error { return e.error }

// StatusError is an answer of a registry that is not the one hoped for. It is of a kind of errdefs.
type StatusError struct {
	Code       int
	Host       string
	Message    string
	retryAfter time.Duration
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("%s answers %d %s", e.Host, e.Code, http.StatusText(e.Code))
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// Unwrap tells the kind.
func (e *StatusError) Unwrap() error {
	switch {
	case e.Code == http.StatusNotFound:
		return errdefs.ErrNotFound
	case e.Code == http.StatusUnauthorized:
		return errdefs.ErrUnauthenticated
	case e.Code == http.StatusForbidden:
		return errdefs.ErrPermissionDenied
	case e.Code == http.StatusTooManyRequests, e.Code == http.StatusRequestTimeout, e.Code >= 500:
		return errdefs.ErrUnavailable
	}
	return errdefs.ErrFailedPrecondition
}

func statusError(resp *http.Response) error {
	defer inTime(resp)()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 16<<10))
	var answer struct {
		Errors []struct{ Code, Message string }
	}
	e := &StatusError{Code: resp.StatusCode, Host: resp.Request.URL.Host}
	if json.Unmarshal(body, &answer) == nil && len(answer.Errors) > 0 {
		e.Message = printable(answer.Errors[0].Code + ": " + answer.Errors[0].Message)
	}
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.retryAfter = time.Duration(min(seconds, 60)) * time.Second
	}
	return e
}

// printable keeps what a registry says from writing its own lines in our logs.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > 300 {
		s = s[:300] + "..."
	}
	return s
}

// closeBody lets the connection be used again if little is left of the answer.
func closeBody(resp *http.Response) {
	defer inTime(resp)()
	_, _ = io.CopyN(io.Discard, resp.Body, 16<<10)
	_ = resp.Body.Close()
}

// inTime closes an answer of which little is expected when even that does not come. The function that it answers ends the watch.
func inTime(resp *http.Response) func() {
	timer := time.AfterFunc(smallAnswerTimeout, func() { _ = resp.Body.Close() })
	return func() { timer.Stop() }
}

func closeNow(resp *http.Response) { _ = resp.Body.Close() }

// stallReader ends a transfer that brings nothing for too long. The time between reads, when the disk is the slow side, does not count.
type stallReader struct {
	ctx    context.Context // it lives as long as one request
	cancel context.CancelCauseFunc
	body   io.ReadCloser
	limit  time.Duration
	timer  *time.Timer
}

func (s *stallReader) Read(p []byte) (int, error) {
	if s.timer == nil {
		s.timer = time.AfterFunc(s.limit, func() {
			s.cancel(fmt.Errorf("no data for %s: %w", s.limit, errdefs.ErrUnavailable))
		})
	} else {
		s.timer.Reset(s.limit)
	}
	n, err := s.body.Read(p)
	s.timer.Stop()
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	if s.ctx.Err() != nil {
		return n, context.Cause(s.ctx)
	}
	// A connection that broke is worth another try, whatever the text: also an "unexpected EOF", which a decoder would take for damaged content.
	return n, fmt.Errorf("the transfer broke off (%s): %w", err, errdefs.ErrUnavailable) //nolint:errorlint // on purpose: not io.ErrUnexpectedEOF
}

// Close ends the transfer.
func (s *stallReader) Close() error { return s.body.Close() }
