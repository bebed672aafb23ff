package cri

import (
	"context"

	"google.golang.org/grpc"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
)

// ListPodSandbox lists the sandboxes that pass the filter.
func (s *runtimeService) ListPodSandbox(ctx context.Context, req *criv1.ListPodSandboxRequest) (*criv1.ListPodSandboxResponse, error) {
	items, err := s.listSandboxes(ctx, req.GetFilter())
	return &criv1.ListPodSandboxResponse{Items: items}, err
}

// StreamPodSandboxes is ListPodSandbox without its limit on size.
func (s *runtimeService) StreamPodSandboxes(req *criv1.StreamPodSandboxesRequest, stream grpc.ServerStreamingServer[criv1.StreamPodSandboxesResponse]) error {
	items, err := s.listSandboxes(stream.Context(), req.GetFilter())
	if err != nil {
		return err
	}
	return inParts(items, func(part []*criv1.PodSandbox) error {
		return stream.Send(&criv1.StreamPodSandboxesResponse{PodSandboxes: part})
	})
}

func (s *runtimeService) listSandboxes(ctx context.Context, filter *criv1.PodSandboxFilter) ([]*criv1.PodSandbox, error) {
	all, err := s.runtime.Sandboxes(ctx)
	if err != nil {
		return nil, err
	}
	var items []*criv1.PodSandbox
	for _, sb := range all {
		if translate.KeepSandbox(filter, sb) {
			items = append(items, translate.ToSandbox(sb))
		}
	}
	return items, nil
}
