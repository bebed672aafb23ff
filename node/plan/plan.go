package plan

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// minimumGrace is the least that a container gets to end in, whatever the pod says: the kubelet's minimumGracePeriodInSeconds.
const minimumGrace = 2 * time.Second

// stopping is the kubelet's word for an end that needs no other reason.
const stopping = "Stopping container"

// Next decides.
//
//  1. A pod that has to go: stop containers (sidecars last), stop sandboxes, remove them.
//  2. A pod that has ended for good, by itself or by a verdict: the same, but nothing that tells of it is removed.
//  3. No usable sandbox: make one, in the place of those that were lost.
//  4. Else: ephemeral containers; init containers in their order, then all containers; restart, by policy and back-off, what ended; stop what
//     probes condemned.
//  5. Remove dead containers that a later dead one replaces, and sandboxes that hold nothing any more.
func Next(in Input) Plan {
	p := &planner{Input: in}
	switch {
	case !in.Terminating.IsZero():
		p.teardown()
	case in.Verdict != nil || in.Finished || Ended(in.Pod, in.Seen):
		p.quiesce()
		p.collect()
	default:
		if sandbox, ok := p.sandbox(); ok {
			p.containers(sandbox)
		}
		p.collect()
	}
	return p.Plan
}

type planner struct {
	Input
	Plan
}

// do plans an action unless its subject is busy or waits for its next try.
func (p *planner) do(a Action) {
	if p.Memory.Busy[a.Subject()] {
		return
	}
	if retry, failed := p.Memory.Retry[a.Subject()]; failed && p.Now.Before(retry.Until) {
		p.wake(retry.Until)
		return
	}
	p.Actions = append(p.Actions, a)
}

func (p *planner) wake(at time.Time) {
	if p.WakeAt.IsZero() || at.Before(p.WakeAt) {
		p.WakeAt = at
	}
}

// Current is the sandbox that the pod lives in, or lived in last.
func Current(seen Observed) (Sandbox, bool) {
	if len(seen.Sandboxes) == 0 {
		return Sandbox{}, false
	}
	return slices.MaxFunc(seen.Sandboxes, func(a, b Sandbox) int {
		return cmp.Or(cmp.Compare(a.Attempt, b.Attempt), a.CreatedAt.Compare(b.CreatedAt))
	}), true
}

// sandbox answers the sandbox to work in, or plans one.
func (p *planner) sandbox() (Sandbox, bool) {
	current, exists := Current(p.Seen)
	if exists && current.Ready {
		for _, s := range p.Seen.Sandboxes {
			if s.Ready && s.ID != current.ID {
				p.do(Action{Verb: StopSandbox, ID: s.ID, Reason: "a newer sandbox runs"})
			}
		}
		return current, true
	}
	if p.stopAll(stopping) {
		return Sandbox{}, false
	}
	a := Action{Verb: RunSandbox}
	if exists {
		a.Attempt = current.Attempt + 1
	}
	for _, s := range p.Seen.Sandboxes {
		a.Replaces = append(a.Replaces, s.ID)
	}
	p.do(a)
	return Sandbox{}, false
}

func (p *planner) containers(sandbox Sandbox) {
	for i := range p.Pod.Spec.EphemeralContainers { // even before the others: they are for finding out what is wrong
		if c := Ephemeral(&p.Pod.Spec.EphemeralContainers[i]); !p.Memory.Busy[c.Name] {
			p.keep(sandbox, c)
		}
	}
	main := p.Pod.Spec.Containers
	initialised := slices.ContainsFunc(main, func(c corev1.Container) bool {
		_, started := last(p.Seen, c.Name, sandbox.ID)
		return started
	})
	for i := range p.Pod.Spec.InitContainers {
		c := &p.Pod.Spec.InitContainers[i]
		if IsSidecar(c) {
			if !p.keep(sandbox, c) && !initialised {
				return // the next ones wait until it has started
			}
			continue
		}
		if initialised {
			continue
		}
		run, exists := last(p.Seen, c.Name, sandbox.ID)
		if exists && run.State == Exited && run.ExitCode == 0 {
			continue
		}
		p.keep(sandbox, c)
		return
	}
	for i := range main {
		p.keep(sandbox, &main[i])
	}
}

// keep plans what brings a container of a ready sandbox to where it should be, and says whether it is there: running and started.
func (p *planner) keep(sandbox Sandbox, c *corev1.Container) bool {
	run, exists := last(p.Seen, c.Name, sandbox.ID)
	if exists {
		switch run.State {
		case Running:
			health := p.Memory.Health[run.ID]
			switch {
			case run.Image != "" && run.Image != c.Image:
				p.do(p.stop(run, "Container "+c.Name+" definition changed, will be restarted", nil))
			case health.Kill != "":
				p.do(p.stop(run, p.killing(c, health.Kill), health.Grace))
			default:
				p.resize(c, run)
			}
			return health.Started
		case Created:
			if !p.Memory.Busy[c.Name] { // its subject is its own: a start under way owns it
				p.do(Action{Verb: RemoveContainer, ID: run.ID, Name: c.Name, Attempt: run.Attempt, Reason: "it was never started"})
			}
			return false
		case Unknown:
			p.do(p.stop(run, "Container is in \"unknown\" state, try killing it before restart", nil))
			return false
		}
	}
	start := Action{Verb: StartContainer, Name: c.Name, SandboxID: sandbox.ID}
	if before, ran := last(p.Seen, c.Name, ""); ran {
		if !Restarts(p.Pod, c, before) {
			return false
		}
		start.Attempt = before.Attempt + 1
		start.Backoff = NextBackoff(before)
		if due := RestartAt(before); p.Now.Before(due) {
			p.wake(due)
			return false
		}
	}
	p.do(start)
	return false
}

