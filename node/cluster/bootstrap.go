package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	certutil "k8s.io/client-go/util/cert"

	"github.com/shimd/shimd/node/api"
)

// currentName is the file of the client certificate and its key: the kubelet's name, and kubeadm's.
const currentName = "kubelet-client-current.pem"

// Credentials say how the node gets a client certificate of its own.
type Credentials struct {
	NodeName   string
	Kubeconfig string // written by Bootstrap where there is none, or its certificate has ended
	Bootstrap  string // kubeconfig with a right to ask for certificates
	CertDir    string // where certificates are kept
	UserAgent  string
	Log        *slog.Logger
}

func (c Credentials) current() string { return filepath.Join(c.CertDir, currentName) }

// Bootstrap makes sure that there is a kubeconfig with a certificate that holds: if not, one is asked for with the bootstrap kubeconfig, and Bootstrap
// waits until it is approved and signed, or the context ends. The key never leaves CertDir.
func Bootstrap(ctx context.Context, c Credentials) error {
	if holds(c.Kubeconfig, time.Now()) {
		return nil
	}
	connection, err := Connect(Options{Kubeconfig: c.Bootstrap, UserAgent: c.UserAgent})
	if err != nil {
		return err
	}
	c.Log.Info("asking for a client certificate", "node", c.NodeName, "server", connection.Config.Host)
	if err := c.persist(ctx, connection.Client); err != nil {
		return err
	}
	if err := clientcmd.WriteToFile(kubeconfigFor(connection.Config, c.current()), c.Kubeconfig); err != nil {
		return fmt.Errorf("writing the kubeconfig: %w", err)
	}
	return nil
}

// persist renews the certificate, again and again until that has worked or the context ends.
func (c Credentials) persist(ctx context.Context, client api.Server) error {
	const first, last = time.Second, time.Minute
	for delay := first; ; delay = min(2*delay, last) {
		err := c.renew(ctx, client)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			c.Log.Warn("no client certificate yet; it will be asked for again", "error", err)
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return fmt.Errorf("waiting for a client certificate (kubectl get csr shows the request): %w: %w", context.Cause(ctx), errdefs.ErrUnavailable)
		}
	}
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

// Rotate renews the client certificate, when a good part of its life is over, until the context ends. It works where the kubeconfig names
// kubelet-client-current.pem of CertDir, as Bootstrap and kubeadm write it: that file is replaced, and connections follow it (Connect). Any other
// certificate is whoever's who made it: nothing is done.
func Rotate(ctx context.Context, connection *Connection, c Credentials) error {
	if !ours(connection.Config.CertFile, c.current()) {
		c.Log.Info("the client certificate is not renewed by shimlet: the kubeconfig does not name the one that it keeps", "kept", c.current())
		return nil
	}
	for {
		data, err := os.ReadFile(c.current())
		if err != nil {
			return fmt.Errorf("reading the client certificate: %w", err)
		}
		certificates, err := certutil.ParseCertsPEM(data)
		if err != nil {
			return fmt.Errorf("reading the client certificate %s: %w: %w", c.current(), err, errdefs.ErrInvalidArgument)
		}
		due := renewal(certificates[0].NotBefore, certificates[0].NotAfter)
		c.Log.Debug("the client certificate will be renewed", "at", due, "ends", certificates[0].NotAfter)
		timer := time.NewTimer(time.Until(due))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		if err := c.persist(ctx, connection.Client); err != nil {
			return nil //nolint:nilerr // the context ended; else it goes on until it has worked
		}
		c.Log.Info("the client certificate was renewed")
	}
}

// ours says whether the certificate in use is the one that is kept; a file that is not there is neither.
func ours(used, kept string) bool {
	usedInfo, usedErr := os.Stat(used)
	keptInfo, keptErr := os.Stat(kept)
	return usedErr == nil && keptErr == nil && os.SameFile(usedInfo, keptInfo)
}

// renewal is when a certificate is renewed: after 70 to 90 % of its life, as the kubelet does, so that the nodes don't all come at once.
func renewal(begin, end time.Time) time.Time {
	return begin.Add(time.Duration(float64(end.Sub(begin)) * (0.7 + 0.2*rand.Float64())))
}
