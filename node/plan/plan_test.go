package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

var epoch = time.Unix(1_000_000, 0)

func at(seconds int) time.Time { return epoch.Add(time.Duration(seconds) * time.Second) }

// pod has init containers named i..., sidecars s... and containers of any other name.
func pod(policy corev1.RestartPolicy, names ...string) *corev1.Pod {
	always, grace := corev1.ContainerRestartPolicyAlways, int64(30)
	p := &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: policy, TerminationGracePeriodSeconds: &grace}}
	for _, name := range names {
		c := corev1.Container{Name: name}
		switch name[0] {
		case 's':
			c.RestartPolicy = &always
			fallthrough
		case 'i':
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		default:
			p.Spec.Containers = append(p.Spec.Containers, c)
		}
	}
	return p
}

func sandbox(id string, attempt uint32, ready bool) Sandbox {
	return Sandbox{ID: id, Attempt: attempt, Ready: ready, CreatedAt: at(int(attempt))}
}

func run(name string, attempt uint32, state State) Container {
	return Container{ID: fmt.Sprintf("%s%d", name, attempt), Name: name, Attempt: attempt, SandboxID: "S0", State: state, StartedAt: at(0), CreatedAt: at(int(attempt))}
}

func exited(name string, attempt uint32, code int32, finished int, backoff time.Duration) Container {
	c := run(name, attempt, Exited)
	c.ExitCode, c.FinishedAt, c.Backoff = code, at(finished), backoff
	return c
}

func in(c Container, sandbox string) Container {
	c.SandboxID = sandbox
	return c
}

func started(ids ...string) map[string]Health {
	found := map[string]Health{}
	for _, id := range ids {
		found[id] = Health{Started: true, Ready: true}
	}
	return found
}

// show is a plan in short: verb, what, details.
func show(p Plan) string {
	var lines []string
	for _, a := range p.Actions {
		switch a.Verb {
		case RunSandbox:
			lines = append(lines, fmt.Sprintf("run#%d%v", a.Attempt, a.Replaces))
		case StartContainer:
			lines = append(lines, fmt.Sprintf("start %s#%d backoff %s", a.Name, a.Attempt, a.Backoff))
		case StopContainer:
			lines = append(lines, fmt.Sprintf("stop %s grace %s", a.ID, a.Grace))
		default:
			lines = append(lines, fmt.Sprintf("%s %s", a.Verb, a.ID))
		}
	}
	slices.Sort(lines)
	if !p.WakeAt.IsZero() {
		lines = append(lines, fmt.Sprintf("wake %d", int(p.WakeAt.Sub(epoch).Seconds())))
	}
	if p.Gone {
		lines = append(lines, "gone")
	}
	return strings.Join(lines, "; ")
}

func withEphemeral(p *corev1.Pod, name string) *corev1.Pod {
	p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: name}}}
	return p
}

func withImage(c Container, image string) Container {
	c.Image = image
	return c
}

// withPolicy gives the first container a policy of its own, and a rule to restart it after an exit code.
func withPolicy(p *corev1.Pod, policy corev1.ContainerRestartPolicy, codes ...int32) *corev1.Pod {
	c := &p.Spec.Containers[0]
	c.RestartPolicy = &policy
	if len(codes) > 0 {
		c.RestartPolicyRules = []corev1.ContainerRestartRule{{
			Action:    corev1.ContainerRestartRuleActionRestart,
			ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: codes},
		}}
	}
	return p
}

func withPreStop(p *corev1.Pod, name string) *corev1.Pod {
	Find(p, name).Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{}}
	return p
}

func withCPU(p *corev1.Pod, limit string, policy corev1.ResourceResizeRestartPolicy) *corev1.Pod {
	c := &p.Spec.Containers[0]
	c.Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(limit)}
	c.Resources.Requests = c.Resources.Limits
	if policy != "" {
		c.ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceCPU, RestartPolicy: policy}}
	}
	return p
}

func withLimit(c Container, limit string) Container {
	list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(limit)}
	c.Resources = &corev1.ResourceRequirements{Limits: list, Requests: list}
	return c
}

