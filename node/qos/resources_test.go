package qos

import (
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// list is resources as "cpu", "100m", "memory", "1Gi".
func list(pairs ...string) corev1.ResourceList {
	found := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		found[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return found
}

func container(requests, limits corev1.ResourceList) corev1.Container {
	return corev1.Container{Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits}}
}

func podOf(containers ...corev1.Container) *corev1.Pod {
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: containers}}
	pod.UID = "1234-abcd"
	return pod
}

func TestPods(t *testing.T) {
	half := list("cpu", "500m", "memory", "100Mi")
	always := corev1.ContainerRestartPolicyAlways
	sidecar := container(half, half)
	sidecar.RestartPolicy = &always
	withInit := podOf(container(half, half))
	withInit.Spec.InitContainers = []corev1.Container{container(list("cpu", "2", "memory", "10Mi"), list("cpu", "2", "memory", "10Mi")), sidecar}
	whole := podOf(container(nil, nil), container(nil, nil))
	whole.Spec.Resources = &corev1.ResourceRequirements{Requests: half, Limits: half}
	told := podOf(container(half, half))
	told.Status.QOSClass = corev1.PodQOSBurstable
	overhead := podOf(container(half, half))
	overhead.Spec.Overhead = list("cpu", "250m", "memory", "20Mi")
	node := Limits{Quota: true, Period: 100000, PageSizes: []string{"2MB", "1GB"}}
	for name, test := range map[string]struct {
		pod    *corev1.Pod
		node   Limits
		class  corev1.PodQOSClass
		limits string
	}{
		"best effort": {podOf(container(nil, nil)), node, corev1.PodQOSBestEffort,
			`{"cpu":{"shares":2},"hugepageLimits":[{"pageSize":"1GB","limit":0},{"pageSize":"2MB","limit":0}]}`},
		"guaranteed": {podOf(container(half, half), container(half, half)), node, corev1.PodQOSGuaranteed,
			`{"memory":{"limit":209715200},"cpu":{"shares":1024,"quota":100000,"period":100000},"hugepageLimits":[{"pageSize":"1GB","limit":0},{"pageSize":"2MB","limit":0}]}`},
		"one without limits": {podOf(container(half, half), container(half, nil)), Limits{Quota: true, Period: 100000}, corev1.PodQOSBurstable, `{"cpu":{"shares":1024}}`},
		"memory alone": {podOf(container(nil, list("memory", "64Mi"))), Limits{Quota: true, Period: 100000}, corev1.PodQOSBurstable,
			`{"memory":{"limit":67108864},"cpu":{"shares":2}}`},
		"more than asked": {podOf(container(half, list("cpu", "1", "memory", "1Gi"))), Limits{Quota: true, Period: 10000, Pids: 99}, corev1.PodQOSBurstable,
			`{"memory":{"limit":1073741824},"cpu":{"shares":512,"quota":10000,"period":10000},"pids":{"limit":99}}`},
		"without quotas": {podOf(container(half, half)), Limits{Period: 100000}, corev1.PodQOSGuaranteed,
			`{"memory":{"limit":104857600},"cpu":{"shares":512,"quota":-1,"period":100000}}`},
		"init and sidecar": {withInit, Limits{Quota: true, Period: 100000}, corev1.PodQOSGuaranteed,
			`{"memory":{"limit":209715200},"cpu":{"shares":2048,"quota":200000,"period":100000}}`},
		"the pod's own": {whole, Limits{Quota: true, Period: 100000}, corev1.PodQOSGuaranteed,
			`{"memory":{"limit":104857600},"cpu":{"shares":512,"quota":50000,"period":100000}}`},
		"as told": {told, Limits{Quota: true, Period: 100000}, corev1.PodQOSBurstable,
			`{"memory":{"limit":104857600},"cpu":{"shares":512,"quota":50000,"period":100000}}`},
		"overhead": {overhead, Limits{Quota: true, Period: 100000}, corev1.PodQOSGuaranteed,
			`{"memory":{"limit":125829120},"cpu":{"shares":768,"quota":75000,"period":100000}}`},
		"huge pages": {podOf(container(list("cpu", "1m", "hugepages-2Mi", "4Mi"), list("hugepages-2Mi", "4Mi"))), node, corev1.PodQOSBurstable,
			`{"cpu":{"shares":2},"hugepageLimits":[{"pageSize":"1GB","limit":0},{"pageSize":"2MB","limit":4194304}]}`},
		"hardly any CPU": {podOf(container(list("cpu", "1m", "memory", "1Mi"), list("cpu", "1m", "memory", "1Mi"))), Limits{Quota: true, Period: 100000}, corev1.PodQOSGuaranteed,
			`{"memory":{"limit":1048576},"cpu":{"shares":2,"quota":1000,"period":100000}}`},
	} {
		if got := Class(test.pod); got != test.class {
			t.Errorf("%s: %s, want %s", name, got, test.class)
		}
		text, err := json.Marshal(Pod(test.pod, test.node))
		if err != nil {
			t.Fatal(err)
		}
		if string(text) != test.limits {
			t.Errorf("%s:\n%s, want\n%s", name, text, test.limits)
		}
	}
}

func TestClasses(t *testing.T) {
	text, err := json.Marshal(AllPods(list("cpu", "4", "memory", "2Gi"), 1000))
	if want := `{"memory":{"limit":2147483648},"cpu":{"shares":4096},"pids":{"limit":1000}}`; err != nil || string(text) != want {
		t.Errorf("%s %v", text, err)
	}
	pods := []*corev1.Pod{podOf(container(list("cpu", "1"), nil)), podOf(container(list("cpu", "500m"), nil)), podOf(container(nil, nil)),
		podOf(container(list("cpu", "1", "memory", "1Gi"), list("cpu", "1", "memory", "1Gi")))}
	if got := *Burstable(pods).CPU.Shares; got != 1536 {
		t.Errorf("burstable: %d shares", got)
	}
}
