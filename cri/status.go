package cri

import (
	"context"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Status answers whether pods could run now, and what the handlers can do.
func (s *runtimeService) Status(ctx context.Context, req *criv1.StatusRequest) (*criv1.StatusResponse, error) {
	runtimeErr, networkErr := s.runtime.Conditions(ctx)
	resp := &criv1.StatusResponse{
		Status: &criv1.RuntimeStatus{Conditions: []*criv1.RuntimeCondition{
			condition(criv1.RuntimeReady, runtimeErr, "RuntimeNotReady"),
			condition(criv1.NetworkReady, networkErr, "NetworkNotReady"),
		}},
		Features: &criv1.RuntimeFeatures{
			SupplementalGroupsPolicy:  true,
			UserNamespacesHostNetwork: false, // sysfs cannot be mounted for the host's network in a user namespace: refused by translate
			MountOptions:              true,
		},
	}
	for _, h := range s.runtime.Handlers() {
		resp.RuntimeHandlers = append(resp.RuntimeHandlers, &criv1.RuntimeHandler{
			Name:     h.Name,
			Features: &criv1.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: h.RecursiveReadOnlyMounts, UserNamespaces: h.UserNamespaces},
		})
	}
	if req.GetVerbose() {
		resp.Info = s.runtime.Info(ctx)
	}
	return resp, nil
}

// condition is true without an error; else the error is its message, for an operator.
func condition(kind string, err error, reason string) *criv1.RuntimeCondition {
	if err != nil {
		return &criv1.RuntimeCondition{Type: kind, Reason: reason, Message: err.Error()}
	}
	return &criv1.RuntimeCondition{Type: kind, Status: true}
}
