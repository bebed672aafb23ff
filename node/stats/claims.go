package stats

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Claims are the kubelet_volume_stats_* of /metrics: how full the volumes of claims are. They are measured when they are asked for.
func (c *Collector) Claims() prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		page := newFamilies()
		if c.Pods == nil || c.VolumePath == nil {
			return nil, nil
		}
		seen := map[statsv1alpha1.PVCReference]bool{}
		for _, pod := range c.Pods() {
			for i := range pod.Spec.Volumes {
				claim := claimed(pod, &pod.Spec.Volumes[i])
				if claim == nil || seen[*claim] {
					continue
				}
				if s := c.volume(pod, &pod.Spec.Volumes[i]); s != nil {
					seen[*claim] = true
					claimMetrics(page, claim, &s.FsStats)
				}
			}
		}
		return page.list(), nil
	})
}

func claimMetrics(page *families, claim *statsv1alpha1.PVCReference, s *statsv1alpha1.FsStats) {
	with := labels{{"namespace", claim.Namespace}, {"persistentvolumeclaim", claim.Name}}
	for _, m := range []struct {
		name, help string
		value      *uint64
	}{
		{"kubelet_volume_stats_capacity_bytes", "[ALPHA] Capacity in bytes of the volume", s.CapacityBytes},
		{"kubelet_volume_stats_available_bytes", "[ALPHA] Number of available bytes in the volume", s.AvailableBytes},
		{"kubelet_volume_stats_used_bytes", "[ALPHA] Number of used bytes in the volume", s.UsedBytes},
		{"kubelet_volume_stats_inodes", "[ALPHA] Maximum number of inodes in the volume", s.Inodes},
		{"kubelet_volume_stats_inodes_free", "[ALPHA] Number of free inodes in the volume", s.InodesFree},
		{"kubelet_volume_stats_inodes_used", "[ALPHA] Number of used inodes in the volume", s.InodesUsed},
	} {
		if m.value != nil {
			page.add(kind{m.name, m.help, false}, float64(*m.value), time.Time{}, with)
		}
	}
}