func TestNext(t *testing.T) {
	const always, onFailure, never = corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever
	ready := []Sandbox{sandbox("S0", 0, true)}
	lost := []Sandbox{sandbox("S0", 0, false)}
	grace := int64(5)
	for _, test := range []struct {
		name   string
		pod    *corev1.Pod
		seen   Observed
		memory Memory
		now    int
		ending time.Time

		verdict  *Verdict
		finished bool
		want     string
	}{
		{name: "nothing yet", pod: pod(always, "a"), want: "run#0[]"},
		{name: "sandbox under way", pod: pod(always, "a"), memory: Memory{Busy: map[string]bool{SandboxSubject: true}}, want: ""},
		{name: "sandbox failed, waits", pod: pod(always, "a"), memory: Memory{Retry: map[string]Retry{SandboxSubject: {Until: at(9)}}}, want: "wake 9"},
		{name: "sandbox failed, again", pod: pod(always, "a"), memory: Memory{Retry: map[string]Retry{SandboxSubject: {Until: at(9)}}}, now: 9, want: "run#0[]"},
		{name: "first containers together", pod: pod(always, "a", "b"), seen: Observed{Sandboxes: ready}, want: "start a#0 backoff 0s; start b#0 backoff 0s"},
		{name: "one is being started", pod: pod(always, "a", "b"), seen: Observed{Sandboxes: ready}, memory: Memory{Busy: map[string]bool{"a": true}}, want: "start b#0 backoff 0s"},
		{name: "init first", pod: pod(always, "i1", "i2", "a"), seen: Observed{Sandboxes: ready}, want: "start i1#0 backoff 0s"},
		{name: "init runs", pod: pod(always, "i1", "i2", "a"), seen: Observed{Sandboxes: ready, Containers: []Container{run("i1", 0, Running)}}, want: ""},
		{name: "second init", pod: pod(always, "i1", "i2", "a"), seen: Observed{Sandboxes: ready, Containers: []Container{exited("i1", 0, 0, 0, 0)}}, want: "start i2#0 backoff 0s"},
		{name: "init failed", pod: pod(always, "i1", "a"), seen: Observed{Sandboxes: ready, Containers: []Container{exited("i1", 0, 1, 0, 0)}}, want: "start i1#1 backoff 10s"},
		{name: "init failed for good", pod: pod(never, "i1", "a"), seen: Observed{Sandboxes: ready, Containers: []Container{exited("i1", 0, 1, 0, 0)}}, want: "StopSandbox S0"},
		{name: "all inits done", pod: pod(never, "i1", "a"), seen: Observed{Sandboxes: ready, Containers: []Container{exited("i1", 0, 0, 0, 0)}}, want: "start a#0 backoff 0s"},
		{name: "sidecar not started", pod: pod(always, "s", "a"), seen: Observed{Sandboxes: ready, Containers: []Container{run("s", 0, Running)}}, want: ""},
		{name: "sidecar started", pod: pod(always, "s", "a"), seen: Observed{Sandboxes: ready, Containers: []Container{run("s", 0, Running)}}, memory: Memory{Health: started("s0")}, want: "start a#0 backoff 0s"},
		{name: "sidecar ended beside", pod: pod(never, "s", "a"), seen: Observed{Sandboxes: ready, Containers: []Container{exited("s", 0, 0, 0, 0), run("a", 0, Running)}}, want: "start s#1 backoff 10s"},
		{name: "ended, sidecar goes", pod: pod(never, "s", "a"), seen: Observed{Sandboxes: ready, Containers: []Container{run("s", 0, Running), exited("a", 0, 0, 0, 0)}}, want: "stop s0 grace 30s"},
		{name: "first restart at once", pod: pod(always, "a"), seen: Observed{Sandboxes: ready, Containers: []Container{exited("a", 0, 0, 0, 0)}}, want: "start a#1 backoff 10s"},
		{name: "second waits", pod: pod(always, "a"), seen: Observed{Sandboxes: ready, Containers: []Container{exited("a", 1, 1, 3, 10*time.Second)}}, now: 4, want: "wake 13"},
		{name: "second goes", pod: pod(always, "a"), seen: Observed{Sandboxes: ready, Containers: []Container{exited("a", 1, 1, 3, 10*time.Second)}}, now: 13, want: "start a#2 backoff 20s"},
		{name: "no more than five minutes", pod: pod(always, "a"), seen: Observed{Sandboxes: ready, Containers: []Container{exited("a", 9, 1, 0, 5*time.Minute)}}, now: 300, want: "start a#10 backoff 5m0s"},
		{name: "ran long: forgiven", pod: pod(always, "a"), seen: Observed{Sandboxes: ready, Containers: []Container{exited("a", 9, 1, 601, 5*time.Minute)}}, now: 601, want: "start a#10 backoff 10s"},
		{name: "succeeded", pod: pod(onFailure, "a", "b"), seen: Observed{Sandboxes: ready, Containers: []Container{exited("a", 0, 0, 0, 0), run("b", 0, Running)}}, want: ""},
		{name: "failed", pod: pod(onFailure, "a"), seen: Observed{Sandboxes: ready, Containers: []Container{exited("a", 0, 1, 0, 0)}}, want: "start a#1 backoff 10s"},
		{name: "never again", pod: pod(never, "a"), seen: Observed{Sandboxes: lost, Containers: []Container{exited("a", 0, 1, 0, 0)}}, want: ""},
		{name: "pull backs off", pod: pod(always, "a"), seen: Observed{Sandboxes: ready}, memory: Memory{Retry: map[string]Retry{"a": {Until: at(20)}}}, want: "wake 20"},
		{name: "left created", pod: pod(always, "a"), seen: Observed{Sandboxes: ready, Containers: []Container{run("a", 0, Created)}}, want: "RemoveContainer a0"},
		{name: "being created", pod: pod(always, "a"), seen: Observed{Sandboxes: ready, Containers: []Container{run("a", 0, Created)}}, memory: Memory{Busy: map[string]bool{"a": true}}, want: ""},
		{name: "unknown", pod: pod(always, "a"), seen: Observed{Sandboxes: ready, Containers: []Container{run("a", 0, Unknown)}}, want: "stop a0 grace 30s"},
		{name: "condemned", pod: pod(always, "a"), seen: Observed{Sandboxes: ready, Containers: []Container{run("a", 0, Running)}}, memory: Memory{Health: map[string]Health{"a0": {Started: true, Kill: "sick", Grace: &grace}}}, want: "stop a0 grace 5s"},
		{name: "sandbox lost, container still there", pod: pod(always, "a"), seen: Observed{Sandboxes: lost, Containers: []Container{run("a", 0, Running)}}, want: "stop a0 grace 30s"},
		{name: "sandbox lost", pod: pod(always, "a"), seen: Observed{Sandboxes: lost, Containers: []Container{exited("a", 0, 137, 0, 0)}}, want: "run#1[S0]"},
		{name: "in the new sandbox, inits again", pod: pod(always, "i1", "a"), seen: Observed{
			Sandboxes:  []Sandbox{sandbox("S0", 0, false), sandbox("S1", 1, true)},
			Containers: []Container{exited("i1", 0, 0, 0, 0), exited("a", 2, 137, 0, 0)},
		}, want: "start i1#1 backoff 10s"},
		{name: "empty old sandbox", pod: pod(always, "a"), seen: Observed{
			Sandboxes: []Sandbox{sandbox("S0", 0, false), sandbox("S1", 1, true)}, Containers: []Container{in(run("a", 1, Running), "S1")},
		}, want: "RemoveSandbox S0"},
		{name: "two sandboxes run", pod: pod(always, "a"), seen: Observed{
			Sandboxes: []Sandbox{sandbox("S0", 0, true), sandbox("S1", 1, true)}, Containers: []Container{in(run("a", 1, Running), "S1")},
		}, want: "StopSandbox S0"},
		{name: "older dead ones go", pod: pod(always, "a"), seen: Observed{Sandboxes: ready, Containers: []Container{
			exited("a", 0, 1, 0, 0), exited("a", 1, 1, 0, 0), run("a", 2, Running),
		}}, want: "RemoveContainer a0"},
		{name: "ephemeral ones start at once", pod: withEphemeral(pod(always, "i1", "a"), "e"), seen: Observed{Sandboxes: ready}, want: "start e#0 backoff 0s; start i1#0 backoff 0s"},
		{name: "and only once", pod: withEphemeral(pod(always, "a"), "e"), seen: Observed{Sandboxes: ready, Containers: []Container{exited("e", 0, 1, 0, 0), run("a", 0, Running)}}, want: ""},
		{name: "image changed", pod: pod(never, "a"), seen: Observed{Sandboxes: ready, Containers: []Container{withImage(run("a", 0, Running), "old")}}, want: "stop a0 grace 30s"},
		{name: "its own policy", pod: withPolicy(pod(always, "a"), corev1.ContainerRestartPolicyNever), seen: Observed{Sandboxes: ready, Containers: []Container{exited("a", 0, 1, 0, 0)}}, want: "StopSandbox S0"},
		{name: "its rules", pod: withPolicy(pod(never, "a"), corev1.ContainerRestartPolicyNever, 42), seen: Observed{Sandboxes: ready, Containers: []Container{exited("a", 0, 42, 0, 0)}}, want: "start a#1 backoff 10s"},
		{name: "other exit codes than its rules'", pod: withPolicy(pod(never, "a"), corev1.ContainerRestartPolicyNever, 42), seen: Observed{Sandboxes: ready, Containers: []Container{exited("a", 0, 41, 0, 0)}}, want: "StopSandbox S0"},
		{name: "verdict", pod: pod(always, "a"), seen: Observed{Sandboxes: ready, Containers: []Container{run("a", 0, Running)}}, verdict: &Verdict{Grace: &grace}, want: "stop a0 grace 5s"},
		{name: "verdict, all ended", pod: pod(always, "a"), seen: Observed{Sandboxes: ready, Containers: []Container{exited("a", 0, 1, 0, 0)}}, verdict: &Verdict{}, want: "StopSandbox S0"},
		{name: "finished before", pod: pod(never, "a"), finished: true, want: ""},
		{name: "sidecars end one by one", pod: pod(always, "s1", "s2", "a"), seen: Observed{Sandboxes: ready, Containers: []Container{run("s1", 0, Running), run("s2", 0, Running), exited("a", 0, 0, 0, 0)}}, ending: at(0), want: "stop s20 grace 30s"},
		{name: "their hooks run at once", pod: withPreStop(pod(always, "s1", "a"), "s1"), seen: Observed{Sandboxes: ready, Containers: []Container{run("s1", 0, Running), run("a", 0, Running)}}, ending: at(0), want: "RunPreStop s10; stop a0 grace 30s"},
		{name: "and only once, too", pod: withPreStop(pod(always, "s1", "a"), "s1"), seen: Observed{Sandboxes: ready, Containers: []Container{run("s1", 0, Running), run("a", 0, Running)}}, memory: Memory{Hooked: map[string]bool{"s10": true}}, ending: at(0), want: "stop a0 grace 30s"},
		{name: "resized", pod: withCPU(pod(always, "a"), "200m", ""), seen: Observed{Sandboxes: ready, Containers: []Container{withLimit(run("a", 0, Running), "100m")}}, want: "UpdateContainer a0"},
		{name: "resized, and told so", pod: withCPU(pod(always, "a"), "200m", ""), seen: Observed{Sandboxes: ready, Containers: []Container{withLimit(run("a", 0, Running), "100m")}}, memory: Memory{Applied: map[string]string{"a0": Fingerprint(&withCPU(pod(always, "a"), "200m", "").Spec.Containers[0])}}, want: ""},
		{name: "resized, with a restart", pod: withCPU(pod(always, "a"), "200m", corev1.RestartContainer), seen: Observed{Sandboxes: ready, Containers: []Container{withLimit(run("a", 0, Running), "100m")}}, want: "stop a0 grace 30s"},
		{name: "the same", pod: withCPU(pod(always, "a"), "100m", corev1.RestartContainer), seen: Observed{Sandboxes: ready, Containers: []Container{withLimit(run("a", 0, Running), "100m")}}, want: ""},
		{name: "removed: containers first", pod: pod(always, "s", "a"), seen: Observed{Sandboxes: ready, Containers: []Container{run("s", 0, Running), run("a", 0, Running)}}, ending: at(0), now: 10, want: "stop a0 grace 20s"},
		{name: "removed: then sidecars, never without grace", pod: pod(always, "s", "a"), seen: Observed{Sandboxes: ready, Containers: []Container{run("s", 0, Running), exited("a", 0, 0, 0, 0)}}, ending: at(0), now: 40, want: "stop s0 grace 2s"},
		{name: "removed: waits for a start", pod: pod(always, "a"), seen: Observed{Sandboxes: ready}, memory: Memory{Busy: map[string]bool{"a": true}}, ending: at(0), want: ""},
		{name: "removed: sandbox stops", pod: pod(always, "a"), seen: Observed{Sandboxes: ready, Containers: []Container{exited("a", 0, 0, 0, 0)}}, ending: at(0), want: "StopSandbox S0"},
		{name: "removed: sandbox goes", pod: pod(always, "a"), seen: Observed{Sandboxes: lost, Containers: []Container{exited("a", 0, 0, 0, 0)}}, ending: at(0), want: "RemoveSandbox S0"},
		{name: "removed: container without a sandbox", pod: pod(always, "a"), seen: Observed{Containers: []Container{exited("a", 0, 0, 0, 0)}}, ending: at(0), want: "RemoveContainer a0"},
		{name: "removed: still busy", pod: pod(always, "a"), memory: Memory{Busy: map[string]bool{"sandbox S0": true}}, ending: at(0), want: ""},
		{name: "removed", pod: pod(always, "a"), ending: at(0), want: "gone"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := show(Next(Input{Pod: test.pod, Terminating: test.ending, Grace: 30, Verdict: test.verdict, Finished: test.finished, Seen: test.seen, Memory: test.memory, Now: at(test.now)}))
			if got != test.want {
				t.Errorf("planned %q, want %q", got, test.want)
			}
		})
	}
}

func TestNextRetry(t *testing.T) {
	retry, now := Retry{}, epoch
	var delays []string
	for range 7 {
		retry = NextRetry(retry, now, "", "")
		delays = append(delays, retry.Delay.String())
		now = retry.Until
	}
	if got := strings.Join(delays, " "); got != "10s 20s 40s 1m20s 2m40s 5m0s 5m0s" {
		t.Errorf("delays %s", got)
	}
	if retry = NextRetry(retry, now.Add(forgiven), "", ""); retry.Delay != firstBackoff {
		t.Errorf("after a long time without failures: %s", retry.Delay)
	}
}
