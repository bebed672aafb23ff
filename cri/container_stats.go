package cri

import (
	"context"

	"google.golang.org/grpc"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
	"github.com/shimd/shimd/runtime"
)

// ContainerStats answers a container's counters.
func (s *runtimeService) ContainerStats(ctx context.Context, req *criv1.ContainerStatsRequest) (*criv1.ContainerStatsResponse, error) {
	if err := translate.ID("container_id", req.GetContainerId()); err != nil {
		return nil, err
	}
	stats, err := s.runtime.ContainerStats(ctx, runtime.ContainerID(req.GetContainerId()))
	if err != nil {
		return nil, err
	}
	return &criv1.ContainerStatsResponse{Stats: translate.ToContainerStats(stats, s.cores.rate)}, nil
}

// ListContainerStats answers the counters of all running containers that pass the filter.
func (s *runtimeService) ListContainerStats(ctx context.Context, req *criv1.ListContainerStatsRequest) (*criv1.ListContainerStatsResponse, error) {
	items, err := s.listContainerStats(ctx, req.GetFilter())
	return &criv1.ListContainerStatsResponse{Stats: items}, err
}

// StreamContainerStats is ListContainerStats without its limit on size.
func (s *runtimeService) StreamContainerStats(req *criv1.StreamContainerStatsRequest, stream grpc.ServerStreamingServer[criv1.StreamContainerStatsResponse]) error {
	items, err := s.listContainerStats(stream.Context(), req.GetFilter())
	if err != nil {
		return err
	}
	return inParts(items, func(part []*criv1.ContainerStats) error {
		return stream.Send(&criv1.StreamContainerStatsResponse{ContainerStats: part})
	})
}

func (s *runtimeService) listContainerStats(ctx context.Context, filter *criv1.ContainerStatsFilter) ([]*criv1.ContainerStats, error) {
	all, err := s.runtime.Containers(ctx)
	if err != nil {
		return nil, err
	}
	var items []*criv1.ContainerStats
	for _, c := range all {
		if c.State != runtime.ContainerRunning || !translate.KeepContainerStats(filter, c) {
			continue
		}
		stats, err := s.runtime.ContainerStats(ctx, c.ID)
		if gone(err) != nil {
			return nil, err
		}
		if err == nil {
			items = append(items, translate.ToContainerStats(stats, s.cores.rate))
		}
	}
	return items, nil
}
