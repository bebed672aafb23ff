package cri

import (
	"context"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
	"github.com/shimd/shimd/runtime"
)

// RemovePodSandbox removes a sandbox with its containers. One that is not there is removed.
func (s *runtimeService) RemovePodSandbox(ctx context.Context, req *criv1.RemovePodSandboxRequest) (*criv1.RemovePodSandboxResponse, error) {
	if err := translate.ID("pod_sandbox_id", req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	if err := gone(s.runtime.RemoveSandbox(ctx, runtime.SandboxID(req.GetPodSandboxId()))); err != nil {
		return nil, err
	}
	return &criv1.RemovePodSandboxResponse{}, nil
}
