package server

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	authenticationv1 "k8s.io/api/authentication/v1"
)

const (
	anonymousUser        = "system:anonymous"
	anonymousGroup       = "system:unauthenticated"
	authenticatedGroup   = "system:authenticated"
	uidAttribute         = "1.3.6.1.4.1.57683.2" // of a certificate's subject: the user's UID
	reviewTimeout        = 10 * time.Second
	bearer               = "bearer "
	maxToken             = 64 << 10 // bytes
	certificatesLookedAt = time.Second
)

// authenticator finds out who asks, as the kubelet does: by a client's certificate, then by a bearer token. What is wrong with one counts only if the
// other does not help. Who shows neither is anonymous, where that is allowed; who shows something wrong never is.
type authenticator struct {
	clientCA  *authorities // nil: certificates are not looked at
	reviews   Reviews      // nil: tokens are not looked at
	ttl       time.Duration
	anonymous bool
	tokens    *cache[authenticationv1.TokenReviewStatus]
}

// identify answers nil and no error for somebody who shows nothing.
func (a *authenticator) identify(r *http.Request) (*authenticationv1.UserInfo, error) {
	user, certificateErr := a.byCertificate(r)
	if user == nil {
		var tokenErr error
		if user, tokenErr = a.byToken(r); user == nil {
			if err := errors.Join(certificateErr, tokenErr); err != nil {
				return nil, err
			}
			if !a.anonymous {
				return nil, nil
			}
			return &authenticationv1.UserInfo{Username: anonymousUser, Groups: []string{anonymousGroup}}, nil
		}
	}
	user.Groups = append(user.Groups[:len(user.Groups):len(user.Groups)], authenticatedGroup)
	return user, nil
}

func (a *authenticator) byCertificate(r *http.Request) (*authenticationv1.UserInfo, error) {
	if a.clientCA == nil || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil, nil
	}
	roots, err := a.clientCA.pool()
	if err != nil {
		return nil, err
	}
	leaf := r.TLS.PeerCertificates[0]
	options := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, more := range r.TLS.PeerCertificates[1:] {
		options.Intermediates.AddCert(more)
	}
	if _, err := leaf.Verify(options); err != nil {
		return nil, fmt.Errorf("verifying the certificate of %q: %w: %w", leaf.Subject, err, errdefs.ErrUnauthenticated)
	}
	if leaf.Subject.CommonName == "" {
		return nil, nil
	}
	user := &authenticationv1.UserInfo{Username: leaf.Subject.CommonName, Groups: leaf.Subject.Organization}
	for _, name := range leaf.Subject.Names {
		if uid, ok := name.Value.(string); ok && name.Type.String() == uidAttribute {
			user.UID = uid
		}
	}
	return user, nil
}

func (a *authenticator) byToken(r *http.Request) (*authenticationv1.UserInfo, error) {
	header := strings.TrimSpace(r.Header.Get("Authorization"))
	if a.reviews == nil || len(header) < len(bearer) || !strings.EqualFold(header[:len(bearer)], bearer) {
		return nil, nil
	}
	token := strings.TrimSpace(header[len(bearer):])
	if token == "" || len(token) > maxToken {
		return nil, nil
	}
	sum := sha256.Sum256([]byte(token)) // a dump of the memory must not hold everybody's tokens
	status, known := a.tokens.get(string(sum[:]))
	if !known {
		ctx, cancel := context.WithTimeout(r.Context(), reviewTimeout)
		defer cancel()
		var err error
		if status, err = a.reviews.Token(ctx, token); err != nil {
			return nil, err
		}
		a.tokens.put(string(sum[:]), status, a.ttl)
	}
	if !status.Authenticated {
		return nil, fmt.Errorf("the API server does not know the token: %s: %w", status.Error, errdefs.ErrUnauthenticated)
	}
	return status.User.DeepCopy(), nil
}

// authorities are the certificates of a file, read again when it has changed.
type authorities struct {
	path string

	mu      sync.Mutex
	changed time.Time
	looked  time.Time
	roots   *x509.CertPool
}

func (a *authorities) pool() (*x509.CertPool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.roots != nil && time.Since(a.looked) < certificatesLookedAt {
		return a.roots, nil
	}
	info, err := os.Stat(a.path)
	if err == nil && a.roots != nil && info.ModTime().Equal(a.changed) {
		a.looked = time.Now()
		return a.roots, nil
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(a.path)
	}
	roots := x509.NewCertPool()
	if err == nil && !roots.AppendCertsFromPEM(data) {
		err = fmt.Errorf("no certificate in it: %w", errdefs.ErrInvalidArgument)
	}
	if err != nil {
		if a.roots != nil {
			return a.roots, nil // a file that is just being written: what was good stays
		}
		return nil, fmt.Errorf("reading the certificates of clients' authorities, %s: %w", a.path, err)
	}
	a.roots, a.changed, a.looked = roots, info.ModTime(), time.Now()
	return roots, nil
}
