package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"sigs.k8s.io/yaml"
)

// authority signs certificates. Files are NAME.crt and NAME.key in one directory.
type authority struct {
	dir  string
	name string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// subject is whom a certificate is for.
type subject struct {
	file   string // name of the files, without .crt
	name   string // the user, to the API server
	groups []string
	hosts  []string // names and addresses: with any, the certificate is for a server too
}

// lifetime is longer than any test cluster's.
const lifetime = 365 * 24 * time.Hour

func newAuthority(dir, name string) (*authority, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	template, err := newTemplate(subject{name: "test cluster " + name})
	if err != nil {
		return nil, err
	}
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageCertSign
	template.ExtKeyUsage = nil
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the authority %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making the authority %s: %w", name, err)
	}
	a := &authority{dir: dir, name: name, cert: cert, key: key}
	return a, writePair(dir, name, der, key)
}

// issue writes a certificate and its key.
func (a *authority) issue(s subject) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	template, err := newTemplate(s)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return fmt.Errorf("making a certificate for %s: %w", s.name, err)
	}
	return writePair(a.dir, s.file, der, key)
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return key, nil
}

func newTemplate(s subject) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("making a serial number: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: s.name, Organization: s.groups},
		// Clocks on one machine are one; the minute is for who compares whole seconds.
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(lifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if len(s.hosts) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, host := range s.hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	return template, nil
}

func writePair(dir, name string, der []byte, key *ecdsa.PrivateKey) error {
	if err := writePEM(filepath.Join(dir, name+".crt"), "CERTIFICATE", der, 0o644); err != nil {
		return err
	}
	return writeKey(filepath.Join(dir, name+".key"), key)
}

func writeKey(file string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return fmt.Errorf("writing a key: %w", err)
	}
	return writePEM(file, "EC PRIVATE KEY", der, 0o600)
}

func writePEM(file, kind string, der []byte, mode os.FileMode) error {
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode); err != nil {
		return fmt.Errorf("writing a certificate or its key: %w", err)
	}
	return nil
}

// newServiceAccountKey writes the pair that signs the tokens of service accounts: sa.key, sa.pub.
func newServiceAccountKey(dir string) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	if err := writeKey(filepath.Join(dir, "sa.key"), key); err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("writing a public key: %w", err)
	}
	return writePEM(filepath.Join(dir, "sa.pub"), "PUBLIC KEY", der, 0o644)
}

// writeKubeconfig writes one for the holder of a certificate; all that it needs is inside, so the file can be carried anywhere.
func writeKubeconfig(file, server, pki, user string) error {
	data := map[string][]byte{}
	for key, name := range map[string]string{"ca": "ca.crt", "cert": user + ".crt", "key": user + ".key"} {
		text, err := os.ReadFile(filepath.Join(pki, name))
		if err != nil {
			return fmt.Errorf("writing a kubeconfig for %s: %w", user, err)
		}
		data[key] = text
	}
	text, err := yaml.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "shimd",
		"clusters": []any{map[string]any{"name": "shimd", "cluster": map[string]any{"server": server, "certificate-authority-data": data["ca"]}}},
		"users": []any{map[string]any{"name": user, "user": map[string]any{
			"client-certificate-data": data["cert"], "client-key-data": data["key"],
		}}},
		"contexts": []any{map[string]any{"name": "shimd", "context": map[string]any{"cluster": "shimd", "user": user}}},
	})
	if err != nil {
		return fmt.Errorf("writing a kubeconfig for %s: %w", user, err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return fmt.Errorf("writing a kubeconfig for %s: %w", user, err)
	}
	return nil
}
