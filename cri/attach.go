package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
)

// Attach answers where the client can connect to a container's own streams.
func (s *runtimeService) Attach(ctx context.Context, req *criv1.AttachRequest) (*criv1.AttachResponse, error) {
	if err := translate.Attach(req); err != nil {
		return nil, err
	}
	status, err := s.running(ctx, req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if req.GetTty() != status.Config.TTY {
		return nil, fmt.Errorf("tty: is %t but that of container %s is %t: %w", req.GetTty(), status.ID, status.Config.TTY, errdefs.ErrInvalidArgument)
	}
	url, err := s.streams.Attach(req)
	return &criv1.AttachResponse{Url: url}, err
}
