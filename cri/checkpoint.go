package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CheckpointContainer is refused, whole: nothing of the request is looked at, so that nothing of it can be abused.
func (s *runtimeService) CheckpointContainer(context.Context, *criv1.CheckpointContainerRequest) (*criv1.CheckpointContainerResponse, error) {
	return nil, fmt.Errorf("shimd cannot checkpoint containers: %w", errdefs.ErrNotImplemented)
}

// CheckpointPod is refused as CheckpointContainer is.
func (s *runtimeService) CheckpointPod(context.Context, *criv1.CheckpointPodRequest) (*criv1.CheckpointPodResponse, error) {
	return nil, fmt.Errorf("shimd cannot checkpoint pods: %w", errdefs.ErrNotImplemented)
}

// RestorePod is refused as CheckpointContainer is.
func (s *runtimeService) RestorePod(context.Context, *criv1.RestorePodRequest) (*criv1.RestorePodResponse, error) {
	return nil, fmt.Errorf("shimd cannot restore pods from checkpoints: %w", errdefs.ErrNotImplemented)
}
