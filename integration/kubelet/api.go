package kubelet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Get asks the kubelet's API.
func (k *Kubelet) Get(ctx context.Context, path string) ([]byte, error) {
	return k.ask(ctx, http.MethodGet, path)
}

// Run runs a command in a container by the kubelet's API and answers what it printed.
func (k *Kubelet) Run(ctx context.Context, pod, container string, command ...string) (string, error) {
	// The path splits the command itself, at white space.
	query := url.Values{"cmd": {strings.Join(command, " ")}}
	out, err := k.ask(ctx, http.MethodPost, "/run/default/"+pod+"/"+container+"?"+query.Encode())
	return string(out), err
}

// ContainerLog is what `kubectl logs` would show.
func (k *Kubelet) ContainerLog(ctx context.Context, pod, container string) (string, error) {
	out, err := k.Get(ctx, "/containerLogs/default/"+pod+"/"+container)
	return string(out), err
}

// Pods are the pods by name, as the kubelet would report them to a cluster. Names are without the node's, which the kubelet appends.
func (k *Kubelet) Pods(ctx context.Context) (map[string]corev1.Pod, error) {
	text, err := k.Get(ctx, "/pods")
	if err != nil {
		return nil, err
	}
	var list corev1.PodList
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("reading the kubelet's pods: %w", err)
	}
	pods := make(map[string]corev1.Pod, len(list.Items))
	for _, pod := range list.Items {
		pods[strings.TrimSuffix(pod.Name, "-"+k.config.NodeName)] = pod
	}
	return pods, nil
}

func (k *Kubelet) ask(ctx context.Context, method, path string) ([]byte, error) {
	client, err := k.client()
	if err != nil {
		return nil, err
	}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, method, "https://127.0.0.1:"+strconv.Itoa(port)+path, nil)
	if err != nil {
		return nil, fmt.Errorf("asking the kubelet for %s: %w", path, err)
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking the kubelet for %s: %w", path, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, fmt.Errorf("asking the kubelet for %s: %w", path, err)
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("asking the kubelet for %s: %s: %s", path, answer.Status, body)
	}
	return body, nil
}

func (k *Kubelet) client() (*http.Client, error) {
	trusted, err := k.tls()
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: trusted}}, nil
}

// tls trusts the certificate that the kubelet made for itself.
func (k *Kubelet) tls() (*tls.Config, error) {
	text, err := os.ReadFile(filepath.Join(k.path("pki"), "kubelet.crt"))
	if err != nil {
		return nil, fmt.Errorf("reading the kubelet's certificate: %w", err)
	}
	trusted := x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(text) {
		return nil, errors.New("reading the kubelet's certificate: not PEM")
	}
	return &tls.Config{RootCAs: trusted, ServerName: k.config.NodeName, MinVersion: tls.VersionTLS13}, nil
}
