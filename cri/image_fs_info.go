package cri

import (
	"context"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
)

// ImageFsInfo answers what images take. Containers' writable layers stand on the same file system: the kubelet learns that by seeing it twice.
func (s *imageService) ImageFsInfo(ctx context.Context, _ *criv1.ImageFsInfoRequest) (*criv1.ImageFsInfoResponse, error) {
	usage, err := s.images.FsUsage(ctx)
	if err != nil {
		return nil, err
	}
	return &criv1.ImageFsInfoResponse{
		ImageFilesystems:     []*criv1.FilesystemUsage{translate.ToFsUsage(usage)},
		ContainerFilesystems: []*criv1.FilesystemUsage{translate.ToFsUsage(usage)},
	}, nil
}
