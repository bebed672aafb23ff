package cri

import (
	"context"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
	"github.com/shimd/shimd/runtime"
)

// RemoveContainer removes a container, by force. One that is not there is removed.
func (s *runtimeService) RemoveContainer(ctx context.Context, req *criv1.RemoveContainerRequest) (*criv1.RemoveContainerResponse, error) {
	if err := translate.ID("container_id", req.GetContainerId()); err != nil {
		return nil, err
	}
	if err := gone(s.runtime.RemoveContainer(ctx, runtime.ContainerID(req.GetContainerId()))); err != nil {
		return nil, err
	}
	return &criv1.RemoveContainerResponse{}, nil
}
