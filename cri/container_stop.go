package cri

import (
	"context"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
	"github.com/shimd/shimd/runtime"
)

// StopContainer ends a container, by force after the grace period. One that is not there is stopped.
func (s *runtimeService) StopContainer(ctx context.Context, req *criv1.StopContainerRequest) (*criv1.StopContainerResponse, error) {
	grace, err := translate.StopContainer(req)
	if err != nil {
		return nil, err
	}
	if err := gone(s.runtime.StopContainer(ctx, runtime.ContainerID(req.GetContainerId()), grace)); err != nil {
		return nil, err
	}
	return &criv1.StopContainerResponse{}, nil
}
