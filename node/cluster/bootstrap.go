package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/go-logr/logr"
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/certificate"
	"k8s.io/klog/v2"
)

// storeName begins the names of the files of the client certificate: kubelet-client-current.pem is the kubelet's name, and kubeadm's.
const storeName = "kubelet-client"

// Credentials say how the node gets a client certificate of its own.
type Credentials struct {
	NodeName   string
	Kubeconfig string // written by Bootstrap where there is none, or its certificate has ended
	Bootstrap  string // kubeconfig with a right to ask for certificates
	CertDir    string // where certificates are kept
	UserAgent  string
	Log        *slog.Logger
}

// Bootstrap makes sure that there is a kubeconfig with a certificate that holds: if not, one is asked for with the bootstrap kubeconfig, and Bootstrap
// waits until it is approved and signed, or the context ends. The key never leaves CertDir.
func Bootstrap(ctx context.Context, c Credentials) error {
	if holds(c.Kubeconfig, time.Now()) {
		return nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", c.Bootstrap)
	if err != nil {
		return fmt.Errorf("reading the bootstrap kubeconfig %s: %w: %w", c.Bootstrap, err, errdefs.ErrInvalidArgument)
	}
	config.UserAgent = c.UserAgent
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("making a client of the bootstrap kubeconfig %s: %w", c.Bootstrap, err)
	}
	store, manager, err := c.manager(ctx, client)
	if err != nil {
		return err
	}
	c.Log.Info("asking for a client certificate", "node", c.NodeName, "server", config.Host)
	manager.Start()
	defer manager.Stop()
	for manager.Current() == nil {
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("waiting for a client certificate (kubectl get csr shows the request): %w: %w", context.Cause(ctx), errdefs.ErrUnavailable)
		}
	}
	if err := clientcmd.WriteToFile(kubeconfigFor(config, store.CurrentPath()), c.Kubeconfig); err != nil {
		return fmt.Errorf("writing the kubeconfig: %w", err)
	}
	return nil
}

// holds says whether a kubeconfig can be used: it names a certificate that has not ended, or another way to say who one is.
func holds(path string, now time.Time) bool {
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return false
	}
	data := config.CertData
	if len(data) == 0 && config.CertFile != "" {
		if data, err = os.ReadFile(config.CertFile); err != nil {
			return false
		}
	}
	if len(data) == 0 {
		return config.BearerToken != "" || config.BearerTokenFile != "" || config.ExecProvider != nil
	}
	certificates, err := certutil.ParseCertsPEM(data)
	if err != nil {
		return false
	}
	for _, c := range certificates {
		if now.After(c.NotAfter) {
			return false
		}
	}
	return true
}

func kubeconfigFor(config *rest.Config, pem string) clientcmdapi.Config {
	server := &clientcmdapi.Cluster{Server: config.Host, CertificateAuthority: config.CAFile, InsecureSkipTLSVerify: config.Insecure}
	if server.CertificateAuthority == "" {
		server.CertificateAuthorityData = config.CAData
	}
	return clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"default-cluster": server},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"default-auth": {ClientCertificate: pem, ClientKey: pem}},
		Contexts:       map[string]*clientcmdapi.Context{"default-context": {Cluster: "default-cluster", AuthInfo: "default-auth", Namespace: "default"}},
		CurrentContext: "default-context",
	}
}

// manager asks for certificates by client, as a node does.
func (c Credentials) manager(ctx context.Context, client kubernetes.Interface) (certificate.FileStore, certificate.Manager, error) {
	if err := os.MkdirAll(c.CertDir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("making the directory of certificates: %w", err)
	}
	store, err := certificate.NewFileStore(storeName, c.CertDir, c.CertDir, "", "")
	if err != nil {
		return nil, nil, fmt.Errorf("opening the directory of certificates %s: %w", c.CertDir, err)
	}
	ctx = klog.NewContext(ctx, logr.FromSlogHandler(c.Log.Handler()))
	manager, err := certificate.NewManager(&certificate.Config{
		ClientsetFn:      func(*tls.Certificate) (kubernetes.Interface, error) { return client, nil },
		Template:         &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:" + c.NodeName, Organization: []string{"system:nodes"}}},
		SignerName:       certificatesv1.KubeAPIServerClientKubeletSignerName,
		GetUsages:        certificate.DefaultKubeletClientGetUsages,
		CertificateStore: store,
		Name:             storeName,
		Ctx:              &ctx,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("preparing to ask for certificates: %w", err)
	}
	return store, manager, nil
}

// Rotate renews the client certificate, when a good part of its life is over, until the context ends. It works where the kubeconfig names
// kubelet-client-current.pem of CertDir, as Bootstrap and kubeadm write it: that file is replaced, and connections follow it (Connect). Any other
// certificate is whoever's who made it: nothing is done.
func Rotate(ctx context.Context, connection *Connection, c Credentials) error {
	store, manager, err := c.manager(ctx, connection.Client)
	if err != nil {
		return err
	}
	used, err := os.Stat(connection.Config.CertFile)
	if errors.Is(err, fs.ErrNotExist) || connection.Config.CertFile == "" {
		used = nil
	} else if err != nil {
		return fmt.Errorf("looking at the client certificate: %w", err)
	}
	kept, err := os.Stat(store.CurrentPath())
	if err != nil || used == nil || !os.SameFile(used, kept) {
		c.Log.Info("the client certificate is not renewed by shimlet: the kubeconfig does not name the one that it keeps", "kept", store.CurrentPath())
		return nil
	}
	manager.Start()
	defer manager.Stop()
	<-ctx.Done()
	return nil
}
