package cri

import (
	"context"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
	"github.com/shimd/shimd/runtime"
)

// ContainerStatus answers a container's status.
func (s *runtimeService) ContainerStatus(ctx context.Context, req *criv1.ContainerStatusRequest) (*criv1.ContainerStatusResponse, error) {
	if err := translate.ID("container_id", req.GetContainerId()); err != nil {
		return nil, err
	}
	status, err := s.runtime.ContainerStatus(ctx, runtime.ContainerID(req.GetContainerId()), req.GetVerbose())
	if err != nil {
		return nil, err
	}
	resp := &criv1.ContainerStatusResponse{Status: translate.ToContainerStatus(status)}
	if req.GetVerbose() {
		resp.Info = status.Info
	}
	return resp, nil
}
