package cri

import (
	"context"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
	"github.com/shimd/shimd/runtime"
)

// CreateContainer prepares a container in a sandbox.
func (s *runtimeService) CreateContainer(ctx context.Context, req *criv1.CreateContainerRequest) (*criv1.CreateContainerResponse, error) {
	cfg, err := translate.Container(req)
	if err != nil {
		return nil, err
	}
	if err := knownHandler("config.image.runtime_handler", cfg.Image.RuntimeHandler, s.runtime.Handlers()); err != nil {
		return nil, err
	}
	id, err := s.runtime.CreateContainer(ctx, runtime.SandboxID(req.GetPodSandboxId()), cfg)
	if err != nil {
		return nil, err
	}
	return &criv1.CreateContainerResponse{ContainerId: string(id)}, nil
}
