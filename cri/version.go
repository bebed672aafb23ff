package cri

import (
	"context"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// kubeletAPIVersion is that of the kubelet's runtime API: it has never been another.
const kubeletAPIVersion = "0.1.0"

// Version names the runtime. The version in the request has had one value ever since and is not looked at.
func (s *runtimeService) Version(context.Context, *criv1.VersionRequest) (*criv1.VersionResponse, error) {
	return &criv1.VersionResponse{
		Version:           kubeletAPIVersion,
		RuntimeName:       "shimd",
		RuntimeVersion:    s.version,
		RuntimeApiVersion: "v1",
	}, nil
}
