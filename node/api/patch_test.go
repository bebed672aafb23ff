package api

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// TestMergeKeys holds the table to what the API's types declare.
func TestMergeKeys(t *testing.T) {
	declared := map[string]string{}
	var walk func(path string, of reflect.Type)
	walk = func(path string, of reflect.Type) {
		for of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		if of.Kind() != reflect.Struct {
			return
		}
		for i := range of.NumField() {
			f := of.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if strings.HasPrefix(f.Tag.Get("patchStrategy"), "merge") {
				declared[path+name] = f.Tag.Get("patchMergeKey")
			}
			walk(path+name+".", f.Type)
		}
	}
	walk("status.", reflect.TypeFor[corev1.PodStatus]())
	walk("status.", reflect.TypeFor[corev1.NodeStatus]())
	walk("metadata.", reflect.TypeFor[metav1.ObjectMeta]())
	delete(declared, "metadata.finalizers") // a list of words, which agents do not change
	if d := cmp.Diff(declared, mergeKeys); d != "" {
		t.Error(d)
	}
}

func TestStrategicPatch(t *testing.T) {
	condition := func(kind corev1.PodConditionType, status corev1.ConditionStatus, reason string) corev1.PodCondition {
		return corev1.PodCondition{Type: kind, Status: status, Reason: reason}
	}
	states := []corev1.PodStatus{
		{},
		{Phase: corev1.PodPending, HostIP: "10.0.0.1", HostIPs: []corev1.HostIP{{IP: "10.0.0.1"}}, Conditions: []corev1.PodCondition{condition("Ready", "False", "Waits"), condition("gate", "True", "")}},
		{Phase: corev1.PodRunning, HostIP: "10.0.0.1", HostIPs: []corev1.HostIP{{IP: "fd00::1"}, {IP: "10.0.0.1"}}, PodIP: "10.1.0.1", PodIPs: []corev1.PodIP{{IP: "10.1.0.1"}},
			Conditions:        []corev1.PodCondition{condition("gate", "True", ""), condition("Ready", "True", ""), condition("Initialized", "True", "")},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "a", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}, {Name: "b"}}},
		{Phase: corev1.PodFailed, Reason: "Evicted", PodIP: "10.1.0.2", PodIPs: []corev1.PodIP{{IP: "10.1.0.2"}, {IP: "fd01::1"}},
			Conditions:        []corev1.PodCondition{condition("gate", "True", "")},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "b", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 3}}}}},
	}
	for i, before := range states {
		for j, after := range states {
			old, now := corev1.Pod{Status: before}, corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u", Labels: map[string]string{"a": "b"}}, Status: after}
			if got := patched(t, old, now); !cmp.Equal(now, got) {
				t.Errorf("%d to %d: %s", i, j, cmp.Diff(now, got))
			}
		}
	}
	addresses := func(of ...string) (list []corev1.NodeAddress) {
		for _, a := range of {
			list = append(list, corev1.NodeAddress{Type: corev1.NodeAddressType(a[:2]), Address: a})
		}
		return list
	}
	for i, c := range [][2][]corev1.NodeAddress{
		{nil, addresses("IP-1", "IP-2", "HN-a")},
		{addresses("IP-1", "HN-a"), addresses("IP-2", "HN-a")},
		{addresses("IP-1", "HN-a"), addresses("IP-2", "IP-1", "HN-a")},
		{addresses("IP-1", "IP-2", "HN-a"), addresses("IP-3", "HN-a")},
		{addresses("IP-1", "IP-2"), nil},
	} {
		image := corev1.ContainerImage{SizeBytes: 1<<60 + int64(i)}
		old, now := corev1.Node{Status: corev1.NodeStatus{Addresses: c[0]}}, corev1.Node{Status: corev1.NodeStatus{Addresses: c[1], Images: []corev1.ContainerImage{image}}}
		if got := patched(t, old, now); !cmp.Equal(now, got) {
			t.Errorf("addresses %d: %s", i, cmp.Diff(now, got))
		}
	}
	if p, err := StrategicPatch(states[2], states[2]); err != nil || string(p) != "{}" {
		t.Errorf("nothing to do: %s, %v", p, err)
	}
}

// patched is what the API server makes of an object by the patch to another.
func patched[T any](t *testing.T, old, now T) T {
	t.Helper()
	p, err := StrategicPatch(old, now)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := json.Marshal(old)
	if err != nil {
		t.Fatal(err)
	}
	var got T
	after, err := strategicpatch.StrategicMergePatch(doc, p, got)
	if err != nil {
		t.Fatalf("%v: %s", err, p)
	}
	if err := json.Unmarshal(after, &got); err != nil {
		t.Fatal(err)
	}
	return got
}
