package cri

import (
	"context"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
)

// PullImage fetches an image and answers its ID. All runtime handlers share the images, so that the one in the request chooses nothing.
func (s *imageService) PullImage(ctx context.Context, req *criv1.PullImageRequest) (*criv1.PullImageResponse, error) {
	pull, err := translate.PullRequest(req)
	if err != nil {
		return nil, err
	}
	if err := knownHandler("image.runtime_handler", req.GetImage().GetRuntimeHandler(), s.runtime.Handlers()); err != nil {
		return nil, err
	}
	img, err := s.images.Pull(ctx, pull)
	if err != nil {
		return nil, err
	}
	return &criv1.PullImageResponse{ImageRef: string(img.ID)}, nil
}
