package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// selfSigned is how long a certificate that is made here is good for.
const selfSigned = 365 * 24 * time.Hour

// keyPair is a serving certificate in files, read again when one of them has changed.
type keyPair struct {
	certificate, key string

	mu      sync.Mutex
	changed [2]time.Time
	pair    *tls.Certificate
}

// get answers what to show a client. Files that do not fit together are being replaced: what was good before stays.
func (k *keyPair) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	changed, err := k.times()
	if err == nil && k.pair != nil && changed == k.changed {
		return k.pair, nil
	}
	var pair tls.Certificate
	if err == nil {
		pair, err = tls.LoadX509KeyPair(k.certificate, k.key)
	}
	if err != nil {
		if k.pair != nil {
			return k.pair, nil // as the comment says
		}
		return nil, fmt.Errorf("reading the serving certificate %s and its key %s: %w", k.certificate, k.key, err)
	}
	k.pair, k.changed = &pair, changed
	return k.pair, nil
}

func (k *keyPair) times() ([2]time.Time, error) {
	var changed [2]time.Time
	for i, path := range []string{k.certificate, k.key} {
		info, err := os.Stat(path)
		if err != nil {
			return changed, err
		}
		changed[i] = info.ModTime()
	}
	return changed, nil
}

// serving finds the certificate that the configuration names, or the one that was made in a directory before, or makes one there.
func serving(config *kubeletconfig.KubeletConfiguration, directory, node string, addresses []string) (*keyPair, error) {
	pair := &keyPair{certificate: config.TLSCertFile, key: config.TLSPrivateKeyFile}
	if (pair.certificate == "") != (pair.key == "") {
		return nil, fmt.Errorf("tlsCertFile and tlsPrivateKeyFile go together: %w", errdefs.ErrInvalidArgument)
	}
	if pair.certificate != "" {
		_, err := pair.get(nil)
		return pair, err
	}
	pair.certificate, pair.key = filepath.Join(directory, "kubelet.crt"), filepath.Join(directory, "kubelet.key")
	if old, err := pair.get(nil); err == nil {
		leaf, err := x509.ParseCertificate(old.Certificate[0])
		if err == nil && time.Now().Add(selfSigned/4).Before(leaf.NotAfter) && leaf.VerifyHostname(node) == nil {
			return pair, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := sign(pair, node, addresses); err != nil {
		return nil, fmt.Errorf("making a serving certificate: %w", err)
	}
	pair.pair = nil
	_, err := pair.get(nil)
	return pair, err
}

// sign makes a certificate that vouches for itself: clients that do not verify it still get encryption.
func sign(pair *keyPair, node string, addresses []string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: fmt.Sprintf("%s@%d", node, now.Unix())},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(selfSigned), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, DNSNames: []string{node},
	}
	for _, address := range addresses {
		if ip := net.ParseIP(address); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		}
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(pair.key), 0o700); err != nil {
		return err
	}
	for _, file := range []struct {
		path, kind string
		data       []byte
	}{{pair.key, "PRIVATE KEY", private}, {pair.certificate, "CERTIFICATE", certificate}} {
		if err := os.WriteFile(file.path, pem.EncodeToMemory(&pem.Block{Type: file.kind, Bytes: file.data}), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// tlsConfig is what the configuration says of versions and ciphers.
func tlsConfig(config *kubeletconfig.KubeletConfiguration, pair *keyPair) (*tls.Config, error) {
	answer := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: pair.get, NextProtos: []string{"h2", "http/1.1"}}
	versions := map[string]uint16{"": tls.VersionTLS12, "VersionTLS12": tls.VersionTLS12, "VersionTLS13": tls.VersionTLS13}
	version, known := versions[config.TLSMinVersion]
	if !known {
		return nil, fmt.Errorf("tlsMinVersion %q: use VersionTLS12 or VersionTLS13 (older ones are broken): %w", config.TLSMinVersion, errdefs.ErrInvalidArgument)
	}
	answer.MinVersion = version
	suites := map[string]uint16{}
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		suites[suite.Name] = suite.ID
	}
	for _, name := range config.TLSCipherSuites {
		id, known := suites[name]
		if !known {
			return nil, fmt.Errorf("tlsCipherSuites: %q is not known: %w", name, errdefs.ErrInvalidArgument)
		}
		answer.CipherSuites = append(answer.CipherSuites, id)
	}
	if config.Authentication.X509.ClientCAFile != "" {
		answer.ClientAuth = tls.RequestClientCert // verified with the request, so that who shows a wrong one gets an answer
	}
	return answer, nil
}
