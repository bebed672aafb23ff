package main

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/shimd/shimd/node"
	"github.com/shimd/shimd/node/imagegc"
	"github.com/shimd/shimd/node/logrotate"
	"github.com/shimd/shimd/node/register"
	"github.com/shimd/shimd/node/server"
)

// start runs what belongs to a node beside its pods: its object and lease, its HTTPS API, and what keeps the disk and the memory from filling up.
func (m *member) start(agent *node.Agent, beside func(func(context.Context) error)) error {
	m.agent.Store(agent)
	numbers := m.statistics(agent)
	images, err := m.images()
	if err != nil {
		return err
	}
	pressure, err := m.watchPressure(agent, numbers, images)
	if err != nil {
		return err
	}
	logs, err := m.logs()
	if err != nil {
		return err
	}
	api, err := server.New(server.Options{
		Config: m.kubelet, NodeName: m.NodeName, NodeIPs: agent.Addresses(), CertDir: m.certDir, Pods: agent, Runtime: agent.Runtime().Runtime,
		Reviews:    server.APIServer{Server: m.connection.Client},
		Statistics: numbers,
		Metrics:    server.Metrics{Own: prometheus.Gatherers{m.Metrics.Registry, numbers.Claims()}, Resource: numbers.Resource(), Cadvisor: numbers.Cadvisor(), Probes: m.Metrics.Probes},
		Count:      m.Metrics.Requests,
		Log:        m.Log,
	})
	if err != nil {
		return err
	}
	registration, cri, err := m.registration(agent)
	if err != nil {
		return err
	}
	beside(api.Run)
	beside(m.rotate)
	for _, run := range []func(context.Context){
		registration.Run, func(ctx context.Context) { m.follow(ctx, cri, registration) }, pressure.Run, images.Run, logs.Run,
	} {
		beside(func(ctx context.Context) error {
			run(ctx)
			return nil
		})
	}
	return nil
}

func (m *member) registration(agent *node.Agent) (*register.Registration, register.CRI, error) {
	cri := register.CRI{Runtime: m.runtime.Runtime, Images: m.runtime.Images}
	labels, err := pairs(m.nodeLabels)
	if err != nil {
		return nil, cri, fmt.Errorf("--node-labels: %w", err)
	}
	if m.written["register-node"] {
		m.kubelet.RegisterNode = &m.registerNode
	}
	return register.New(register.Options{
		Identity: register.Identity{Name: m.NodeName, Addresses: agent.Addresses(), Labels: labels}, Config: m.kubelet, Machine: m.machine, Runtime: cri,
		Pressure: m.pressure, Problem: agent.Healthy, Client: m.connection.Heartbeat, Node: m.door.Node, Event: m.door.NodeEvent, Log: m.Log,
	}), cri, nil
}

func (m *member) images() (*imagegc.Collector, error) {
	k := m.kubelet
	policy := imagegc.Policy{MinAge: k.ImageMinimumGCAge.Duration, MaxAge: k.ImageMaximumGCAge.Duration, High: 100, Low: 100}
	if k.ImageGCHighThresholdPercent != nil {
		policy.High = int(*k.ImageGCHighThresholdPercent)
	}
	if k.ImageGCLowThresholdPercent != nil {
		policy.Low = int(*k.ImageGCLowThresholdPercent)
	}
	return imagegc.New(imagegc.Options{
		Policy: policy, Runtime: m.runtime.Runtime, Images: m.runtime.Images, Log: m.Log,
		Warn: func(reason, message string) { m.door.NodeEvent(corev1.EventTypeWarning, reason, message) },
	})
}

func (m *member) logs() (*logrotate.Rotator, error) {
	k := m.kubelet
	policy := logrotate.Policy{MaxSize: 10 << 20, MaxFiles: 5, Workers: 1}
	if k.ContainerLogMaxSize != "" {
		size, err := resource.ParseQuantity(k.ContainerLogMaxSize)
		if err != nil {
			return nil, fmt.Errorf("containerLogMaxSize %q: %w: %w", k.ContainerLogMaxSize, err, errdefs.ErrInvalidArgument)
		}
		policy.MaxSize = size.Value()
	}
	if k.ContainerLogMaxFiles != nil {
		policy.MaxFiles = int(*k.ContainerLogMaxFiles)
	}
	if k.ContainerLogMaxWorkers != nil {
		policy.Workers = int(*k.ContainerLogMaxWorkers)
	}
	if k.ContainerLogMonitorInterval != nil {
		policy.Interval = k.ContainerLogMonitorInterval.Duration
	}
	return logrotate.New(policy, m.runtime.Runtime, m.Log)
}
