package status

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shimd/shimd/node/plan"
)

func second(n int) time.Time { return time.Unix(int64(n), 0) }

func podWith(policy corev1.RestartPolicy, inits []string, mains ...string) *corev1.Pod {
	always := corev1.ContainerRestartPolicyAlways
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "u", Generation: 3}, Spec: corev1.PodSpec{RestartPolicy: policy}}
	for _, name := range inits {
		c := corev1.Container{Name: name}
		if strings.HasPrefix(name, "s") {
			c.RestartPolicy = &always
		}
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
	}
	for _, name := range mains {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: name, Image: "image"})
	}
	return pod
}

func runOf(name string, attempt uint32, state plan.State, code int32) plan.Container {
	return plan.Container{
		ID: fmt.Sprintf("%s%d", name, attempt), SandboxID: "S", Name: name, Attempt: attempt, State: state, ExitCode: code,
		StartedAt: second(5), FinishedAt: second(9),
	}
}

// words are a status in short: phase, reason; each container's state, reason, exit code, what went before; conditions with their reasons.
func words(s corev1.PodStatus) string {
	state := func(c corev1.ContainerState) string {
		switch {
		case c.Running != nil:
			return "running"
		case c.Terminated != nil:
			return fmt.Sprintf("%s(%d)", c.Terminated.Reason, c.Terminated.ExitCode)
		case c.Waiting != nil:
			return "waiting:" + c.Waiting.Reason
		}
		return "none"
	}
	text := string(s.Phase)
	if s.Reason != "" {
		text += "/" + s.Reason
	}
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for _, c := range list {
			text += fmt.Sprintf("; %s#%d %s", c.Name, c.RestartCount, state(c.State))
			if c.LastTerminationState.Terminated != nil {
				text += " after " + state(c.LastTerminationState)
			}
			if c.Ready {
				text += " ready"
			}
		}
	}
	for _, c := range s.Conditions {
		short := map[corev1.PodConditionType]string{corev1.PodReadyToStartContainers: "sandbox", corev1.PodInitialized: "init", corev1.PodReady: "ready"}[c.Type]
		if short != "" {
			text += fmt.Sprintf("; %s=%s", short, c.Status)
			if c.Reason != "" {
				text += ":" + c.Reason
			}
		}
	}
	return text
}

