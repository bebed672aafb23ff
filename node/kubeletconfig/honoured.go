package kubeletconfig

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
)

// verdict is what becomes of a field that has another value than its default.
type verdict int

const (
	honoured verdict = iota
	ignored          // named in the log: it changes nothing here
	refused          // unsafe to ignore
)

// field is the verdict on one field, and why, or what to do.
type field struct {
	verdict verdict
	why     string
}

const (
	noMeaning = "has no meaning to shimlet"
	notBuilt  = "is not built"
)

// fields is the one place that says what shimlet does with each field of KubeletConfiguration; a test holds it complete. Fields inside of a field
// that is listed with a dot have entries of their own.
func fields() map[string]field {
	return map[string]field{
		"staticPodPath": {}, "podLogsDir": {}, "address": {}, "port": {}, "readOnlyPort": {}, "tlsCertFile": {}, "tlsPrivateKeyFile": {},
		"authentication.x509": {}, "authentication.webhook": {}, "authentication.anonymous": {}, "authorization.mode": {}, "authorization.webhook": {},
		"eventRecordQPS": {}, "eventBurst": {}, "healthzPort": {}, "healthzBindAddress": {}, "clusterDomain": {}, "clusterDNS": {},
		"nodeStatusUpdateFrequency": {}, "nodeStatusReportFrequency": {}, "nodeLeaseDurationSeconds": {}, "nodeStatusMaxImages": {},
		"kubeAPIQPS": {}, "kubeAPIBurst": {}, "maxPods": {}, "podsPerCore": {}, "podCIDR": {}, "resolvConf": {}, "seccompDefault": {},
		"registerWithTaints": {}, "registerNode": {}, "containerRuntimeEndpoint": {}, "providerID": {},
		"systemReserved": {}, "kubeReserved": {}, "evictionHard": {}, "mergeDefaultEvictionSettings": {}, "cgroupRoot": {}, "cgroupDriver": {},
		"enableServer": {}, "enableDebuggingHandlers": {},
		"imageMinimumGCAge": {}, "imageMaximumGCAge": {}, "imageGCHighThresholdPercent": {}, "imageGCLowThresholdPercent": {},
		"containerLogMaxSize": {}, "containerLogMaxFiles": {}, "containerLogMaxWorkers": {}, "containerLogMonitorInterval": {},

		"evictionPressureTransitionPeriod": {}, "cpuCFSQuota": {}, "cpuCFSQuotaPeriod": {},
		"localStorageCapacityIsolation": {}, "rotateCertificates": {},
		"tlsMinVersion": {}, "tlsCipherSuites": {}, "enableSystemLogHandler": {}, "enableProfilingHandler": {}, "evictionSoft": {},
		"evictionSoftGracePeriod": {}, "allowedUnsafeSysctls": {}, "evictionMinimumReclaim": {}, "evictionMaxPodGracePeriod": {}, "enforceNodeAllocatable": {}, "podPidsLimit": {},
		"cgroupsPerQOS": {},

		"serializeImagePulls":                       {ignored, "images are pulled as they are needed"},
		"maxParallelImagePulls":                     {ignored, "images are pulled as they are needed"},
		"registryPullQPS":                           {ignored, "images are pulled as they are needed"},
		"registryBurst":                             {ignored, "images are pulled as they are needed"},
		"runtimeRequestTimeout":                     {ignored, "the runtime is given two minutes for each request, and longer to pull"},
		"crashLoopBackOff":                          {ignored, "the longest wait between restarts is five minutes"},
		"failCgroupV1":                              {ignored, "cgroup v1 is used where the machine has it"},
		"imageServiceEndpoint":                      {ignored, "images are asked for at containerRuntimeEndpoint"},
		"streamingConnectionIdleTimeout":            {ignored, "the runtime ends idle streams"},
		"syncFrequency":                             {ignored, noMeaning + ": pods are acted on when something changes"},
		"fileCheckFrequency":                        {ignored, noMeaning + ": the folder of static pods is watched"},
		"httpCheckFrequency":                        {ignored, "static pods are read from files only"},
		"oomScoreAdj":                               {ignored, "shimlet leaves its own to the service manager"},
		"volumeStatsAggPeriod":                      {ignored, "volumes are measured when somebody asks"},
		"kubeletCgroups":                            {ignored, "shimlet stays in the cgroup that it was started in"},
		"systemCgroups":                             {ignored, "shimlet moves no processes that are not its pods'"},
		"cpuManagerReconcilePeriod":                 {ignored, noMeaning},
		"topologyManagerScope":                      {ignored, noMeaning + " without a topology policy"},
		"hairpinMode":                               {ignored, "the runtime's network decides"},
		"maxOpenFiles":                              {ignored, "the service manager's LimitNOFILE counts"},
		"contentType":                               {ignored, "requests are protobuf"},
		"makeIPTablesUtilChains":                    {ignored, "shimlet makes no firewall rules"},
		"iptablesMasqueradeBit":                     {ignored, "shimlet makes no firewall rules"},
		"iptablesDropBit":                           {ignored, "shimlet makes no firewall rules"},
		"enableContentionProfiling":                 {ignored, notBuilt},
		"enableDebugFlagsHandler":                   {ignored, notBuilt},
		"enableSystemLogQuery":                      {ignored, notBuilt + ": /logs is not served"},
		"logging":                                   {ignored, "use --log-level"},
		"tracing":                                   {ignored, notBuilt},
		"volumePluginDir":                           {ignored, "there are no flex volumes"},
		"kernelMemcgNotification":                   {ignored, noMeaning},
		"failSwapOn":                                {ignored, "shimlet runs with swap on, and gives none to containers"},
		"showHiddenMetricsForVersion":               {ignored, noMeaning},
		"configMapAndSecretChangeDetectionStrategy": {ignored, "ConfigMaps and Secrets are watched"},
		"enableControllerAttachDetach":              {ignored, "volumes that must be attached are not built"},
		"shutdownGracePeriod":                       {ignored, "graceful node shutdown " + notBuilt},
		"shutdownGracePeriodCriticalPods":           {ignored, "graceful node shutdown " + notBuilt},
		"shutdownGracePeriodByPodPriority":          {ignored, "graceful node shutdown " + notBuilt},
		"systemReservedCgroup":                      {ignored, "of enforceNodeAllocatable, pods is honoured"},
		"kubeReservedCgroup":                        {ignored, "of enforceNodeAllocatable, pods is honoured"},
		"memoryThrottlingFactor":                    {ignored, "memory QoS " + notBuilt},
		"memoryReservationPolicy":                   {ignored, "memory QoS " + notBuilt},
		"preloadedImagesVerificationAllowlist":      {ignored, noMeaning + " without imagePullCredentialsVerificationPolicy"},
		"featureGates":                              {ignored, "shimlet has no feature gates"},
		"protectKernelDefaults":                     {ignored, "kernel settings are not checked, and not changed"},
		"singleProcessOOMKill":                      {ignored, "the runtime decides"},
		"memorySwap":                                {ignored, "containers get no swap"},
		"userNamespaces":                            {ignored, "each pod gets 65536 IDs"},

		"staticPodURL":                           {refused, "static pods are read from files only (staticPodPath)"},
		"staticPodURLHeader":                     {refused, "static pods are read from files only (staticPodPath)"},
		"tlsCurvePreferences":                    {refused, "Go's default curves are used"},
		"serverTLSBootstrap":                     {refused, "use tlsCertFile, or the self-signed certificate"},
		"imagePullCredentialsVerificationPolicy": {refused, "who pulled an image is not recorded"},
		"cpuManagerPolicy":                       {refused, "CPUs are not pinned"},
		"cpuManagerPolicyOptions":                {refused, "CPUs are not pinned"},
		"memoryManagerPolicy":                    {refused, "memory is not pinned"},
		"reservedMemory":                         {refused, "memory is not pinned"},
		"topologyManagerPolicy":                  {refused, "resources are not aligned"},
		"topologyManagerPolicyOptions":           {refused, "resources are not aligned"},
		"qosReserved":                            {refused, notBuilt},
		"reservedSystemCPUs":                     {refused, "CPUs are not pinned; use systemReserved"},
		"defaultPodSysctls":                      {refused, notBuilt},
		"runOnce":                                {refused, notBuilt},
	}
}

