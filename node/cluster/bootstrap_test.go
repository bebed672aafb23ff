package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/keyutil"
)

// A kubeconfig is asked for anew when it is not there, names a certificate that is not there, or one that has ended.
func TestKubeconfigHolds(t *testing.T) {
	dir := t.TempDir()
	kubeconfig, pair := filepath.Join(dir, "kubeconfig"), filepath.Join(dir, "pair.pem")
	if holds(kubeconfig, time.Now()) {
		t.Error("there is no kubeconfig")
	}
	config := kubeconfigFor(&rest.Config{Host: "https://127.0.0.1:6443", TLSClientConfig: rest.TLSClientConfig{CAData: []byte("ca")}}, pair)
	if err := clientcmd.WriteToFile(config, kubeconfig); err != nil {
		t.Fatal(err)
	}
	if holds(kubeconfig, time.Now()) {
		t.Error("there is no certificate")
	}
	end := time.Now().Add(time.Hour)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: end}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(pair, append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}), keyPEM...), 0o600); err != nil {
		t.Fatal(err)
	}
	if !holds(kubeconfig, time.Now()) {
		t.Error("the certificate holds")
	}
	if holds(kubeconfig, end.Add(time.Second)) {
		t.Error("the certificate has ended")
	}
	loaded, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil || loaded.Host != "https://127.0.0.1:6443" || loaded.CertFile != pair || loaded.KeyFile != pair || string(loaded.CAData) != "ca" {
		t.Errorf("the kubeconfig as it is read: %+v, %v", loaded, err)
	}
}
