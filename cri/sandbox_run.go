package cri

import (
	"context"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
)

// RunPodSandbox makes a sandbox ready.
func (s *runtimeService) RunPodSandbox(ctx context.Context, req *criv1.RunPodSandboxRequest) (*criv1.RunPodSandboxResponse, error) {
	cfg, err := translate.Sandbox(req)
	if err != nil {
		return nil, err
	}
	if err := knownHandler("runtime_handler", cfg.RuntimeHandler, s.runtime.Handlers()); err != nil {
		return nil, err
	}
	id, err := s.runtime.RunSandbox(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &criv1.RunPodSandboxResponse{PodSandboxId: string(id)}, nil
}
