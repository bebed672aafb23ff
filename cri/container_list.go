package cri

import (
	"context"

	"google.golang.org/grpc"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
)

// ListContainers lists the containers that pass the filter.
func (s *runtimeService) ListContainers(ctx context.Context, req *criv1.ListContainersRequest) (*criv1.ListContainersResponse, error) {
	items, err := s.listContainers(ctx, req.GetFilter())
	return &criv1.ListContainersResponse{Containers: items}, err
}

// StreamContainers is ListContainers without its limit on size.
func (s *runtimeService) StreamContainers(req *criv1.StreamContainersRequest, stream grpc.ServerStreamingServer[criv1.StreamContainersResponse]) error {
	items, err := s.listContainers(stream.Context(), req.GetFilter())
	if err != nil {
		return err
	}
	return inParts(items, func(part []*criv1.Container) error {
		return stream.Send(&criv1.StreamContainersResponse{Containers: part})
	})
}

func (s *runtimeService) listContainers(ctx context.Context, filter *criv1.ContainerFilter) ([]*criv1.Container, error) {
	all, err := s.runtime.Containers(ctx)
	if err != nil {
		return nil, err
	}
	var items []*criv1.Container
	for _, c := range all {
		if translate.KeepContainer(filter, c) {
			items = append(items, translate.ToContainer(c))
		}
	}
	return items, nil
}
