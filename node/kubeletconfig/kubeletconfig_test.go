package kubeletconfig

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
)

const head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	file, dropIns := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "config.d")
	write(t, file, head+"staticPodPath: manifests\nmaxPods: 20\nclusterDNS: [10.0.0.10]\nevictionHard: {memory.available: 50Mi}\nkubeReserved: {cpu: \"1\", memory: 1Gi}\nnodeStatusUpdateFrequency: 4s\n")
	write(t, filepath.Join(dropIns, "10-a.conf"), head+"maxPods: 30\nclusterDNS: [10.0.0.11]\nkubeReserved: {cpu: \"2\"}\n")
	write(t, filepath.Join(dropIns, "20-b.conf"), head+"maxPods: 40\n")
	write(t, filepath.Join(dropIns, "30-c.txt"), "not one of them")
	c, err := Load(file, dropIns)
	if err != nil {
		t.Fatal(err)
	}
	if c.MaxPods != 40 || !slices.Equal(c.ClusterDNS, []string{"10.0.0.11"}) || !maps.Equal(c.KubeReserved, map[string]string{"cpu": "2", "memory": "1Gi"}) {
		t.Errorf("merged: %+v", c)
	}
	if c.StaticPodPath != filepath.Join(dir, "manifests") || c.Port != 10250 || *c.HealthzPort != 10248 || !*c.SerializeImagePulls {
		t.Errorf("defaults and paths: %+v", c)
	}
	if c.NodeStatusReportFrequency.Duration != 4*time.Second || len(c.EvictionHard) != 1 {
		t.Errorf("dependent defaults: %v, %v", c.NodeStatusReportFrequency, c.EvictionHard)
	}
	if data, err := JSON(c); err != nil || !strings.HasPrefix(string(data), `{"kubeletconfig":{`) {
		t.Errorf("configz: %s, %v", data, err)
	}
}

func TestLoadWithoutFile(t *testing.T) {
	c, err := Load("", "")
	if err != nil || !reflect.DeepEqual(c, Default()) {
		t.Errorf("%+v, %v", c, err)
	}
	if left := Unhonoured(c); len(left) > 0 {
		t.Errorf("defaults need no warning: %v", left)
	}
}

func TestMistakes(t *testing.T) {
	for content, want := range map[string]string{
		"kind: KubeletConfiguration\n":                 `not a KubeletConfiguration`,
		head + "maxPodz: 3\n":                          `unknown field "maxPodz"`,
		head + "maxPods: 3\nmaxPods: 4\n":              `already set`,
		head + "maxPods: many\n":                       `cannot unmarshal`,
		head + "port: 70000\n":                         `port is 70000, not a port`,
		head + "tlsCertFile: /a\n":                     `must both be set`,
		head + "imageGCLowThresholdPercent: 90\n":      `must be less than`,
		head + "cpuManagerPolicy: static\n":            `cpuManagerPolicy is not honoured: CPUs are not pinned`,
		head + "authorization: {mode: Sometimes}\n":    `authorization.mode is "Sometimes"`,
		head + "staticPodURL: http://127.0.0.1/pods\n": `staticPodURL is not honoured`,
	} {
		file := filepath.Join(t.TempDir(), "c.yaml")
		write(t, file, content)
		_, err := Load(file, "")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", content, err, want)
			continue
		}
		if !errors.Is(err, errdefs.ErrInvalidArgument) && !errors.Is(err, errdefs.ErrNotImplemented) {
			t.Errorf("%q: %v has no kind", content, err)
		}
	}
}

// What kubeadm writes is honoured but for what needs no warning of its own.
func TestKubeadm(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	write(t, file, head+`authentication:
  anonymous: {enabled: false}
  webhook: {cacheTTL: 0s, enabled: true}
  x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}
authorization:
  mode: Webhook
  webhook: {cacheAuthorizedTTL: 0s, cacheUnauthorizedTTL: 0s}
cgroupDriver: systemd
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
containerRuntimeEndpoint: ""
cpuManagerReconcilePeriod: 0s
crashLoopBackOff: {}
evictionPressureTransitionPeriod: 0s
fileCheckFrequency: 0s
healthzBindAddress: 127.0.0.1
healthzPort: 10248
httpCheckFrequency: 0s
imageMaximumGCAge: 0s
imageMinimumGCAge: 0s
logging: {flushFrequency: 0, options: {json: {infoBufferSize: "0"}, text: {infoBufferSize: "0"}}, verbosity: 0}
memorySwap: {}
nodeStatusReportFrequency: 0s
nodeStatusUpdateFrequency: 0s
rotateCertificates: true
runtimeRequestTimeout: 0s
shutdownGracePeriod: 0s
shutdownGracePeriodCriticalPods: 0s
staticPodPath: /etc/kubernetes/manifests
streamingConnectionIdleTimeout: 0s
syncFrequency: 0s
volumeStatsAggPeriod: 0s
`)
	c, err := Load(file, "")
	if err != nil {
		t.Fatal(err)
	}
	if left := Unhonoured(c); len(left) > 0 {
		t.Errorf("warnings: %q", left)
	}
	c.FeatureGates = map[string]bool{"X": true}
	if left := Unhonoured(c); len(left) != 1 || left[0] != "featureGates is not honoured: shimlet has no feature gates" {
		t.Errorf("warnings: %q", left)
	}
}

// Every field has a verdict, and every verdict a field.
func TestFieldsAreComplete(t *testing.T) {
	exist := map[string]bool{}
	names := func(outer string, kind reflect.Type) {
		for i := range kind.NumField() {
			name, _, _ := strings.Cut(kind.Field(i).Tag.Get("json"), ",")
			if name != "" {
				exist[outer+name] = true
			}
		}
	}
	names("", reflect.TypeFor[kubeletv1beta1.KubeletConfiguration]())
	names("authentication.", reflect.TypeFor[kubeletv1beta1.KubeletAuthentication]())
	names("authorization.", reflect.TypeFor[kubeletv1beta1.KubeletAuthorization]())
	delete(exist, "authentication")
	delete(exist, "authorization")
	listed := fields()
	for name := range exist {
		if _, ok := listed[name]; !ok {
			t.Errorf("%s has no verdict", name)
		}
	}
	for name := range listed {
		if !exist[name] {
			t.Errorf("there is no field %s", name)
		}
	}
}

// The table of docs/shimlet-node.md is that of this package; UPDATE_GOLDEN=1 writes it.
func TestDocumented(t *testing.T) {
	const page, head = "../../docs/shimlet-node.md", "| field | | why |\n|---|---|---|\n"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, after, found := strings.Cut(string(text), head)
	if !found {
		t.Fatalf("%s has no table", page)
	}
	want := ""
	listed := fields()
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		switch listed[name].verdict {
		case ignored:
			want += "| `" + name + "` | ignored | " + listed[name].why + " |\n"
		case refused:
			want += "| `" + name + "` | refused | " + listed[name].why + " |\n"
		case honoured:
		}
	}
	if after == want {
		return
	}
	if os.Getenv("UPDATE_GOLDEN") == "" {
		t.Fatalf("the table of %s is not what the program does; UPDATE_GOLDEN=1 go test ./node/kubeletconfig writes it", page)
	}
	if err := os.WriteFile(page, []byte(before+head+want), 0o644); err != nil {
		t.Fatal(err)
	}
}