// killing is the reason of a kill with what follows from it. Rules for exit codes are not asked: it has none yet.
func (p *planner) killing(c *corev1.Container, reason string) string {
	policy := corev1.ContainerRestartPolicy(p.Pod.Spec.RestartPolicy)
	if c.RestartPolicy != nil {
		policy = *c.RestartPolicy
	}
	if policy == corev1.ContainerRestartPolicyNever {
		return reason
	}
	return reason + ", will be restarted"
}

func (p *planner) stop(run Container, reason string, grace *int64) Action {
	seconds := p.Pod.Spec.TerminationGracePeriodSeconds
	if p.Verdict != nil && p.Verdict.Grace != nil {
		seconds = p.Verdict.Grace
	}
	if grace != nil {
		seconds = grace
	}
	a := Action{Verb: StopContainer, ID: run.ID, Name: run.Name, SandboxID: run.SandboxID, Attempt: run.Attempt, Reason: reason}
	if seconds != nil {
		a.Grace = time.Duration(*seconds) * time.Second
	}
	if !p.Terminating.IsZero() {
		a.Grace = time.Duration(p.Grace)*time.Second - p.Now.Sub(p.Terminating)
	}
	a.Grace = max(a.Grace, minimumGrace)
	return a
}

// stopAll plans the end of all that runs, and says whether there is still something to wait for. Sidecars go after the others, the last first;
// their hooks run at once, so that the grace period is enough for all.
func (p *planner) stopAll(reason string) bool {
	var ordinary, sidecars []Container
	for _, run := range p.Seen.Containers {
		if run.State != Running && run.State != Unknown {
			continue
		}
		if c := Find(p.Pod, run.Name); c != nil && IsInit(p.Pod, c.Name) && IsSidecar(c) {
			sidecars = append(sidecars, run)
		} else {
			ordinary = append(ordinary, run)
		}
	}
	slices.SortFunc(sidecars, func(a, b Container) int { return cmp.Compare(p.position(b.Name), p.position(a.Name)) })
	phase, later := ordinary, sidecars
	if len(phase) == 0 && len(sidecars) > 0 {
		phase, later = sidecars[:1], sidecars[1:]
	}
	for _, run := range phase {
		p.do(p.stop(run, reason+" "+run.Name, nil))
	}
	for _, run := range later {
		if c := Find(p.Pod, run.Name); c.Lifecycle != nil && c.Lifecycle.PreStop != nil && !p.Memory.Hooked[run.ID] {
			a := p.stop(run, reason+" "+run.Name, nil)
			a.Verb = RunPreStop
			p.do(a)
		}
	}
	return len(phase) > 0 || p.starting()
}

func (p *planner) position(name string) int {
	return slices.IndexFunc(p.Pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == name })
}

// starting says whether a start or a stop is under way: nothing is taken from below it.
func (p *planner) starting() bool {
	if p.Memory.Busy[SandboxSubject] {
		return true
	}
	for c := range All(p.Pod) {
		if p.Memory.Busy[c.Name] {
			return true
		}
	}
	return false
}

// quiesce ends what is left of a pod that has ended for good.
func (p *planner) quiesce() {
	if p.stopAll(stopping) {
		return
	}
	for _, s := range p.Seen.Sandboxes {
		if s.Ready {
			p.do(Action{Verb: StopSandbox, ID: s.ID, Reason: "the pod has ended"})
		}
	}
}

func (p *planner) teardown() {
	if p.stopAll(stopping) {
		return
	}
	known := map[string]bool{}
	for _, s := range p.Seen.Sandboxes {
		known[s.ID] = true
		verb := RemoveSandbox
		if s.Ready {
			verb = StopSandbox
		}
		p.do(Action{Verb: verb, ID: s.ID, Reason: "the pod is removed"})
	}
	for _, run := range p.Seen.Containers {
		if !known[run.SandboxID] {
			p.do(Action{Verb: RemoveContainer, ID: run.ID, Name: run.Name, Attempt: run.Attempt, Reason: "the pod is removed"})
		}
	}
	p.Gone = len(p.Seen.Sandboxes) == 0 && len(p.Seen.Containers) == 0 && len(p.Memory.Busy) == 0
}

// collect removes what nobody will ask for: of each container the last dead run stays, for its log and its exit code.
func (p *planner) collect() {
	used := map[string]bool{}
	for _, run := range p.Seen.Containers {
		used[run.SandboxID] = true
		replaced := run.State == Exited && slices.ContainsFunc(p.Seen.Containers, func(other Container) bool {
			return other.Name == run.Name && other.State == Exited && newer(other, run) > 0
		})
		if replaced {
			p.do(Action{Verb: RemoveContainer, ID: run.ID, Name: run.Name, Attempt: run.Attempt, Reason: "a later run is kept"})
		}
	}
	current, _ := Current(p.Seen)
	for _, s := range p.Seen.Sandboxes {
		if !s.Ready && !used[s.ID] && s.ID != current.ID {
			p.do(Action{Verb: RemoveSandbox, ID: s.ID, Reason: "it is empty"})
		}
	}
}
