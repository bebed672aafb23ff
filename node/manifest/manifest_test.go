package manifest

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
)

const head = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\n"

func decodeText(text string) (*corev1.Pod, error) {
	return Decode(Source{Node: "node", File: "web.yaml"}, []byte(text))
}

func TestDefaults(t *testing.T) {
	pod, err := decodeText(head + `
spec:
  hostNetwork: true
  containers:
  - name: a
    image: example.org:5000/a
    ports: [{containerPort: 80, name: http}]
    resources: {limits: {cpu: 1}}
    livenessProbe: {httpGet: {port: http}}
  - {name: b, image: "b:1"}
  - {name: c, image: "c@sha256:0000000000000000000000000000000000000000000000000000000000000000"}
  volumes: [{name: v}]
status: {}
`)
	if err != nil {
		t.Fatal(err)
	}
	a := pod.Spec.Containers[0]
	if pod.Namespace != "default" || pod.Spec.RestartPolicy != corev1.RestartPolicyAlways || *pod.Spec.TerminationGracePeriodSeconds != 30 || pod.Spec.DNSPolicy != corev1.DNSClusterFirst {
		t.Errorf("pod: %+v", pod.Spec)
	}
	if a.ImagePullPolicy != corev1.PullAlways || pod.Spec.Containers[1].ImagePullPolicy != corev1.PullIfNotPresent || pod.Spec.Containers[2].ImagePullPolicy != corev1.PullIfNotPresent {
		t.Error("pull policies")
	}
	if a.Ports[0].HostPort != 80 || a.Ports[0].Protocol != corev1.ProtocolTCP || a.Resources.Requests.Cpu().Value() != 1 || a.TerminationMessagePath != "/dev/termination-log" {
		t.Errorf("container: %+v", a)
	}
	if p := a.LivenessProbe; p.PeriodSeconds != 10 || p.TimeoutSeconds != 1 || p.FailureThreshold != 3 || p.SuccessThreshold != 1 || p.HTTPGet.Path != "/" || p.HTTPGet.Scheme != "HTTP" {
		t.Errorf("probe: %+v", p)
	}
	if pod.Spec.Volumes[0].EmptyDir == nil {
		t.Error("a volume without a source is an emptyDir")
	}
}

