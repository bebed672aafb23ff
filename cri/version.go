package cri

import (
	"context"
	"regexp"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// kubeletAPIVersion is that of the kubelet's runtime API: it has never been another.
const kubeletAPIVersion = "0.1.0"

// Version names the runtime. The version in the request has had one value ever since and is not looked at.
func (s *runtimeService) Version(context.Context, *criv1.VersionRequest) (*criv1.VersionResponse, error) {
	return &criv1.VersionResponse{
		Version:           kubeletAPIVersion,
		RuntimeName:       "shimd",
		RuntimeVersion:    semantic(s.version),
		RuntimeApiVersion: "v1",
	}, nil
}

var (
	semanticVersion = regexp.MustCompile(`^v?\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)
	notOfVersions   = regexp.MustCompile(`[^0-9A-Za-z.-]+`)
)

// semantic is what CRI wants of a version: the kubelet shows "Unknown" for others, such as a commit or "devel".
func semantic(version string) string {
	if semanticVersion.MatchString(version) {
		return version
	}
	return "0.0.0+" + notOfVersions.ReplaceAllString(version, "-")
}
