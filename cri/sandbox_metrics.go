package cri

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/podmetrics"
)

// ListMetricDescriptors answers the metrics that ListPodSandboxMetrics can have. They never change.
func (s *runtimeService) ListMetricDescriptors(context.Context, *criv1.ListMetricDescriptorsRequest) (*criv1.ListMetricDescriptorsResponse, error) {
	return &criv1.ListMetricDescriptorsResponse{Descriptors: podmetrics.Descriptors()}, nil
}

// ListPodSandboxMetrics answers the metrics of all ready sandboxes and their containers.
func (s *runtimeService) ListPodSandboxMetrics(ctx context.Context, _ *criv1.ListPodSandboxMetricsRequest) (*criv1.ListPodSandboxMetricsResponse, error) {
	items, err := s.listSandboxMetrics(ctx)
	return &criv1.ListPodSandboxMetricsResponse{PodMetrics: items}, err
}

// StreamPodSandboxMetrics is ListPodSandboxMetrics without its limit on size.
func (s *runtimeService) StreamPodSandboxMetrics(_ *criv1.StreamPodSandboxMetricsRequest, stream grpc.ServerStreamingServer[criv1.StreamPodSandboxMetricsResponse]) error {
	items, err := s.listSandboxMetrics(stream.Context())
	if err != nil {
		return err
	}
	return inParts(items, func(part []*criv1.PodSandboxMetrics) error {
		return stream.Send(&criv1.StreamPodSandboxMetricsResponse{PodSandboxMetrics: part})
	})
}

func (s *runtimeService) listSandboxMetrics(ctx context.Context) ([]*criv1.PodSandboxMetrics, error) {
	var items []*criv1.PodSandboxMetrics
	var failed error
	err := s.eachSandboxStats(ctx, nil, func(stats SandboxStats) {
		for i := range stats.Containers {
			c := &stats.Containers[i]
			usage, err := s.runtime.ContainerProcesses(ctx, c.Status.ID)
			if err == nil {
				c.Processes = &usage
			} else if failed == nil {
				failed = gone(err)
			}
		}
		items = append(items, podmetrics.Of(stats))
	})
	return items, errors.Join(err, failed)
}
