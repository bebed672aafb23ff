package cri

import (
	"context"
	"maps"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
	"github.com/shimd/shimd/runtime"
)

// UpdateContainerResources changes a container's limits: all of them or none.
func (s *runtimeService) UpdateContainerResources(ctx context.Context, req *criv1.UpdateContainerResourcesRequest) (*criv1.UpdateContainerResourcesResponse, error) {
	resources, err := translate.UpdateContainer(req)
	if err != nil {
		return nil, err
	}
	id := runtime.ContainerID(req.GetContainerId())
	if err := s.runtime.UpdateContainerResources(ctx, id, resources, maps.Clone(req.GetAnnotations())); err != nil {
		return nil, err
	}
	return &criv1.UpdateContainerResourcesResponse{}, nil
}
