package cri

import (
	"context"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
	"github.com/shimd/shimd/runtime"
)

// StopPodSandbox kills a sandbox's containers and takes its network away. One that is not there is stopped.
func (s *runtimeService) StopPodSandbox(ctx context.Context, req *criv1.StopPodSandboxRequest) (*criv1.StopPodSandboxResponse, error) {
	if err := translate.ID("pod_sandbox_id", req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	if err := gone(s.runtime.StopSandbox(ctx, runtime.SandboxID(req.GetPodSandboxId()))); err != nil {
		return nil, err
	}
	return &criv1.StopPodSandboxResponse{}, nil
}
