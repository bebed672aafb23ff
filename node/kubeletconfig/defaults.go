package kubeletconfig

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/ptr"
)

// runtimeEndpoint is shimlet's own default, not the kubelet's, which is containerd's.
const runtimeEndpoint = "unix:///run/shimd/shimd.sock"

// value fills in one field if it is zero.
func value[T comparable](field *T, otherwise T) {
	var zero T
	if *field == zero {
		*field = otherwise
	}
}

// pointer fills in one field that tells "not set" from zero.
func pointer[T any](field **T, otherwise T) {
	if *field == nil {
		*field = ptr.To(otherwise)
	}
}

func duration(field *metav1.Duration, otherwise time.Duration) {
	value(field, metav1.Duration{Duration: otherwise})
}

// Default is the configuration without a file.
func Default() *kubeletv1beta1.KubeletConfiguration {
	c := &kubeletv1beta1.KubeletConfiguration{TypeMeta: metav1.TypeMeta{APIVersion: apiVersion, Kind: kindName}}
	SetDefaults(c)
	return c
}

// SetDefaults fills in what is not set, as the kubelet of Kubernetes 1.36 does, but for the runtime's endpoint. evictionHard is filled in too: the kubelet
// does that where it is used.
func SetDefaults(c *kubeletv1beta1.KubeletConfiguration) {
	serverDefaults(c)
	nodeDefaults(c)
	resourceDefaults(c)
	imageAndLogDefaults(c)
}

func serverDefaults(c *kubeletv1beta1.KubeletConfiguration) {
	pointer(&c.EnableServer, true)
	value(&c.Address, "0.0.0.0")
	value(&c.Port, 10250)
	pointer(&c.Authentication.Anonymous.Enabled, false)
	pointer(&c.Authentication.Webhook.Enabled, true)
	duration(&c.Authentication.Webhook.CacheTTL, 2*time.Minute)
	value(&c.Authorization.Mode, kubeletv1beta1.KubeletAuthorizationModeWebhook)
	duration(&c.Authorization.Webhook.CacheAuthorizedTTL, 5*time.Minute)
	duration(&c.Authorization.Webhook.CacheUnauthorizedTTL, 30*time.Second)
	pointer(&c.EnableDebuggingHandlers, true)
	pointer(&c.HealthzPort, 10248)
	value(&c.HealthzBindAddress, "127.0.0.1")
	duration(&c.StreamingConnectionIdleTimeout, 4*time.Hour)
	pointer(&c.EnableSystemLogHandler, true)
	pointer(&c.EnableProfilingHandler, true)
	pointer(&c.EnableDebugFlagsHandler, true)
	value(&c.Logging.Format, "text")
	value(&c.Logging.FlushFrequency.Duration.Duration, 5*time.Second)
	c.Logging.FlushFrequency.SerializeAsString = true
}

func nodeDefaults(c *kubeletv1beta1.KubeletConfiguration) {
	duration(&c.SyncFrequency, time.Minute)
	duration(&c.FileCheckFrequency, 20*time.Second)
	duration(&c.HTTPCheckFrequency, 20*time.Second)
	// The report frequency follows the update frequency where only that is set.
	if c.NodeStatusUpdateFrequency.Duration == 0 {
		duration(&c.NodeStatusReportFrequency, 5*time.Minute)
	}
	duration(&c.NodeStatusUpdateFrequency, 10*time.Second)
	duration(&c.NodeStatusReportFrequency, c.NodeStatusUpdateFrequency.Duration)
	value(&c.NodeLeaseDurationSeconds, 40)
	pointer(&c.NodeStatusMaxImages, 50)
	pointer(&c.EventRecordQPS, 50)
	value(&c.EventBurst, 100)
	value(&c.ContentType, "application/vnd.kubernetes.protobuf")
	pointer(&c.KubeAPIQPS, 50)
	value(&c.KubeAPIBurst, 100)
	pointer(&c.RegisterNode, true)
	pointer(&c.EnableControllerAttachDetach, true)
	value(&c.ConfigMapAndSecretChangeDetectionStrategy, kubeletv1beta1.WatchChangeDetectionStrategy)
	value(&c.VolumePluginDir, "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/")
	duration(&c.VolumeStatsAggPeriod, time.Minute)
	value(&c.ContainerRuntimeEndpoint, runtimeEndpoint)
	duration(&c.RuntimeRequestTimeout, 2*time.Minute)
	value(&c.HairpinMode, kubeletv1beta1.PromiscuousBridge)
	pointer(&c.ResolverConfig, "/etc/resolv.conf")
	pointer(&c.SeccompDefault, false)
	pointer(&c.MakeIPTablesUtilChains, true)
	pointer(&c.IPTablesMasqueradeBit, 14)
	pointer(&c.IPTablesDropBit, 15)
	pointer(&c.CrashLoopBackOff.MaxContainerRestartPeriod, metav1.Duration{Duration: 5 * time.Minute})
}