func TestMake(t *testing.T) {
	const always, never, onFailure = corev1.RestartPolicyAlways, corev1.RestartPolicyNever, corev1.RestartPolicyOnFailure
	up := []plan.Sandbox{{ID: "S", Ready: true, IPs: []string{"fd00::2", "10.0.0.2"}}}
	well := func(ids ...string) plan.Memory {
		m := plan.Memory{Health: map[string]plan.Health{}}
		for _, id := range ids {
			m.Health[id] = plan.Health{Started: true, Ready: true}
		}
		return m
	}
	waits := func(c plan.Container) plan.Container {
		c.Backoff = 20 * time.Second
		return c
	}
	before := corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: "a", ContainerID: "fake://a0", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}
	for _, test := range []struct {
		name string
		in   Input
		want string
	}{
		{"new", Input{Input: plan.Input{Pod: podWith(always, nil, "a")}},
			"Pending; a#0 waiting:ContainerCreating; sandbox=False; init=True; ready=False:ContainersNotReady"},
		{"initialising", Input{Input: plan.Input{Pod: podWith(always, []string{"i"}, "a"), Seen: plan.Observed{Sandboxes: up, Containers: []plan.Container{runOf("i", 0, plan.Running, 0)}}}},
			"Pending; i#0 running; a#0 waiting:PodInitializing; sandbox=True; init=False:ContainersNotInitialized; ready=False:ContainersNotReady"},
		{"init failed", Input{Input: plan.Input{Pod: podWith(never, []string{"i"}, "a"), Seen: plan.Observed{Sandboxes: up, Containers: []plan.Container{runOf("i", 0, plan.Exited, 1)}}}},
			"Failed; i#0 Error(1); a#0 waiting:PodInitializing; sandbox=True; init=False:ContainersNotInitialized; ready=False:PodFailed"},
		{"init restarts", Input{Input: plan.Input{Pod: podWith(always, []string{"i"}, "a"), Now: second(10), Seen: plan.Observed{Sandboxes: up, Containers: []plan.Container{waits(runOf("i", 2, plan.Exited, 1))}}}},
			"Pending; i#2 waiting:CrashLoopBackOff after Error(1); a#0 waiting:PodInitializing; sandbox=True; init=False:ContainersNotInitialized; ready=False:ContainersNotReady"},
		{"sidecar starts", Input{Input: plan.Input{Pod: podWith(always, []string{"s"}, "a"), Seen: plan.Observed{Sandboxes: up, Containers: []plan.Container{runOf("s", 0, plan.Running, 0)}}}},
			"Pending; s#0 running; a#0 waiting:PodInitializing; sandbox=True; init=False:ContainersNotInitialized; ready=False:ContainersNotReady"},
		{"runs", Input{Input: plan.Input{Pod: podWith(always, []string{"s"}, "a"), Memory: well("s0", "a0"), Seen: plan.Observed{Sandboxes: up, Containers: []plan.Container{runOf("s", 0, plan.Running, 0), runOf("a", 0, plan.Running, 0)}}}},
			"Running; s#0 running ready; a#0 running ready; sandbox=True; init=True; ready=True"},
		{"not ready", Input{Input: plan.Input{Pod: podWith(always, nil, "a"), Memory: plan.Memory{Health: map[string]plan.Health{"a0": {Started: true}}}, Seen: plan.Observed{Sandboxes: up, Containers: []plan.Container{runOf("a", 0, plan.Running, 0)}}}},
			"Running; a#0 running; sandbox=True; init=True; ready=False:ContainersNotReady"},
		{"first restart", Input{Input: plan.Input{Pod: podWith(always, nil, "a"), Seen: plan.Observed{Sandboxes: up, Containers: []plan.Container{runOf("a", 0, plan.Exited, 3)}}}},
			"Running; a#0 Error(3); sandbox=True; init=True; ready=False:ContainersNotReady"},
		{"crash loop", Input{Input: plan.Input{Pod: podWith(onFailure, nil, "a"), Seen: plan.Observed{Sandboxes: up, Containers: []plan.Container{runOf("a", 0, plan.Exited, 2), waits(runOf("a", 1, plan.Exited, 3))}}}},
			"Running; a#1 waiting:CrashLoopBackOff after Error(3); sandbox=True; init=True; ready=False:ContainersNotReady"},
		{"succeeded", Input{Input: plan.Input{Pod: podWith(onFailure, nil, "a"), Seen: plan.Observed{Sandboxes: up, Containers: []plan.Container{runOf("a", 0, plan.Exited, 0)}}}},
			"Succeeded; a#0 Completed(0); sandbox=True; init=True:PodCompleted; ready=False:PodCompleted"},
		{"one of two has failed", Input{Input: plan.Input{Pod: podWith(never, nil, "a", "b"), Seen: plan.Observed{Sandboxes: up, Containers: []plan.Container{runOf("a", 0, plan.Exited, 1), runOf("b", 0, plan.Running, 0)}}}},
			"Running; a#0 Error(1); b#0 running; sandbox=True; init=True; ready=False:ContainersNotReady"},
		{"evicted, still running", Input{Before: before, Input: plan.Input{Pod: podWith(always, nil, "a"), Verdict: &plan.Verdict{Reason: "Evicted"}, Memory: well("a0"), Seen: plan.Observed{Sandboxes: up, Containers: []plan.Container{runOf("a", 0, plan.Running, 0)}}}},
			"Running; a#0 running ready; sandbox=True; init=True; ready=True"},
		{"evicted", Input{Before: before, Input: plan.Input{Pod: podWith(always, nil, "a"), Verdict: &plan.Verdict{Reason: "Evicted"}, Seen: plan.Observed{Containers: []plan.Container{runOf("a", 0, plan.Exited, 137)}}}},
			"Failed/Evicted; a#0 Error(137); sandbox=False; init=True; ready=False:PodFailed"},
		{"deleted, ended well", Input{Before: before, Input: plan.Input{Pod: podWith(always, nil, "a"), Terminating: second(1), Seen: plan.Observed{Containers: []plan.Container{runOf("a", 0, plan.Exited, 0)}}}},
			"Succeeded; a#0 Completed(0); sandbox=False; init=True:PodCompleted; ready=False:PodCompleted"},
		{"deleted before it ran", Input{Input: plan.Input{Pod: podWith(always, nil, "a"), Terminating: second(1)}},
			"Failed; a#0 ContainerStatusUnknown(137); sandbox=False; init=True; ready=False:PodFailed"},
		{"lost", Input{Before: before, Input: plan.Input{Pod: podWith(always, nil, "a"), Seen: plan.Observed{Sandboxes: up}}},
			"Running; a#1 waiting:ContainerCreating after ContainerStatusUnknown(137); sandbox=True; init=True; ready=False:ContainersNotReady"},
		{"static, deleted", Input{Static: true, Before: before, Input: plan.Input{Pod: podWith(always, nil, "a"), Terminating: second(1), Seen: plan.Observed{Containers: []plan.Container{runOf("a", 0, plan.Exited, 0)}}}},
			"Running; a#0 Completed(0); sandbox=False; init=True; ready=False:ContainersNotReady"},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.in.Runtime, test.in.HostIPs = "fake", []string{"192.0.2.7"}
			s := Make(test.in)
			if got := words(s); got != test.want {
				t.Errorf("%s\nwant %s", got, test.want)
			}
			if s.ObservedGeneration != 3 || s.HostIP != "192.0.2.7" || (len(test.in.Seen.Sandboxes) > 0 && (s.PodIP != "10.0.0.2" || len(s.PodIPs) != 2)) {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestFailedPull(t *testing.T) {
	in := Input{Input: plan.Input{Pod: podWith(corev1.RestartPolicyAlways, nil, "a"), Now: second(100), Memory: plan.Memory{
		Retry: map[string]plan.Retry{"a": {Reason: ReasonErrImagePull, Message: "no such image", Delay: 10 * time.Second, Until: second(110)}},
	}}}
	if w := Make(in).ContainerStatuses[0].State.Waiting; w.Reason != ReasonErrImagePull || w.Message != "no such image" {
		t.Errorf("at first: %+v", w)
	}
	in.Now = second(101)
	if w := Make(in).ContainerStatuses[0].State.Waiting; w.Reason != ReasonImagePullBackOff || w.Message != `Back-off pulling image "image": ErrImagePull: no such image` {
		t.Errorf("then: %+v", w)
	}
}

func TestConditionsKeepTheirTimes(t *testing.T) {
	pod := podWith(corev1.RestartPolicyAlways, nil, "a")
	pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "gate"}}
	in := Input{Input: plan.Input{
		Pod: pod, Now: second(10), Memory: plan.Memory{Health: map[string]plan.Health{"a0": {Started: true, Ready: true}}},
		Seen: plan.Observed{Sandboxes: []plan.Sandbox{{ID: "S", Ready: true}}, Containers: []plan.Container{runOf("a", 0, plan.Running, 0)}},
	}}
	first := Make(in)
	if c := Condition(first.Conditions, corev1.PodReady); c.Reason != readinessGatesNotReady || !strings.Contains(c.Message, `"gate" does not exist`) {
		t.Errorf("without its gate: %+v", c)
	}
	in.Before, in.Now = first, second(20)
	pod.Status.Conditions = []corev1.PodCondition{{Type: "gate", Status: corev1.ConditionTrue}}
	then := Make(in)
	if c := Condition(then.Conditions, corev1.PodReady); c.Status != corev1.ConditionTrue || !c.LastTransitionTime.Time.Equal(second(20)) {
		t.Errorf("with it: %+v", c)
	}
	if c := Condition(then.Conditions, corev1.ContainersReady); !c.LastTransitionTime.Time.Equal(second(10)) {
		t.Errorf("what did not change: %+v", c)
	}
	if Condition(then.Conditions, "gate") == nil {
		t.Error("the gate's condition is lost")
	}
	in.Before = then
	if again := Make(in); !Same(&again, &then) {
		t.Errorf("made anew it differs:\n%+v\n%+v", again, then)
	}
}

