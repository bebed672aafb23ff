package cri

import (
	"context"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
	"github.com/shimd/shimd/runtime"
)

// UpdatePodSandboxResources tells the runtime of a pod-level resize, after the kubelet has written the pod's cgroup.
func (s *runtimeService) UpdatePodSandboxResources(ctx context.Context, req *criv1.UpdatePodSandboxResourcesRequest) (*criv1.UpdatePodSandboxResourcesResponse, error) {
	overhead, resources, err := translate.UpdateSandbox(req)
	if err != nil {
		return nil, err
	}
	if err := s.runtime.UpdateSandboxResources(ctx, runtime.SandboxID(req.GetPodSandboxId()), overhead, resources); err != nil {
		return nil, err
	}
	return &criv1.UpdatePodSandboxResourcesResponse{}, nil
}
