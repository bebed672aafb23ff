package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509/pkix"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"

	"github.com/shimd/shimd/node/api"
)

const (
	// signing is how long a request may wait for its approval before a new one is made; the kubelet's.
	signing = 15 * time.Minute
	// askAgain is how often a request is looked at. It is rare, and short where approval is automatic: a watch is not worth its right.
	askAgain = time.Second
)

// renew asks for a certificate with a new key, and puts both in place when it is signed.
func (c Credentials) renew(ctx context.Context, client api.Server) error {
	ctx, cancel := context.WithTimeout(ctx, signing)
	defer cancel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making a key: %w", err)
	}
	request, err := certutil.MakeCSR(key, &pkix.Name{CommonName: "system:node:" + c.NodeName, Organization: []string{"system:nodes"}}, nil, nil)
	if err != nil {
		return fmt.Errorf("making a request for a certificate: %w", err)
	}
	made, err := client.SigningRequests().Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: request, SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("asking for a certificate: %w", kind(err))
	}
	signed, err := await(ctx, client, made.Name)
	if err != nil {
		return err
	}
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return fmt.Errorf("encoding a key: %w", err)
	}
	return c.store(append(signed, keyPEM...), time.Now())
}

// await waits until a request is signed, or refused.
func await(ctx context.Context, client api.Server, name string) ([]byte, error) {
	for {
		request, err := client.SigningRequests().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("asking for certificate request %s: %w", name, kind(err))
		}
		for _, c := range request.Status.Conditions {
			if c.Status == corev1.ConditionTrue && (c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed) {
				return nil, fmt.Errorf("certificate request %s: %s: %s: %w", name, c.Reason, c.Message, errdefs.ErrPermissionDenied)
			}
		}
		if len(request.Status.Certificate) > 0 {
			return request.Status.Certificate, nil
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for certificate request %s to be approved and signed: %w: %w", name, context.Cause(ctx), errdefs.ErrUnavailable)
		}
	}
}

// store writes a pair to a file of its own, and then makes the current one's name a link to it: readers see the old pair or the new one.
func (c Credentials) store(pair []byte, now time.Time) error {
	if err := os.MkdirAll(c.CertDir, 0o700); err != nil {
		return fmt.Errorf("making the directory of certificates: %w", err)
	}
	name := filepath.Join(c.CertDir, "kubelet-client-"+now.Format("2006-01-02-15-04-05")+".pem")
	if err := os.WriteFile(name, pair, 0o600); err != nil {
		return fmt.Errorf("keeping a certificate: %w", err)
	}
	fresh := c.current() + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("keeping a certificate: %w", err)
	}
	if err := os.Symlink(name, fresh); err != nil {
		return fmt.Errorf("keeping a certificate: %w", err)
	}
	if err := os.Rename(fresh, c.current()); err != nil {
		return fmt.Errorf("keeping a certificate: %w", err)
	}
	return nil
}