func TestIdentity(t *testing.T) {
	const spec = "spec: {containers: [{name: a, image: 'a:1'}]}\n"
	uid := func(source Source, text string) string {
		pod, err := Decode(source, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return string(pod.UID)
	}
	here := Source{Node: "node", File: "web.yaml"}
	same := uid(here, head+spec)
	if uid(here, "# comment\n"+spec+head) != same || uid(here, `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web"},"spec":{"containers":[{"image":"a:1","name":"a"}]}}`) != same {
		t.Error("comments, order and format are no part of a pod's identity")
	}
	for name, other := range map[string]string{
		"content": uid(here, head+strings.Replace(spec, "a:1", "a:2", 1)),
		"file":    uid(Source{Node: "node", File: "other.yaml"}, head+spec),
		"node":    uid(Source{Node: "other", File: "web.yaml"}, head+spec),
	} {
		if other == same || len(other) != 32 {
			t.Errorf("%s is part of a pod's identity: %s", name, other)
		}
	}
}

// Each refusal names the field.
func TestRefused(t *testing.T) {
	container := func(more string) string {
		return head + "spec:\n  volumes: [{name: v}, {name: h, hostPath: {path: /srv}}]\n  containers:\n  - {name: a, image: 'a:1', " + more + "}\n"
	}
	spec := func(more string) string {
		return head + "spec:\n  containers: [{name: a, image: 'a:1'}]\n  " + more + "\n"
	}
	for _, test := range []struct{ name, text, want string }{
		{"empty", "# nothing\n", "empty"},
		{"two documents", container("tty: true") + "---\n" + container("tty: true"), "several"},
		{"other kind", "apiVersion: v1\nkind: Service\n", "Service"},
		{"a list", "[1]", "no object"},
		{"not YAML", "a: [", "neither"},
		{"twice", head + "kind: Pod\n", "kind"},
		{"unknown field", container("imagee: x"), "imagee"},
		{"other case", container("Args: [x]"), "Args"},
		{"wrong type", container("args: x"), "form"},
		{"no name", "apiVersion: v1\nkind: Pod\nmetadata: {}\nspec: {containers: [{name: a, image: a}]}", "metadata.name"},
		{"uid", "apiVersion: v1\nkind: Pod\nmetadata: {name: a, uid: x}\nspec: {containers: [{name: a, image: a}]}", "metadata.uid"},
		{"path in a name", "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: ../b}\nspec: {containers: [{name: a, image: a}]}", "metadata.namespace"},
		{"no containers", head + "spec: {containers: []}", "spec.containers"},
		{"status", head + "spec: {containers: [{name: a, image: a}]}\nstatus: {phase: Running}", "status.phase"},
		{"envFrom", container("envFrom: [{secretRef: {name: s}}]"), "spec.containers[0].envFrom"},
		{"configMapKeyRef", container("env: [{name: A, valueFrom: {configMapKeyRef: {name: x, key: k}}}]"), "spec.containers[0].env[0].valueFrom.configMapKeyRef"},
		{"fieldRef", container("env: [{name: A, valueFrom: {fieldRef: {fieldPath: status.phase}}}]"), "status.phase"},
		{"extended resource", container("resources: {limits: {example.org/gpu: 1}}"), "example.org/gpu"},
		// CVE-2020-8557: what a pod writes to its /etc/hosts has to count against its ephemeral storage. Nothing is accounted here yet, so a limit that
		// would not hold is refused.
		{"CVE-2020-8557", container("resources: {limits: {ephemeral-storage: 1Gi}}"), "ephemeral-storage"},
		{"request above limit", container("resources: {limits: {cpu: 1}, requests: {cpu: 2}}"), "requests.cpu"},
		{"CVE-2024-10220, CVE-2025-1767", spec("volumes: [{name: v, gitRepo: {repository: x}}]"), "spec.volumes[0].gitRepo"},
		{"configMap", spec("volumes: [{name: v, configMap: {name: x}}]"), "spec.volumes[0].configMap"},
		{"empty dir with a limit on disk", spec("volumes: [{name: v, emptyDir: {sizeLimit: 1Mi}}]"), "sizeLimit"},
		{"hostPath with ..", spec("volumes: [{name: v, hostPath: {path: /srv/../etc}}]"), "hostPath.path"},
		{"no such volume", container("volumeMounts: [{name: x, mountPath: /x}]"), "volumeMounts[0].name"},
		{"subPath out", container("volumeMounts: [{name: v, mountPath: /x, subPath: a/../../b}]"), "subPath"},
		{"subPathExpr", container("volumeMounts: [{name: v, mountPath: /x, subPathExpr: $(A)}]"), "subPathExpr"},
		{"bidirectional", container("volumeMounts: [{name: h, mountPath: /x, mountPropagation: Bidirectional}]"), "mountPropagation"},
		{"recursive read-only", container("volumeMounts: [{name: h, mountPath: /x, readOnly: true, recursiveReadOnly: Enabled}]"), "recursiveReadOnly"},
		{"devices", container("volumeDevices: [{name: v, devicePath: /dev/x}]"), "volumeDevices"},
		{"two handlers", container("livenessProbe: {exec: {command: [a]}, tcpSocket: {port: 1}}"), "exactly one"},
		{"port name", container("livenessProbe: {tcpSocket: {port: http}}"), "livenessProbe.tcpSocket.port"},
		{"liveness twice", container("livenessProbe: {tcpSocket: {port: 1}, successThreshold: 2}"), "successThreshold"},
		{"CVE-2023-2431", container("securityContext: {seccompProfile: {type: Localhost, localhostProfile: ''}}"), "localhostProfile"},
		{"seccomp path", container("securityContext: {seccompProfile: {type: Localhost, localhostProfile: ../../x}}"), "localhostProfile"},
		{"proc unmasked", container("securityContext: {procMount: Unmasked}"), "procMount"},
		{"user overflows", container("securityContext: {runAsUser: 4294967296}"), "runAsUser"},
		{"escalation", container("securityContext: {privileged: true, allowPrivilegeEscalation: false}"), "allowPrivilegeEscalation"},
		{"CVE-2022-0811", spec("securityContext: {sysctls: [{name: net.ipv4.ip_forward, value: \"1\\nkernel.core_pattern=|x\"}]}"), "sysctls[0].value"},
		{"CVE-2022-0811 name", spec("securityContext: {sysctls: [{name: 'kernel.shm_rmid_forced+kernel.core_pattern', value: x}]}"), "sysctls[0].name"},
		{"sysctl of the node", spec("securityContext: {sysctls: [{name: kernel.core_pattern, value: x}]}"), "sysctls[0].name"},
		{"CVE-2022-0532", spec("hostNetwork: true\n  securityContext: {sysctls: [{name: net/ipv4/ip_forward, value: '1'}]}"), "hostNetwork"},
		{"hosts line", spec("hostAliases: [{ip: 1.2.3.4, hostnames: [\"a\\n5.6.7.8 b\"]}]"), "hostAliases"},
		{"other node", spec("nodeName: elsewhere"), "spec.nodeName"},
		{"node selector", spec("nodeSelector: {a: b}"), "spec.nodeSelector"},
		{"user namespace", spec("hostUsers: false\n  hostPID: true"), "spec.hostUsers"},
		{"runtime class", spec("runtimeClassName: kata"), "spec.runtimeClassName"},
		{"service account", spec("serviceAccountName: x"), "spec.serviceAccountName"},
		{"pull secrets", spec("imagePullSecrets: [{name: x}]"), "spec.imagePullSecrets"},
		{"deadline", spec("activeDeadlineSeconds: 5"), "spec.activeDeadlineSeconds"},
		{"restart rules", container("restartPolicyRules: []"), "restartPolicyRules"},
		{"too long", strings.Repeat("#", MaxSize+1), "bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := decodeText(test.text)
			if err == nil || !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "web.yaml") {
				t.Errorf("got %v, want an invalid argument that names %q", err, test.want)
			}
		})
	}
}