func resourceDefaults(c *kubeletv1beta1.KubeletConfiguration) {
	pointer(&c.OOMScoreAdj, -999)
	pointer(&c.CgroupsPerQOS, true)
	value(&c.CgroupDriver, "cgroupfs")
	value(&c.CPUManagerPolicy, "none")
	duration(&c.CPUManagerReconcilePeriod, 10*time.Second)
	value(&c.MemoryManagerPolicy, kubeletv1beta1.NoneMemoryManagerPolicy)
	value(&c.TopologyManagerPolicy, kubeletv1beta1.NoneTopologyManagerPolicy)
	value(&c.TopologyManagerScope, kubeletv1beta1.ContainerTopologyManagerScope)
	value(&c.MaxPods, 110)
	if c.PodPidsLimit == nil || *c.PodPidsLimit < 0 {
		c.PodPidsLimit = ptr.To[int64](-1)
	}
	pointer(&c.CPUCFSQuota, true)
	pointer(&c.CPUCFSQuotaPeriod, metav1.Duration{Duration: 100 * time.Millisecond})
	value(&c.MaxOpenFiles, 1000000)
	duration(&c.EvictionPressureTransitionPeriod, 5*time.Minute)
	pointer(&c.MergeDefaultEvictionSettings, false)
	pointer(&c.FailSwapOn, true)
	pointer(&c.FailCgroupV1, true)
	pointer(&c.MemoryThrottlingFactor, 0.9)
	value(&c.MemoryReservationPolicy, kubeletv1beta1.NoneMemoryReservationPolicy)
	pointer(&c.LocalStorageCapacityIsolation, true)
	if c.EnforceNodeAllocatable == nil {
		c.EnforceNodeAllocatable = []string{"pods"}
	}
	eviction := map[string]string{"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%", "imagefs.available": "15%", "imagefs.inodesFree": "5%"}
	switch {
	case c.EvictionHard == nil:
		c.EvictionHard = eviction
	case *c.MergeDefaultEvictionSettings:
		for signal, threshold := range eviction {
			if _, set := c.EvictionHard[signal]; !set {
				c.EvictionHard[signal] = threshold
			}
		}
	}
}

func imageAndLogDefaults(c *kubeletv1beta1.KubeletConfiguration) {
	pointer(&c.RegistryPullQPS, 5)
	value(&c.RegistryBurst, 10)
	duration(&c.ImageMinimumGCAge, 2*time.Minute)
	pointer(&c.ImageGCHighThresholdPercent, 85)
	pointer(&c.ImageGCLowThresholdPercent, 80)
	if c.SerializeImagePulls == nil {
		c.SerializeImagePulls = ptr.To(c.MaxParallelImagePulls == nil || *c.MaxParallelImagePulls < 2)
	}
	value(&c.ImagePullCredentialsVerificationPolicy, kubeletv1beta1.NeverVerifyPreloadedImages)
	value(&c.PodLogsDir, "/var/log/pods")
	value(&c.ContainerLogMaxSize, "10Mi")
	pointer(&c.ContainerLogMaxFiles, 5)
	pointer(&c.ContainerLogMaxWorkers, 1)
	pointer(&c.ContainerLogMonitorInterval, metav1.Duration{Duration: 10 * time.Second})
}
