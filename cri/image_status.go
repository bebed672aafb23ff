package cri

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
	"github.com/shimd/shimd/image"
)

// ImageStatus answers an image; an answer without one when it is not there.
func (s *imageService) ImageStatus(ctx context.Context, req *criv1.ImageStatusRequest) (*criv1.ImageStatusResponse, error) {
	name, err := translate.ImageName("image", req.GetImage())
	if err != nil {
		return nil, err
	}
	img, err := s.images.Get(ctx, name)
	if errdefs.IsNotFound(err) {
		return &criv1.ImageStatusResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	resp := &criv1.ImageStatusResponse{Image: translate.ToImage(img)}
	if req.GetVerbose() {
		if resp.Info, err = imageInfo(img); err != nil {
			return nil, err
		}
	}
	return resp, nil
}

// imageInfo is what "crictl inspecti" shows, in the shape that containerd gives it.
func imageInfo(img image.Image) (map[string]string, error) {
	info := struct {
		ChainID   string          `json:"chainID"`
		ImageSpec imagespec.Image `json:"imageSpec"`
	}{ImageSpec: imageSpec(img)}
	if len(img.DiffIDs) > 0 {
		info.ChainID = identity.ChainID(info.ImageSpec.RootFS.DiffIDs).String()
	}
	text, err := json.Marshal(info)
	if err != nil {
		return nil, fmt.Errorf("describing image %s: %w", img.ID, err)
	}
	return map[string]string{"info": string(text)}, nil
}

func imageSpec(img image.Image) imagespec.Image {
	cfg := img.Config
	spec := imagespec.Image{
		Platform: imagespec.Platform{Architecture: cfg.Architecture, OS: cfg.OS},
		Config: imagespec.ImageConfig{
			User:       cfg.User,
			Env:        cfg.Env,
			Entrypoint: cfg.Entrypoint,
			Cmd:        cfg.Cmd,
			WorkingDir: cfg.WorkingDir,
			Labels:     cfg.Labels,
			StopSignal: cfg.StopSignal,
		},
		RootFS: imagespec.RootFS{Type: "layers"},
	}
	for _, v := range cfg.Volumes {
		if spec.Config.Volumes == nil {
			spec.Config.Volumes = make(map[string]struct{})
		}
		spec.Config.Volumes[v] = struct{}{}
	}
	for _, id := range img.DiffIDs {
		spec.RootFS.DiffIDs = append(spec.RootFS.DiffIDs, digest.Digest(id))
	}
	return spec
}
