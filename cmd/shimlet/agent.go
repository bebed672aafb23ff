package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/shimd/shimd/node"
	"github.com/shimd/shimd/node/status"
)

// agent runs until the context ends, or one of the rooms fails. Pods run on.
func (o *options) agent(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel(nil)
	beside := func(run func(context.Context) error) {
		group.Go(func() {
			if err := run(ctx); err != nil {
				cancel(err)
			}
		})
	}
	var m *member
	if o.kubeconfig != "" {
		var err error
		if m, err = o.join(ctx); err != nil {
			return err
		}
		defer m.close()
	}
	if o.LogLinks != "" {
		if err := os.MkdirAll(o.LogLinks, 0o755); err != nil {
			return fmt.Errorf("making the directory of links to logs: %w", err)
		}
	}
	agent, err := node.New(o.Config)
	if err != nil {
		return err
	}
	defer agent.Close()
	socket, err := status.Listen(o.socket)
	if err != nil {
		return err
	}
	beside(func(ctx context.Context) error { return status.Serve(ctx, socket, status.Handler(agent, true)) })
	if m != nil {
		err = m.start(agent, beside)
	} else {
		err = o.health(agent, beside)
	}
	if err != nil {
		return err
	}
	o.Log.Info("shimlet starts", "version", version, "folder", o.Folder, "runtime", o.Endpoint, "node", o.NodeName, "kubeconfig", o.kubeconfig)
	notify(o.Log, daemon.SdNotifyReady)
	err = agent.Run(ctx)
	notify(o.Log, daemon.SdNotifyStopping)
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return err
}

// health answers /healthz for an agent without a cluster.
func (o *options) health(agent *node.Agent, beside func(func(context.Context) error)) error {
	if o.healthz == "" {
		return nil
	}
	listener, err := net.Listen("tcp", o.healthz)
	if err != nil {
		return fmt.Errorf("serving /healthz (set --healthz-address to another one, or to '' for the socket only): %w", err)
	}
	beside(func(ctx context.Context) error { return status.Serve(ctx, listener, status.Handler(agent, false)) })
	return nil
}