func TestResizeInProgress(t *testing.T) {
	list := func(cpu string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	}
	pod := podWith(corev1.RestartPolicyAlways, nil, "a")
	pod.Generation = 2
	pod.Spec.Containers[0].Resources.Limits = list("20m")
	run := runOf("a", 0, plan.Running, 0)
	run.Resources = &corev1.ResourceRequirements{Limits: list("10m"), Requests: list("10m")}
	in := Input{Input: plan.Input{Pod: pod, Seen: plan.Observed{Sandboxes: []plan.Sandbox{{ID: "S", Ready: true}}, Containers: []plan.Container{run}}}}
	at := func() (c corev1.PodCondition, there bool) {
		s := Make(in)
		in.Before = s
		if found := Condition(s.Conditions, corev1.PodResizeInProgress); found != nil {
			return *found, true
		}
		return c, false
	}
	if c, there := at(); !there || c.Status != corev1.ConditionTrue || c.ObservedGeneration != 2 || c.Reason != "" {
		t.Errorf("a container has other resources: %+v", c)
	}
	pod.Generation = 3
	in.Memory.Retry = map[string]plan.Retry{"update a0": {Message: "no"}}
	if c, _ := at(); c.Reason != corev1.PodReasonError || c.Message != "no" || c.ObservedGeneration != 2 {
		t.Errorf("it could not be given them: %+v", c)
	}
	in.Seen.Containers[0].Resources = &corev1.ResourceRequirements{Limits: list("20m"), Requests: list("20m")}
	if c, there := at(); there {
		t.Errorf("it has them: %+v", c)
	}
}
