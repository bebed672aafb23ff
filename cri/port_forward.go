package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
	"github.com/shimd/shimd/runtime"
)

// PortForward answers where the client can connect to reach ports inside a sandbox.
func (s *runtimeService) PortForward(ctx context.Context, req *criv1.PortForwardRequest) (*criv1.PortForwardResponse, error) {
	if err := translate.PortForward(req); err != nil {
		return nil, err
	}
	status, _, err := s.runtime.SandboxStatus(ctx, runtime.SandboxID(req.GetPodSandboxId()), false)
	if err != nil {
		return nil, err
	}
	if status.State != runtime.SandboxReady {
		return nil, fmt.Errorf("sandbox %s is not ready: %w", status.ID, errdefs.ErrFailedPrecondition)
	}
	url, err := s.streams.PortForward(req)
	return &criv1.PortForwardResponse{Url: url}, err
}
