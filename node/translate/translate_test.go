package translate

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protojson"
	corev1 "k8s.io/api/core/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/node/manifest"
)

var node = Node{
	Name: "node", IPs: []string{"192.0.2.7"}, Owner: "/etc/pods", LogDir: "/var/log/pods", SeccompDir: "/var/lib/shimlet/seccomp",
	MemoryCapacity: 1 << 30, DNS: ParseDNS("nameserver 192.0.2.53\nsearch one two\noptions ndots:2 rotate\n# comment\n"),
}

func decode(t *testing.T, spec string) *corev1.Pod {
	t.Helper()
	text := "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web, " + LabelOwner + ": spoofed}, annotations: {note: x}}\nspec:\n  " + spec
	pod, err := manifest.Decode(manifest.Source{Node: "node", File: "web.yaml"}, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

func one(t *testing.T, more string) (*corev1.Pod, *corev1.Container) {
	t.Helper()
	pod := decode(t, "containers: [{name: a, image: 'a:1', "+more+"}]")
	return pod, &pod.Spec.Containers[0]
}

func container(t *testing.T, pod *corev1.Pod, run Run) *criv1.ContainerConfig {
	t.Helper()
	config, err := Container(node, pod, &pod.Spec.Containers[0], run)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func sandboxOf(t *testing.T, node Node, pod *corev1.Pod, place Place) *criv1.PodSandboxConfig {
	t.Helper()
	config, err := Sandbox(node, pod, place)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func TestSandbox(t *testing.T) {
	pod := decode(t, `
  hostname: name
  dnsConfig: {nameservers: [192.0.2.54], searches: [two, three], options: [{name: ndots, value: "5"}]}
  securityContext: {runAsUser: 5, runAsGroup: 6, fsGroup: 7, supplementalGroups: [8], sysctls: [{name: net.core.somaxconn, value: "9"}]}
  containers: [{name: a, image: 'a:1', ports: [{containerPort: 80, hostPort: 8080, hostIP: 192.0.2.7, protocol: UDP}]}]`)
	c := sandboxOf(t, node, pod, Place{File: "web.yaml", Attempt: 2})
	if c.Metadata.Attempt != 2 || c.Metadata.Uid != string(pod.UID) || c.Hostname != "name" || c.LogDirectory != "/var/log/pods/default_web_"+string(pod.UID) {
		t.Errorf("%v", c)
	}
	if c.Labels[LabelOwner] != "/etc/pods" || c.Labels["app"] != "web" || c.Labels[LabelPodName] != "web" || c.Annotations[AnnotationSource] != "file" || c.Annotations["note"] != "x" {
		t.Errorf("labels %v annotations %v", c.Labels, c.Annotations)
	}
	dns := c.DnsConfig
	if strings.Join(dns.Servers, " ") != "192.0.2.53 192.0.2.54" || strings.Join(dns.Searches, " ") != "one two three" || strings.Join(dns.Options, " ") != "rotate ndots:5" {
		t.Errorf("dns %v", dns)
	}
	if p := c.PortMappings[0]; p.HostPort != 8080 || p.ContainerPort != 80 || p.Protocol != criv1.Protocol_UDP || p.HostIp != "192.0.2.7" {
		t.Errorf("port %v", p)
	}
	sc := c.Linux.SecurityContext
	if sc.RunAsUser.Value != 5 || sc.RunAsGroup.Value != 6 || !slices.Equal(sc.SupplementalGroups, []int64{8, 7}) || c.Linux.Sysctls["net.core.somaxconn"] != "9" {
		t.Errorf("security %v", sc)
	}
	if ns := sc.NamespaceOptions; ns.Network != criv1.NamespaceMode_POD || ns.Pid != criv1.NamespaceMode_CONTAINER || ns.Ipc != criv1.NamespaceMode_POD {
		t.Errorf("namespaces %v", ns)
	}
}

func TestHostNamespaces(t *testing.T) {
	pod := decode(t, "hostNetwork: true\n  hostPID: true\n  hostIPC: true\n  dnsPolicy: None\n  dnsConfig: {nameservers: [192.0.2.1]}\n  containers: [{name: a, image: 'a:1', ports: [{containerPort: 80}]}]")
	c := sandboxOf(t, node, pod, Place{File: "f", Attempt: 0})
	ns := c.Linux.SecurityContext.NamespaceOptions
	if ns.Network != criv1.NamespaceMode_NODE || ns.Pid != criv1.NamespaceMode_NODE || ns.Ipc != criv1.NamespaceMode_NODE || c.Hostname != "" || len(c.PortMappings) != 0 {
		t.Errorf("%v", c)
	}
	if strings.Join(c.DnsConfig.Servers, " ") != "192.0.2.1" || len(c.DnsConfig.Searches) != 0 {
		t.Errorf("dns %v", c.DnsConfig)
	}
	if pod = decode(t, "shareProcessNamespace: true\n  containers: [{name: a, image: 'a:1'}]"); namespaces(pod, nil).Pid != criv1.NamespaceMode_POD {
		t.Error("shared processes")
	}
}

func TestEnvironmentAndArguments(t *testing.T) {
	pod, _ := one(t, `env: [{name: A, value: x}, {name: B, value: "$(A)-$(B)-$$(A)-$(C)"}, {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}},
    {name: L, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}, {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}, {name: A, value: last}],
    command: [run, $(IP)], args: ["$(A)", "$", "$(", "$(none"], workingDir: /w`)
	variables, err := Environment(pod, &pod.Spec.Containers[0], manifest.Addresses{Node: "node", PodIPs: []string{"10.0.0.2", "fd00::2"}}, Lookup{})
	if err != nil {
		t.Fatal(err)
	}
	c := container(t, pod, Run{ImageRef: "sha256:1", Attempt: 3, Env: variables})
	var env []string
	for _, e := range c.Envs {
		env = append(env, e.Key+"="+string(e.Value))
	}
	if got := strings.Join(env, " "); got != "A=last B=x-$(B)-$(A)-$(C) IP=10.0.0.2 L=web NODE=node" {
		t.Errorf("environment: %s", got)
	}
	if got := strings.Join(append(c.Command, c.Args...), " "); got != "run 10.0.0.2 last $ $( $(none" {
		t.Errorf("command: %s", got)
	}
	if c.LogPath != "a/3.log" || c.Metadata.Attempt != 3 || c.Annotations[annotationRestartCount] != "3" || c.Labels[LabelContainerName] != "a" || c.Image.Image != "sha256:1" || c.Image.UserSpecifiedImage != "a:1" {
		t.Errorf("%s", protojson.Format(c))
	}
}

func TestResources(t *testing.T) {
	for _, test := range []struct {
		resources                string
		shares, quota, memory    int64
		oom                      int64
		class                    corev1.PodQOSClass
		podQuota, podMemoryLimit int64
	}{
		{"{}", 2, 0, 0, 1000, corev1.PodQOSBestEffort, 0, 0},
		{"{limits: {cpu: 500m, memory: 256Mi}}", 512, 50000, 256 << 20, -997, corev1.PodQOSGuaranteed, 50000, 256 << 20},
		{"{requests: {cpu: 100m, memory: 512Mi}}", 102, 0, 0, 500, corev1.PodQOSBurstable, 0, 0},
		{"{requests: {memory: 1Gi}}", 2, 0, 0, 3, corev1.PodQOSBurstable, 0, 0},
		{"{requests: {memory: 1}, limits: {cpu: 1m}}", 2, 1000, 0, 999, corev1.PodQOSBurstable, 1000, 0},
	} {
		pod, _ := one(t, "resources: "+test.resources)
		r, p := container(t, pod, Run{}).Linux.Resources, sandboxOf(t, node, pod, Place{File: "f", Attempt: 0}).Linux.Resources
		if r.CpuShares != test.shares || r.CpuQuota != test.quota || r.MemoryLimitInBytes != test.memory || r.OomScoreAdj != test.oom || QOS(pod) != test.class {
			t.Errorf("%s: %v, %s", test.resources, r, QOS(pod))
		}
		if p.CpuQuota != test.podQuota || p.MemoryLimitInBytes != test.podMemoryLimit {
			t.Errorf("%s: pod %v", test.resources, p)
		}
	}
	pod := decode(t, `initContainers: [{name: i, image: 'a:1', resources: {limits: {memory: 300Mi, cpu: 1}}}, {name: s, image: 'a:1', restartPolicy: Always, resources: {limits: {memory: 50Mi, cpu: 1}}}]
  containers: [{name: a, image: 'a:1', resources: {limits: {memory: 100Mi, cpu: 1}}}]`)
	if p := podResources(pod); p.MemoryLimitInBytes != 300<<20 || p.CpuQuota != 200000 {
		t.Errorf("pod with init containers: %v", p)
	}
	pod, _ = one(t, "resources: {limits: {cpu: 1, memory: 1Gi, hugepages-2Mi: 4Mi}}")
	if got := container(t, pod, Run{}).Linux.Resources.HugepageLimits; len(got) != 1 || got[0].PageSize != "2MB" || got[0].Limit != 4<<20 {
		t.Errorf("huge pages: %v", got)
	}
}

func TestSecurity(t *testing.T) {
	pod := decode(t, `securityContext: {runAsUser: 5, runAsGroup: 6, supplementalGroupsPolicy: Strict, seccompProfile: {type: RuntimeDefault}}
  containers: [{name: a, image: 'a:1', securityContext: {runAsUser: 9, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {add: [NET_ADMIN], drop: [ALL]},
    seccompProfile: {type: Localhost, localhostProfile: p.json}, appArmorProfile: {type: Unconfined}}}, {name: b, image: 'a:1', securityContext: {privileged: true}}]`)
	sc := container(t, pod, Run{}).Linux.SecurityContext
	if sc.RunAsUser.Value != 9 || sc.RunAsGroup.Value != 6 || !sc.ReadonlyRootfs || !sc.NoNewPrivs || sc.SupplementalGroupsPolicy != criv1.SupplementalGroupsPolicy_Strict {
		t.Errorf("%v", sc)
	}
	if sc.Seccomp.LocalhostRef != "/var/lib/shimlet/seccomp/p.json" || sc.Apparmor.ProfileType != criv1.SecurityProfile_Unconfined || strings.Join(sc.Capabilities.DropCapabilities, "") != "ALL" {
		t.Errorf("%v", sc)
	}
	if !slices.Contains(sc.MaskedPaths, "/proc/kcore") || !slices.Contains(sc.MaskedPaths, "/sys/devices/virtual/powercap") || !slices.Contains(sc.ReadonlyPaths, "/proc/sys") {
		t.Errorf("masks: %v %v", sc.MaskedPaths, sc.ReadonlyPaths)
	}
	b, err := Container(node, pod, &pod.Spec.Containers[1], Run{})
	if err != nil || !b.Linux.SecurityContext.Privileged || b.Linux.SecurityContext.Seccomp.ProfileType != criv1.SecurityProfile_Unconfined || !sandboxOf(t, node, pod, Place{File: "f", Attempt: 0}).Linux.SecurityContext.Privileged {
		t.Errorf("privileged: %v, %v", b, err)
	}
	plain, _ := one(t, "tty: true")
	if got := container(t, plain, Run{}).Linux.SecurityContext.Seccomp.ProfileType; got != criv1.SecurityProfile_Unconfined {
		t.Errorf("seccomp of who asks for nothing: %v", got)
	}
	safer := node
	safer.DefaultSeccomp = true
	if c, err := Container(safer, plain, &plain.Spec.Containers[0], Run{}); err != nil || c.Linux.SecurityContext.Seccomp.ProfileType != criv1.SecurityProfile_RuntimeDefault {
		t.Errorf("with --seccomp-default: %v, %v", c, err)
	}
}

// CVE-2024-40635, CVE-2026-46680: an image's odd user neither becomes root nor passes runAsNonRoot.
func TestNonRoot(t *testing.T) {
	id := func(n int64) *int64 { return &n }
	for _, test := range []struct {
		security string
		image    ImageUser
		ok       bool
	}{
		{"{runAsNonRoot: true}", ImageUser{UID: id(1000)}, true},
		{"{runAsNonRoot: true}", ImageUser{UID: id(0)}, false},
		{"{runAsNonRoot: true}", ImageUser{}, false},
		{"{runAsNonRoot: true}", ImageUser{Name: "nobody"}, false},
		{"{runAsNonRoot: true}", ImageUser{UID: id(1 << 32)}, false},
		{"{runAsNonRoot: true}", ImageUser{UID: id(-1)}, false},
		{"{}", ImageUser{UID: id(1 << 32)}, false},
		{"{}", ImageUser{UID: id(0)}, true},
		{"{runAsNonRoot: true, runAsUser: 0}", ImageUser{UID: id(7)}, false},
		{"{runAsNonRoot: true, runAsUser: 7}", ImageUser{UID: id(0)}, true},
	} {
		pod, c := one(t, "securityContext: "+test.security)
		err := CheckNonRoot(pod, c, test.image)
		if (err == nil) != test.ok || (err != nil && !errdefs.IsPermissionDenied(err)) {
			t.Errorf("%s, image %+v: %v", test.security, test.image, err)
		}
	}
	pod, _ := one(t, "tty: true")
	if sc := container(t, pod, Run{User: ImageUser{UID: id(12)}}).Linux.SecurityContext; sc.RunAsUser.GetValue() != 12 {
		t.Errorf("the image's user: %v", sc.RunAsUser)
	}
}

func TestStopSignal(t *testing.T) {
	for name, want := range map[string]criv1.Signal{"SIGUSR1": criv1.Signal_SIGNAL_SIGUSR1, "SIGRTMIN+1": criv1.Signal_SIGNAL_SIGRTMINPLUS1, "SIGRTMAX-2": criv1.Signal_SIGNAL_SIGRTMAXMINUS2} {
		pod := decode(t, "os: {name: linux}\n  containers: [{name: a, image: 'a:1', lifecycle: {stopSignal: "+name+"}}]")
		if got := container(t, pod, Run{}).StopSignal; got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	pod, _ := one(t, "lifecycle: {stopSignal: SIGNONE}")
	if _, err := Container(node, pod, &pod.Spec.Containers[0], Run{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no signal: %v", err)
	}
}
