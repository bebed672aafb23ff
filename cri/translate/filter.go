package translate

import (
	"strings"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/runtime"
)

// KeepSandbox says whether a sandbox passes a filter; nil lets all pass. IDs may be prefixes.
func KeepSandbox(f *criv1.PodSandboxFilter, s runtime.SandboxStatus) bool {
	return strings.HasPrefix(string(s.ID), f.GetId()) &&
		(f.GetState() == nil || f.GetState().GetState() == toSandboxState(s.State)) &&
		selects(f.GetLabelSelector(), s.Config.Labels)
}

// KeepSandboxStats is KeepSandbox for the filter of statistics.
func KeepSandboxStats(f *criv1.PodSandboxStatsFilter, s runtime.SandboxStatus) bool {
	return strings.HasPrefix(string(s.ID), f.GetId()) && selects(f.GetLabelSelector(), s.Config.Labels)
}

// KeepContainer says whether a container passes a filter; nil lets all pass. IDs may be prefixes.
func KeepContainer(f *criv1.ContainerFilter, s runtime.ContainerStatus) bool {
	return strings.HasPrefix(string(s.ID), f.GetId()) &&
		strings.HasPrefix(string(s.Sandbox), f.GetPodSandboxId()) &&
		(f.GetState() == nil || f.GetState().GetState() == toContainerState(s.State)) &&
		selects(f.GetLabelSelector(), s.Config.Labels)
}

// KeepContainerStats is KeepContainer for the filter of statistics.
func KeepContainerStats(f *criv1.ContainerStatsFilter, s runtime.ContainerStatus) bool {
	return strings.HasPrefix(string(s.ID), f.GetId()) &&
		strings.HasPrefix(string(s.Sandbox), f.GetPodSandboxId()) &&
		selects(f.GetLabelSelector(), s.Config.Labels)
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}
