package main

import (
	"context"

	"github.com/shimd/shimd/node/cluster"
)

func (o *options) credentials() cluster.Credentials {
	return cluster.Credentials{
		NodeName: o.NodeName, Kubeconfig: o.kubeconfig, Bootstrap: o.bootstrapKubeconfig, CertDir: o.certDir, UserAgent: "shimlet/" + version, Log: o.Log,
	}
}

// bootstrap asks for a client certificate, and writes the kubeconfig, where --bootstrap-kubeconfig says with what right.
func (o *options) bootstrap(ctx context.Context) error {
	if o.bootstrapKubeconfig == "" {
		return nil
	}
	return cluster.Bootstrap(ctx, o.credentials())
}

// rotate renews the client certificate, if the configuration wants it. That it can't is no reason to end: the certificate holds for a while yet.
func (m *member) rotate(ctx context.Context) error {
	if !m.kubelet.RotateCertificates {
		return nil
	}
	if err := cluster.Rotate(ctx, m.connection, m.credentials()); err != nil {
		m.Log.Error("the client certificate will not be renewed", "error", err)
	}
	return nil
}
