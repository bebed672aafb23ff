package cri

import (
	"context"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
	"github.com/shimd/shimd/runtime"
)

// StartContainer runs a created container.
func (s *runtimeService) StartContainer(ctx context.Context, req *criv1.StartContainerRequest) (*criv1.StartContainerResponse, error) {
	if err := translate.ID("container_id", req.GetContainerId()); err != nil {
		return nil, err
	}
	if err := s.runtime.StartContainer(ctx, runtime.ContainerID(req.GetContainerId())); err != nil {
		return nil, err
	}
	return &criv1.StartContainerResponse{}, nil
}
