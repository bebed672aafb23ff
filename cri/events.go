package cri

import (
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
)

// GetContainerEvents streams every event from now on. What happened before is for the client to list, after the header has arrived: from then
// on it misses nothing. A client that reads too slowly is cut off and must list again, rather than be told half.
func (s *runtimeService) GetContainerEvents(_ *criv1.GetEventsRequest, stream grpc.ServerStreamingServer[criv1.ContainerEventResponse]) error {
	ctx := stream.Context()
	events, err := s.runtime.Events(ctx)
	if err != nil {
		return err
	}
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return fmt.Errorf("opening the stream of events: %w", err)
	}
	for event := range events {
		if err := stream.Send(translate.ToEvent(event)); err != nil {
			return fmt.Errorf("sending an event: %w", err)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return fmt.Errorf("the stream of events ended, for a slow reader or the runtime's end; list and ask again: %w", errdefs.ErrUnavailable)
}