// All that is wrong is told at once, and nothing of null.
func TestUnhonoured(t *testing.T) {
	_, err := decodeText(head + "spec: {schedulerName: x, nodeSelector: {a: b}, affinity: null, containers: [{name: a, image: a}]}")
	if err == nil || !strings.Contains(err.Error(), "spec.nodeSelector, spec.schedulerName:") {
		t.Errorf("got %v", err)
	}
}

// A static pod of kubeadm, as it writes it.
func TestControlPlanePod(t *testing.T) {
	_, err := decodeText(`
apiVersion: v1
kind: Pod
metadata:
  annotations: {kubeadm.kubernetes.io/etcd.advertise-client-urls: "https://192.0.2.1:2379"}
  creationTimestamp: null
  labels: {component: etcd, tier: control-plane}
  name: etcd
  namespace: kube-system
spec:
  containers:
  - command: [etcd, --data-dir=/var/lib/etcd]
    image: registry.k8s.io/etcd:3.6.0-0
    imagePullPolicy: IfNotPresent
    livenessProbe: {failureThreshold: 8, httpGet: {host: 127.0.0.1, path: /livez, port: probe-port, scheme: HTTP}, initialDelaySeconds: 10, periodSeconds: 10, timeoutSeconds: 15}
    name: etcd
    ports: [{containerPort: 2381, name: probe-port, protocol: TCP}]
    resources: {requests: {cpu: 100m, memory: 100Mi}}
    volumeMounts: [{mountPath: /var/lib/etcd, name: etcd-data}]
  hostNetwork: true
  priority: null
  priorityClassName: system-node-critical
  securityContext: {seccompProfile: {type: RuntimeDefault}}
  volumes: [{hostPath: {path: /var/lib/etcd, type: DirectoryOrCreate}, name: etcd-data}]
status: {}
`)
	if err != nil {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(head + "spec: {containers: [{name: a, image: 'a:1', env: [{name: A, value: $(B)}], livenessProbe: {httpGet: {port: 80}}}]}"))
	f.Add([]byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":{"containers":[{"name":"a","image":"b","resources":{"limits":{"cpu":"1"}}}],"volumes":[{"name":"v","emptyDir":{"medium":"Memory","sizeLimit":"1Mi"}}]}}`))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		pod, err := Decode(Source{Node: "node", File: "f"}, data)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("of another kind: %v", err)
			}
			return
		}
		if len(pod.UID) != 32 || strings.Contains(pod.Namespace+pod.Name, "/") || len(pod.Spec.Containers) == 0 {
			t.Errorf("accepted %+v", pod)
		}
	})
}
