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
			p, err := StrategicPatch(old, now)
			if err != nil {
				t.Fatal(err)
			}
			doc, err := json.Marshal(old)
			if err != nil {
				t.Fatal(err)
			}
			patched, err := strategicpatch.StrategicMergePatch(doc, p, corev1.Pod{})
			if err != nil {
				t.Fatalf("%d to %d: %v: %s", i, j, err, p)
			}
			var got corev1.Pod
			if err := json.Unmarshal(patched, &got); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(now, got); d != "" {
				t.Errorf("%d to %d by %s: %s", i, j, p, d)
			}
		}
	}
	if p, err := StrategicPatch(states[2], states[2]); err != nil || string(p) != "{}" {
		t.Errorf("nothing to do: %s, %v", p, err)
	}
}
