package cri

import (
	"context"

	"google.golang.org/grpc"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
	"github.com/shimd/shimd/image"
)

// ListImages lists all images, or the one that the filter names.
func (s *imageService) ListImages(ctx context.Context, req *criv1.ListImagesRequest) (*criv1.ListImagesResponse, error) {
	items, err := s.list(ctx, req.GetFilter())
	return &criv1.ListImagesResponse{Images: items}, err
}

// StreamImages is ListImages without its limit on size.
func (s *imageService) StreamImages(req *criv1.StreamImagesRequest, stream grpc.ServerStreamingServer[criv1.StreamImagesResponse]) error {
	items, err := s.list(stream.Context(), req.GetFilter())
	if err != nil {
		return err
	}
	return inParts(items, func(part []*criv1.Image) error {
		return stream.Send(&criv1.StreamImagesResponse{Images: part})
	})
}

func (s *imageService) list(ctx context.Context, filter *criv1.ImageFilter) ([]*criv1.Image, error) {
	var images []image.Image
	if name := filter.GetImage().GetImage(); name != "" {
		img, err := s.images.Get(ctx, name)
		if err != nil {
			return nil, gone(err)
		}
		images = []image.Image{img}
	} else {
		var err error
		if images, err = s.images.List(ctx); err != nil {
			return nil, err
		}
	}
	var items []*criv1.Image
	for _, img := range images {
		items = append(items, translate.ToImage(img))
	}
	return items, nil
}
