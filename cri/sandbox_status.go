package cri

import (
	"context"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
	"github.com/shimd/shimd/runtime"
)

// PodSandboxStatus answers a sandbox's status with those of its containers, all of one moment.
func (s *runtimeService) PodSandboxStatus(ctx context.Context, req *criv1.PodSandboxStatusRequest) (*criv1.PodSandboxStatusResponse, error) {
	if err := translate.ID("pod_sandbox_id", req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	now := time.Now()
	status, containers, err := s.runtime.SandboxStatus(ctx, runtime.SandboxID(req.GetPodSandboxId()), req.GetVerbose())
	if err != nil {
		return nil, err
	}
	resp := &criv1.PodSandboxStatusResponse{Status: translate.ToSandboxStatus(status), Timestamp: now.UnixNano()}
	for _, c := range containers {
		resp.ContainersStatuses = append(resp.ContainersStatuses, translate.ToContainerStatus(c))
	}
	if req.GetVerbose() {
		resp.Info = status.Info
	}
	return resp, nil
}
