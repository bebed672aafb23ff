package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/keyutil"

	"github.com/shimd/shimd/node/api/apitest"
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

func TestRenew(t *testing.T) {
	client := fake.NewClientset()
	answers := []certificatesv1.CertificateSigningRequestStatus{
		{Conditions: []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue, Reason: "No", Message: "not you"}}},
		{Certificate: []byte("signed\n")},
	}
	client.PrependReactor("get", "certificatesigningrequests", func(clienttesting.Action) (bool, runtime.Object, error) {
		answer := answers[0]
		answers = answers[1:]
		return true, &certificatesv1.CertificateSigningRequest{Status: answer}, nil
	})
	client.PrependReactor("create", "certificatesigningrequests", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "csr-1"}}, nil
	})
	c := Credentials{NodeName: "me", CertDir: filepath.Join(t.TempDir(), "pki")}
	if err := c.renew(t.Context(), apitest.Server{Clientset: client}); !errors.Is(err, errdefs.ErrPermissionDenied) {
		t.Errorf("denied: %v", err)
	}
	if err := c.renew(t.Context(), apitest.Server{Clientset: client}); err != nil {
		t.Fatal(err)
	}
	pair, err := os.ReadFile(c.current())
	if err != nil || !strings.HasPrefix(string(pair), "signed\n-----BEGIN EC PRIVATE KEY-----") {
		t.Errorf("the pair: %s, %v", pair, err)
	}
	begin := time.Now()
	if due := renewal(begin, begin.Add(100*time.Hour)); due.Before(begin.Add(70*time.Hour)) || due.After(begin.Add(90*time.Hour)) {
		t.Errorf("renewed at %v of 100 hours", due.Sub(begin))
	}
}