// Unhonoured names the fields that have another value than their default and that shimlet does not honour, each with the reason.
func Unhonoured(c *kubeletv1beta1.KubeletConfiguration) []string { return with(c, ignored) }

// Refused is an error that names the fields that would be unsafe to ignore; nil when there are none.
func Refused(c *kubeletv1beta1.KubeletConfiguration) error {
	var problems []error
	for _, what := range with(c, refused) {
		problems = append(problems, fmt.Errorf("kubelet configuration: %s: %w", what, errdefs.ErrNotImplemented))
	}
	return errors.Join(problems...)
}

func with(c *kubeletv1beta1.KubeletConfiguration, wanted verdict) []string {
	var found []string
	mine, otherwise := flat(c), flat(Default())
	for name, f := range fields() {
		if f.verdict == wanted && !reflect.DeepEqual(mine[name], otherwise[name]) {
			found = append(found, name+" "+because(f.why))
		}
	}
	slices.Sort(found)
	return found
}

func because(why string) string {
	if strings.HasPrefix(why, "has ") || strings.HasPrefix(why, "is ") {
		return why
	}
	return "is not honoured: " + why
}

// flat is a configuration as the table sees it: by name of field, those of authentication and authorization one level deeper.
func flat(c *kubeletv1beta1.KubeletConfiguration) map[string]any {
	data, err := json.Marshal(c)
	if err != nil {
		return nil // it was read from JSON
	}
	values := map[string]any{}
	if err := json.Unmarshal(data, &values); err != nil {
		return nil
	}
	for _, outer := range []string{"authentication", "authorization"} {
		inner, ok := values[outer].(map[string]any)
		if !ok {
			continue
		}
		for name, v := range inner {
			values[outer+"."+name] = v
		}
		delete(values, outer)
	}
	return values
}
