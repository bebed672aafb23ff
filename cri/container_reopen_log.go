package cri

import (
	"context"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
	"github.com/shimd/shimd/runtime"
)

// ReopenContainerLog lets later output go to a new file, after the kubelet has moved the old one away.
func (s *runtimeService) ReopenContainerLog(ctx context.Context, req *criv1.ReopenContainerLogRequest) (*criv1.ReopenContainerLogResponse, error) {
	if err := translate.ID("container_id", req.GetContainerId()); err != nil {
		return nil, err
	}
	if err := s.runtime.ReopenContainerLog(ctx, runtime.ContainerID(req.GetContainerId())); err != nil {
		return nil, err
	}
	return &criv1.ReopenContainerLogResponse{}, nil
}
