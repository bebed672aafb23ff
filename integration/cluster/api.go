package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// api asks the API server, as the administrator. For more than that there is kubectl.
type api struct {
	base   string
	client *http.Client
}

// Client speaks to the API server at APIAddress as the cluster's administrator. It has no timeout: watches last.
func (c *Cluster) Client() (*http.Client, error) {
	a, err := newAPI("", c.path("pki"))
	if err != nil {
		return nil, err
	}
	a.client.Timeout = 0
	return a.client, nil
}

func newAPI(base, pki string) (*api, error) {
	ca, err := os.ReadFile(filepath.Join(pki, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("reading the cluster's authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("reading the cluster's authority: no certificate in it")
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(pki, "admin.crt"), filepath.Join(pki, "admin.key"))
	if err != nil {
		return nil, fmt.Errorf("reading the administrator's certificate: %w", err)
	}
	return &api{base: base, client: &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}},
	}}, nil
}

// get reads an object; nil takes any answer that is no error.
func (a *api) get(ctx context.Context, path string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base+path, nil)
	if err != nil {
		return fmt.Errorf("asking the API server: %w", err)
	}
	response, err := a.client.Do(request)
	if err != nil {
		return fmt.Errorf("asking the API server: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("asking the API server for %s: %w", path, err)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("asking the API server for %s: %s: %s", path, response.Status, body)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("reading what the API server says of %s: %w", path, err)
	}
	return nil
}

func (a *api) nodes(ctx context.Context) (map[string]corev1.Node, error) {
	var list corev1.NodeList
	if err := a.get(ctx, "/api/v1/nodes", &list); err != nil {
		return nil, err
	}
	nodes := map[string]corev1.Node{}
	for _, node := range list.Items {
		nodes[node.Name] = node
	}
	return nodes, nil
}

// readySince says why a node isn't ready. What was said of it before that time does not count: a node that is switched off keeps its last word for a while.
func readySince(node corev1.Node, since time.Time) error {
	for _, condition := range node.Status.Conditions {
		if condition.Type != corev1.NodeReady {
			continue
		}
		if condition.Status != corev1.ConditionTrue {
			return fmt.Errorf("it is not ready: %s", condition.Message)
		}
		// Kubernetes' times are whole seconds.
		if condition.LastHeartbeatTime.Time.Before(since.Truncate(time.Second)) {
			return errors.New("it has said nothing since it was started")
		}
		return nil
	}
	return errors.New("it does not say whether it is ready")
}
