package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
	"github.com/shimd/shimd/runtime"
)

// Exec answers where the client can connect to run a command with its streams.
func (s *runtimeService) Exec(ctx context.Context, req *criv1.ExecRequest) (*criv1.ExecResponse, error) {
	if err := translate.Exec(req); err != nil {
		return nil, err
	}
	if _, err := s.running(ctx, req.GetContainerId()); err != nil {
		return nil, err
	}
	url, err := s.streams.Exec(req)
	return &criv1.ExecResponse{Url: url}, err
}

// running answers the status of a container that can be talked to. It can still end before the client connects: this is for a clear answer
// in the usual case.
func (s *runtimeService) running(ctx context.Context, id string) (runtime.ContainerStatus, error) {
	status, err := s.runtime.ContainerStatus(ctx, runtime.ContainerID(id), false)
	if err != nil {
		return status, err
	}
	if status.State != runtime.ContainerRunning {
		return status, fmt.Errorf("container %s is %s, not running: %w", status.ID, status.State, errdefs.ErrFailedPrecondition)
	}
	return status, nil
}
