package cri

import (
	"context"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
)

// RemoveImage removes an image with all its names. One that is not there is removed.
func (s *imageService) RemoveImage(ctx context.Context, req *criv1.RemoveImageRequest) (*criv1.RemoveImageResponse, error) {
	name, err := translate.ImageName("image", req.GetImage())
	if err != nil {
		return nil, err
	}
	img, err := s.images.Get(ctx, name)
	if err != nil {
		return &criv1.RemoveImageResponse{}, gone(err)
	}
	// By ID: CRI wants all names gone, whichever one was named.
	if err := gone(s.images.Remove(ctx, string(img.ID))); err != nil {
		return nil, err
	}
	return &criv1.RemoveImageResponse{}, nil
}
