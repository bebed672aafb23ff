package cri

import (
	"context"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cgroups"
	"github.com/shimd/shimd/cri/translate"
)

// RuntimeConfig tells the kubelet which cgroup driver to use.
func (s *runtimeService) RuntimeConfig(context.Context, *criv1.RuntimeConfigRequest) (*criv1.RuntimeConfigResponse, error) {
	driver := criv1.CgroupDriver_CGROUPFS
	if s.runtime.CgroupDriver() == cgroups.Systemd {
		driver = criv1.CgroupDriver_SYSTEMD
	}
	return &criv1.RuntimeConfigResponse{Linux: &criv1.LinuxRuntimeConfiguration{CgroupDriver: driver}}, nil
}

// UpdateRuntimeConfig takes the node's pod CIDR.
func (s *runtimeService) UpdateRuntimeConfig(ctx context.Context, req *criv1.UpdateRuntimeConfigRequest) (*criv1.UpdateRuntimeConfigResponse, error) {
	cidr, err := translate.PodCIDR(req)
	if err != nil {
		return nil, err
	}
	if err := s.runtime.UpdateConfig(ctx, cidr); err != nil {
		return nil, err
	}
	return &criv1.UpdateRuntimeConfigResponse{}, nil
}
