package cluster

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

var (
	early = metav1.NewTime(time.Date(2026, 1, 1, 10, 0, 0, 0, time.UTC))
	late  = metav1.NewTime(early.Add(time.Minute))
)

func cond(kind corev1.PodConditionType, status corev1.ConditionStatus, at metav1.Time) corev1.PodCondition {
	return corev1.PodCondition{Type: kind, Status: status, LastTransitionTime: at}
}

func base(status corev1.PodStatus) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p", UID: "u"},
		Spec:       corev1.PodSpec{InitContainers: []corev1.Container{{Name: "z"}, {Name: "a"}}, Containers: []corev1.Container{{Name: "c"}, {Name: "b"}}},
		Status:     status,
	}
}

func TestMergeConditions(t *testing.T) {
	const gate = corev1.PodConditionType("example.com/gate")
	for name, c := range map[string]struct{ old, reported, want corev1.PodStatus }{
		"others' conditions stay, one's own come and go": {
			old: corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{
				cond(gate, corev1.ConditionTrue, early), cond(corev1.PodScheduled, corev1.ConditionTrue, early), cond(corev1.PodResizePending, corev1.ConditionTrue, early),
			}},
			reported: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
				cond(corev1.PodReady, corev1.ConditionTrue, metav1.Time{}), cond(gate, corev1.ConditionFalse, late),
			}},
			want: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
				cond(gate, corev1.ConditionTrue, early), cond(corev1.PodScheduled, corev1.ConditionTrue, early), cond(corev1.PodReady, corev1.ConditionTrue, late),
			}},
		},
		"a time changes with its status only": {
			old: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
				cond(corev1.PodReady, corev1.ConditionTrue, early), cond(corev1.ContainersReady, corev1.ConditionFalse, early),
			}},
			reported: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
				cond(corev1.PodReady, corev1.ConditionTrue, late), cond(corev1.ContainersReady, corev1.ConditionTrue, metav1.Time{}),
			}},
			want: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
				cond(corev1.PodReady, corev1.ConditionTrue, early), cond(corev1.ContainersReady, corev1.ConditionTrue, late),
			}},
		},
		"what has ended stays ended, and is not ready": {
			old:      corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: "m", Conditions: []corev1.PodCondition{cond(corev1.PodReady, corev1.ConditionFalse, early)}},
			reported: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{cond(corev1.PodReady, corev1.ConditionTrue, late)}},
			want: corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: "m", Conditions: []corev1.PodCondition{
				{Type: corev1.PodReady, Status: corev1.ConditionFalse, Reason: "PodFailed", LastTransitionTime: late},
			}},
		},
		"a disruption is told with the end": {
			old:      corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{cond(corev1.DisruptionTarget, corev1.ConditionFalse, early)}},
			reported: corev1.PodStatus{Phase: corev1.PodFailed, Conditions: []corev1.PodCondition{cond(corev1.DisruptionTarget, corev1.ConditionTrue, metav1.Time{})}},
			want:     corev1.PodStatus{Phase: corev1.PodFailed, Conditions: []corev1.PodCondition{cond(corev1.DisruptionTarget, corev1.ConditionTrue, late)}},
		},
		"and not before": {
			old:      corev1.PodStatus{Phase: corev1.PodRunning},
			reported: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{cond(corev1.DisruptionTarget, corev1.ConditionTrue, early)}},
			want:     corev1.PodStatus{Phase: corev1.PodRunning},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.old.StartTime, c.want.StartTime = &early, &early
			got := merge(base(c.old), &c.reported, 0, late.Time)
			if !apiequality.Semantic.DeepEqual(got, &c.want) {
				t.Error(cmp.Diff(&c.want, got))
			}
		})
	}
}

func TestMergeKeepsWhatIsKnown(t *testing.T) {
	old := corev1.PodStatus{
		Phase: corev1.PodRunning, StartTime: &early, QOSClass: corev1.PodQOSBurstable, NominatedNodeName: "other", ObservedGeneration: 3,
		PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}, HostIP: "10.1.0.1", HostIPs: []corev1.HostIP{{IP: "10.1.0.1"}},
	}
	got := merge(base(old), &corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &late}, 2, late.Time)
	if !apiequality.Semantic.DeepEqual(got, &old) {
		t.Error(cmp.Diff(&old, got))
	}
	fresh := merge(base(corev1.PodStatus{}), &corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{cond(corev1.PodReady, corev1.ConditionFalse, late)}}, 2, late.Time)
	if !fresh.StartTime.Equal(&late) || fresh.ObservedGeneration != 2 || fresh.Conditions[0].ObservedGeneration != 2 {
		t.Errorf("a new status: %+v", fresh)
	}
}

