package cri

import (
	"context"

	"google.golang.org/grpc"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
	"github.com/shimd/shimd/runtime"
)

// PodSandboxStats answers a sandbox's counters and those of its containers.
func (s *runtimeService) PodSandboxStats(ctx context.Context, req *criv1.PodSandboxStatsRequest) (*criv1.PodSandboxStatsResponse, error) {
	if err := translate.ID("pod_sandbox_id", req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	stats, err := s.runtime.SandboxStats(ctx, runtime.SandboxID(req.GetPodSandboxId()))
	if err != nil {
		return nil, err
	}
	return &criv1.PodSandboxStatsResponse{Stats: translate.ToSandboxStats(stats, s.cores.rate)}, nil
}

// ListPodSandboxStats answers the counters of all ready sandboxes that pass the filter.
func (s *runtimeService) ListPodSandboxStats(ctx context.Context, req *criv1.ListPodSandboxStatsRequest) (*criv1.ListPodSandboxStatsResponse, error) {
	items, err := s.listSandboxStats(ctx, req.GetFilter())
	return &criv1.ListPodSandboxStatsResponse{Stats: items}, err
}

// StreamPodSandboxStats is ListPodSandboxStats without its limit on size.
func (s *runtimeService) StreamPodSandboxStats(req *criv1.StreamPodSandboxStatsRequest, stream grpc.ServerStreamingServer[criv1.StreamPodSandboxStatsResponse]) error {
	items, err := s.listSandboxStats(stream.Context(), req.GetFilter())
	if err != nil {
		return err
	}
	return inParts(items, func(part []*criv1.PodSandboxStats) error {
		return stream.Send(&criv1.StreamPodSandboxStatsResponse{PodSandboxStats: part})
	})
}

func (s *runtimeService) listSandboxStats(ctx context.Context, filter *criv1.PodSandboxStatsFilter) ([]*criv1.PodSandboxStats, error) {
	var items []*criv1.PodSandboxStats
	err := s.eachSandboxStats(ctx, filter, func(stats SandboxStats) {
		items = append(items, translate.ToSandboxStats(stats, s.cores.rate))
	})
	return items, err
}

// eachSandboxStats measures the ready sandboxes that pass the filter, one after the other. What goes away meanwhile is left out.
func (s *runtimeService) eachSandboxStats(ctx context.Context, filter *criv1.PodSandboxStatsFilter, do func(SandboxStats)) error {
	all, err := s.runtime.Sandboxes(ctx)
	if err != nil {
		return err
	}
	for _, sb := range all {
		if sb.State != runtime.SandboxReady || !translate.KeepSandboxStats(filter, sb) {
			continue
		}
		stats, err := s.runtime.SandboxStats(ctx, sb.ID)
		if gone(err) != nil {
			return err
		}
		if err == nil {
			do(stats)
		}
	}
	return nil
}
