package manifest

import (
	"fmt"
	"net/netip"
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

// report collects what is wrong, each with the path of its field.
type report struct{ problems []string }

func (r *report) add(field, format string, args ...any) {
	r.problems = append(r.problems, field+": "+fmt.Sprintf(format, args...))
}

func (r *report) label(field, name string) {
	for _, problem := range validation.IsDNS1123Label(name) {
		r.add(field, "%q: %s", name, problem)
	}
}

func oneOf[T ~string](r *report, field string, value T, allowed ...T) {
	for _, a := range allowed {
		if value == a {
			return
		}
	}
	r.add(field, "%q is not supported here; use one of %q", value, allowed)
}

// validate checks what an API server would of the fields honoured here, and the values that this node cannot honour.
func validate(pod *corev1.Pod, source Source) []string {
	r := &report{}
	for _, problem := range validation.IsDNS1123Subdomain(pod.Name) {
		r.add("metadata.name", "%q: %s", pod.Name, problem)
	}
	r.label("metadata.namespace", pod.Namespace)
	validateSpec(r, &pod.Spec, source)
	validateSecurity(r, pod)
	volumes := validateVolumes(r, pod.Spec.Volumes)
	names := map[string]bool{}
	if len(pod.Spec.Containers) == 0 {
		r.add("spec.containers", "a pod needs at least one")
	}
	for i := range pod.Spec.InitContainers {
		validateContainer(r, fmt.Sprintf("spec.initContainers[%d]", i), &pod.Spec.InitContainers[i], names, volumes, true)
	}
	for i := range pod.Spec.Containers {
		validateContainer(r, fmt.Sprintf("spec.containers[%d]", i), &pod.Spec.Containers[i], names, volumes, false)
	}
	return r.problems
}

func validateSpec(r *report, spec *corev1.PodSpec, source Source) {
	oneOf(r, "spec.restartPolicy", spec.RestartPolicy, corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
	oneOf(r, "spec.dnsPolicy", spec.DNSPolicy, corev1.DNSClusterFirst, corev1.DNSClusterFirstWithHostNet, corev1.DNSDefault, corev1.DNSNone)
	if spec.DNSPolicy == corev1.DNSNone && (spec.DNSConfig == nil || len(spec.DNSConfig.Nameservers) == 0) {
		r.add("spec.dnsConfig.nameservers", "dnsPolicy None needs at least one")
	}
	oneOf(r, "spec.priorityClassName", spec.PriorityClassName, "", "system-node-critical", "system-cluster-critical")
	if spec.NodeName != "" && spec.NodeName != source.Node {
		r.add("spec.nodeName", "%q is another node; this one is %q", spec.NodeName, source.Node)
	}
	if *spec.TerminationGracePeriodSeconds < 0 {
		r.add("spec.terminationGracePeriodSeconds", "%d is negative", *spec.TerminationGracePeriodSeconds)
	}
	if spec.AutomountServiceAccountToken != nil && *spec.AutomountServiceAccountToken {
		r.add("spec.automountServiceAccountToken", "there is no API server to get a token from; leave it out")
	}
	if spec.HostUsers != nil && !*spec.HostUsers && (spec.HostNetwork || spec.HostPID || spec.HostIPC) {
		r.add("spec.hostUsers", "false does not go together with hostNetwork, hostPID or hostIPC: a pod in a user namespace has its own")
	}
	if spec.OS != nil {
		oneOf(r, "spec.os.name", spec.OS.Name, corev1.Linux)
	}
	if spec.HostPID && spec.ShareProcessNamespace != nil && *spec.ShareProcessNamespace {
		r.add("spec.shareProcessNamespace", "does not go together with hostPID")
	}
	if spec.Hostname != "" {
		r.label("spec.hostname", spec.Hostname)
	}
	if spec.Subdomain != "" {
		r.label("spec.subdomain", spec.Subdomain)
	}
	if spec.SetHostnameAsFQDN != nil && *spec.SetHostnameAsFQDN {
		r.add("spec.setHostnameAsFQDN", "there is no cluster domain to build it from; leave it out")
	}
	for i, alias := range spec.HostAliases {
		field := fmt.Sprintf("spec.hostAliases[%d]", i)
		if _, err := netip.ParseAddr(alias.IP); err != nil {
			r.add(field+".ip", "%q is not an IP address", alias.IP)
		}
		for _, name := range alias.Hostnames {
			for _, problem := range validation.IsDNS1123Subdomain(name) { // a newline would add a line to /etc/hosts
				r.add(field+".hostnames", "%q: %s", name, problem)
			}
		}
	}
}

func validateVolumes(r *report, volumes []corev1.Volume) map[string]bool {
	names := map[string]bool{}
	for i := range volumes {
		volume, field := &volumes[i], fmt.Sprintf("spec.volumes[%d]", i)
		r.label(field+".name", volume.Name)
		if names[volume.Name] {
			r.add(field+".name", "%q is there twice", volume.Name)
		}
		names[volume.Name] = true
		if volume.EmptyDir != nil && volume.HostPath != nil {
			r.add(field, "emptyDir and hostPath exclude each other")
		}
		if empty := volume.EmptyDir; empty != nil {
			oneOf(r, field+".emptyDir.medium", empty.Medium, corev1.StorageMediumDefault, corev1.StorageMediumMemory)
			if empty.SizeLimit != nil && empty.Medium != corev1.StorageMediumMemory {
				r.add(field+".emptyDir.sizeLimit", "is only enforced for medium Memory")
			}
			if empty.SizeLimit != nil && empty.SizeLimit.Sign() < 0 {
				r.add(field+".emptyDir.sizeLimit", "is negative")
			}
			if empty.Mode != nil && (*empty.Mode < 0 || *empty.Mode > 0o7777) {
				r.add(field+".emptyDir.mode", "%o is not a file mode", *empty.Mode)
			}
		}
		if host := volume.HostPath; host != nil {
			if !path.IsAbs(host.Path) || hasDotDot(host.Path) {
				r.add(field+".hostPath.path", "%q is not an absolute path without ..", host.Path)
			}
			oneOf(r, field+".hostPath.type", *host.Type, corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory,
				corev1.HostPathFileOrCreate, corev1.HostPathFile, corev1.HostPathSocket, corev1.HostPathCharDev, corev1.HostPathBlockDev)
		}
	}
	return names
}

func hasDotDot(p string) bool {
	for part := range strings.SplitSeq(p, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}

func validateContainer(r *report, field string, c *corev1.Container, names, volumes map[string]bool, init bool) {
	r.label(field+".name", c.Name)
	if names[c.Name] {
		r.add(field+".name", "%q is there twice", c.Name)
	}
	names[c.Name] = true
	if strings.TrimSpace(c.Image) == "" || c.Image != strings.TrimSpace(c.Image) {
		r.add(field+".image", "%q is not an image", c.Image)
	}
	oneOf(r, field+".imagePullPolicy", c.ImagePullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
	oneOf(r, field+".terminationMessagePolicy", c.TerminationMessagePolicy, corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)
	sidecar := false
	if c.RestartPolicy != nil {
		sidecar = init && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		if !sidecar {
			r.add(field+".restartPolicy", "%q is not supported here; only Always of an init container is", *c.RestartPolicy)
		}
	}
	if init && !sidecar && (c.LivenessProbe != nil || c.ReadinessProbe != nil || c.StartupProbe != nil || c.Lifecycle != nil) {
		r.add(field, "an init container that ends cannot have probes or lifecycle")
	}
	validatePorts(r, field, c)
	validateEnv(r, field, c.Env)
	validateResources(r, field+".resources", c.Resources)
	validateMounts(r, field, c, volumes)
	validateProbe(r, field+".livenessProbe", c.LivenessProbe, c, true)
	validateProbe(r, field+".readinessProbe", c.ReadinessProbe, c, false)
	validateProbe(r, field+".startupProbe", c.StartupProbe, c, true)
	if c.Lifecycle != nil {
		validateHook(r, field+".lifecycle.postStart", c.Lifecycle.PostStart, c)
		validateHook(r, field+".lifecycle.preStop", c.Lifecycle.PreStop, c)
	}
}

func validatePorts(r *report, field string, c *corev1.Container) {
	for i, port := range c.Ports {
		field := fmt.Sprintf("%s.ports[%d]", field, i)
		if len(validation.IsValidPortNum(int(port.ContainerPort))) > 0 {
			r.add(field+".containerPort", "%d is not a port", port.ContainerPort)
		}
		if port.HostPort != 0 && len(validation.IsValidPortNum(int(port.HostPort))) > 0 {
			r.add(field+".hostPort", "%d is not a port", port.HostPort)
		}
		if _, err := netip.ParseAddr(port.HostIP); port.HostIP != "" && err != nil {
			r.add(field+".hostIP", "%q is not an IP address", port.HostIP)
		}
		oneOf(r, field+".protocol", port.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
	}
}

func validateEnv(r *report, field string, env []corev1.EnvVar) {
	for i, e := range env {
		field := fmt.Sprintf("%s.env[%d]", field, i)
		if e.Name == "" || strings.ContainsAny(e.Name, "=\x00") {
			r.add(field+".name", "%q is not a name", e.Name)
		}
		if strings.ContainsRune(e.Value, 0) {
			r.add(field+".value", "holds a NUL")
		}
		if e.ValueFrom == nil {
			continue
		}
		if e.ValueFrom.FieldRef == nil || e.Value != "" {
			r.add(field+".valueFrom", "needs a fieldRef, and no value beside it")
			continue
		}
		if !KnownFieldRef(e.ValueFrom.FieldRef.FieldPath) {
			r.add(field+".valueFrom.fieldRef.fieldPath", "%q is not supported here", e.ValueFrom.FieldRef.FieldPath)
		}
	}
}

func validateResources(r *report, field string, resources corev1.ResourceRequirements) {
	for kind, list := range map[string]corev1.ResourceList{"limits": resources.Limits, "requests": resources.Requests} {
		for name, quantity := range list {
			switch {
			case name != corev1.ResourceCPU && name != corev1.ResourceMemory && !strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
				r.add(field+"."+kind, "%q is not supported here", name)
			case quantity.Sign() < 0:
				r.add(field+"."+kind+"."+string(name), "is negative")
			}
		}
	}
	for name, limit := range resources.Limits {
		if request, ok := resources.Requests[name]; ok && request.Cmp(limit) > 0 {
			r.add(field+".requests."+string(name), "%s is more than the limit %s", request.String(), limit.String())
		}
	}
}

func validateMounts(r *report, field string, c *corev1.Container, volumes map[string]bool) {
	seen := map[string]bool{}
	for i := range c.VolumeMounts {
		mount, field := &c.VolumeMounts[i], fmt.Sprintf("%s.volumeMounts[%d]", field, i)
		if !volumes[mount.Name] {
			r.add(field+".name", "there is no volume %q", mount.Name)
		}
		if mount.MountPath == "" || strings.Contains(mount.MountPath, ":") {
			r.add(field+".mountPath", "%q is not a path", mount.MountPath)
		}
		if seen[mount.MountPath] {
			r.add(field+".mountPath", "%q is there twice", mount.MountPath)
		}
		seen[mount.MountPath] = true
		if path.IsAbs(mount.SubPath) || hasDotDot(mount.SubPath) {
			r.add(field+".subPath", "%q is not a relative path without ..", mount.SubPath)
		}
		if mount.RecursiveReadOnly != nil {
			oneOf(r, field+".recursiveReadOnly", *mount.RecursiveReadOnly, corev1.RecursiveReadOnlyDisabled)
		}
		if mount.MountPropagation != nil {
			oneOf(r, field+".mountPropagation", *mount.MountPropagation, corev1.MountPropagationNone, corev1.MountPropagationHostToContainer, corev1.MountPropagationBidirectional)
			if *mount.MountPropagation == corev1.MountPropagationBidirectional && !isTrue(privileged(c)) {
				r.add(field+".mountPropagation", "Bidirectional needs a privileged container")
			}
		}
	}
}

func privileged(c *corev1.Container) *bool {
	if c.SecurityContext == nil {
		return nil
	}
	return c.SecurityContext.Privileged
}

func isTrue(b *bool) bool { return b != nil && *b }

func validateProbe(r *report, field string, p *corev1.Probe, c *corev1.Container, successOnce bool) {
	if p == nil {
		return
	}
	count := validateHTTP(r, field+".httpGet", p.HTTPGet, c)
	if p.Exec != nil {
		count++
		validateCommand(r, field+".exec.command", p.Exec.Command)
	}
	if p.TCPSocket != nil {
		count++
		validatePort(r, field+".tcpSocket.port", p.TCPSocket.Port, c)
	}
	if p.GRPC != nil {
		count++
		validatePort(r, field+".grpc.port", intstr.FromInt32(p.GRPC.Port), c)
	}
	if count != 1 {
		r.add(field, "needs exactly one of exec, httpGet, tcpSocket, grpc")
	}
	for name, number := range map[string]int32{
		"initialDelaySeconds": p.InitialDelaySeconds, "timeoutSeconds": p.TimeoutSeconds, "periodSeconds": p.PeriodSeconds,
		"successThreshold": p.SuccessThreshold, "failureThreshold": p.FailureThreshold,
	} {
		if number < 0 {
			r.add(field+"."+name, "%d is negative", number)
		}
	}
	if successOnce && p.SuccessThreshold != 1 {
		r.add(field+".successThreshold", "must be 1")
	}
	if p.TerminationGracePeriodSeconds != nil && (!successOnce || *p.TerminationGracePeriodSeconds < 1) {
		r.add(field+".terminationGracePeriodSeconds", "must be positive, and not of a readiness probe")
	}
}

func validateHook(r *report, field string, hook *corev1.LifecycleHandler, c *corev1.Container) {
	if hook == nil {
		return
	}
	count := validateHTTP(r, field+".httpGet", hook.HTTPGet, c)
	if hook.Exec != nil {
		count++
		validateCommand(r, field+".exec.command", hook.Exec.Command)
	}
	if hook.Sleep != nil {
		count++
		if hook.Sleep.Seconds < 0 {
			r.add(field+".sleep.seconds", "%d is negative", hook.Sleep.Seconds)
		}
	}
	if count != 1 {
		r.add(field, "needs exactly one of exec, httpGet, sleep")
	}
}

func validateCommand(r *report, field string, command []string) {
	if len(command) == 0 {
		r.add(field, "is empty")
	}
}

func validateHTTP(r *report, field string, get *corev1.HTTPGetAction, c *corev1.Container) int {
	if get == nil {
		return 0
	}
	validatePort(r, field+".port", get.Port, c)
	oneOf(r, field+".scheme", get.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS)
	for i, header := range get.HTTPHeaders {
		if problems := validation.IsHTTPHeaderName(header.Name); len(problems) > 0 {
			r.add(fmt.Sprintf("%s.httpHeaders[%d].name", field, i), "%q is not a header", header.Name)
		}
	}
	return 1
}

func validatePort(r *report, field string, port intstr.IntOrString, c *corev1.Container) {
	if _, err := Port(port, c); err != nil {
		r.add(field, "%v", err)
	}
}