// What was written and comes back compares equal, else it would be written for ever.
func TestMergeIsStable(t *testing.T) {
	odd := metav1.NewTime(early.Add(123456789))
	reported := corev1.PodStatus{
		Phase: corev1.PodRunning, StartTime: &odd,
		Conditions: []corev1.PodCondition{cond(corev1.PodReady, corev1.ConditionTrue, odd)},
		ContainerStatuses: []corev1.ContainerStatus{
			{Name: "c", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: odd}}},
			{Name: "b", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: odd, Message: strings.Repeat("é", 3<<10)}}},
		},
		InitContainerStatuses: []corev1.ContainerStatus{{Name: "a"}, {Name: "z"}},
	}
	pod := base(corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{cond("example.com/gate", corev1.ConditionTrue, early)}})
	first := merge(pod, &reported, 1, late.Time)
	if first.InitContainerStatuses[0].Name != "z" || first.ContainerStatuses[0].Name != "b" {
		t.Errorf("statuses are in the wrong order: %+v", first)
	}
	p, err := patch(pod.UID, &pod.Status, first)
	if err != nil {
		t.Fatal(err)
	}
	pod = apply(t, pod, p)
	second := merge(pod, &reported, 1, late.Add(time.Hour))
	if !apiequality.Semantic.DeepEqual(&pod.Status, second) {
		t.Error(cmp.Diff(&pod.Status, second))
	}
	if p, err = patch(pod.UID, &pod.Status, second); p != nil || err != nil {
		t.Errorf("a patch for nothing: %s, %v", p, err)
	}
}

// apply does to a pod what the API server does.
func apply(t *testing.T, pod *corev1.Pod, p []byte) *corev1.Pod {
	t.Helper()
	before, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	after, err := strategicpatch.StrategicMergePatch(before, p, corev1.Pod{})
	if err != nil {
		t.Fatal(err)
	}
	patched := &corev1.Pod{}
	if err := json.Unmarshal(after, patched); err != nil {
		t.Fatal(err)
	}
	return patched
}

func TestPatchIsSmall(t *testing.T) {
	old := corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &early, Conditions: []corev1.PodCondition{
		cond(corev1.PodScheduled, corev1.ConditionTrue, early), cond(corev1.PodReady, corev1.ConditionFalse, early), cond("example.com/gate", corev1.ConditionTrue, early),
	}}
	pod := base(old)
	merged := merge(pod, &corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{cond(corev1.PodReady, corev1.ConditionTrue, metav1.Time{})}}, 0, late.Time)
	p, err := patch(pod.UID, &pod.Status, merged)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"metadata":{"uid":"u"},"status":{"$setElementOrder/conditions":[{"type":"PodScheduled"},{"type":"example.com/gate"},{"type":"Ready"}],` +
		`"conditions":[{"lastTransitionTime":"2026-01-01T10:01:00Z","status":"True","type":"Ready"}]}}`
	if string(p) != want {
		t.Errorf("got  %s\nwant %s", p, want)
	}
}

func TestReferences(t *testing.T) {
	pod := base(corev1.PodStatus{})
	local := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	pod.Spec.ImagePullSecrets = []corev1.LocalObjectReference{local("pull"), local("")}
	pod.Spec.InitContainers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: local("all")}}}
	pod.Spec.Containers[0].Env = []corev1.EnvVar{
		{Name: "A", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: local("key")}}},
		{Name: "B", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: local("all")}}},
	}
	pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: local("debug")}}},
	}}}
	pod.Spec.Volumes = []corev1.Volume{
		{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "files"}}},
		{VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: local("conf")}}},
		{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: local("kube-root-ca.crt")}}, {Secret: &corev1.SecretProjection{LocalObjectReference: local("part")}},
		}}}},
	}
	want := map[reference]struct{}{}
	for _, name := range []string{"pull", "key", "debug", "files", "part"} {
		want[reference{true, "n", name}] = struct{}{}
	}
	for _, name := range []string{"all", "conf", "kube-root-ca.crt"} {
		want[reference{false, "n", name}] = struct{}{}
	}
	if got := references(pod); !cmp.Equal(want, got, cmp.AllowUnexported(reference{})) {
		t.Error(cmp.Diff(want, got, cmp.AllowUnexported(reference{})))
	}
}
