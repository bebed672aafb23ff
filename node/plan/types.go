package plan

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// State of a container, as the runtime tells it.
//
//	(none) --create--> Created --start--> Running --ends, or is stopped--> Exited --remove--> (none)
//
// A container found Created that nobody is starting was left by a crash or a failed start.
type State int

// The states of a container. Unknown ones are stopped and then treated as what they have become.
const (
	Created State = iota
	Running
	Exited
	Unknown
)

// Container is one run of a container of the pod.
type Container struct {
	ID, SandboxID, Name string
	Attempt             uint32 // how many runs of the same name went before
	State               State
	ExitCode            int32
	Reason, Message     string
	CreatedAt           time.Time
	StartedAt           time.Time // zero: never
	FinishedAt          time.Time // zero: not yet
	Backoff             time.Duration
	Image, ImageID      string
	User                *corev1.ContainerUser        // who its first process is, where the runtime tells
	Resources           *corev1.ResourceRequirements // what holds now, as far as the runtime tells; nil: it does not
}

// Sandbox is one environment made for the pod; a pod has another one when the first was lost.
type Sandbox struct {
	ID        string
	Attempt   uint32
	Ready     bool
	CreatedAt time.Time
	IPs       []string
	Handler   string // the runtime's, as the pod's runtime class names it; empty: its default one
}

// Observed is what the runtime has of a pod.
type Observed struct {
	Sandboxes  []Sandbox
	Containers []Container
}

// Retry says that the last try of a subject failed, and when the next one may be.
type Retry struct {
	Reason, Message string // as of a waiting container: ImagePullBackOff, CreateContainerError, ...
	Until           time.Time
	Delay           time.Duration
}

// Verdict ends a pod for good, whatever its containers do. What tells of it stays until the pod is removed.
type Verdict struct {
	Reason, Message string // of the pod's status
	Grace           *int64 // seconds to end in, instead of the pod's
	Disrupted       bool   // the node ended it for want of something: it gets the condition DisruptionTarget
}

// Health is what probes and hooks found of a running container.
type Health struct {
	Started bool   // no startup probe, or it succeeded
	Ready   bool   // no readiness probe, or it succeeds
	Kill    string // why the container has to be stopped; empty: it has not
	Grace   *int64 // seconds to end in then, instead of the pod's
}

// SandboxSubject is the subject of what is done to the pod's environment; those of containers are their names.
const SandboxSubject = ""

// Memory is what the worker knows beside the runtime's answer. All of it may be lost: then something is tried sooner than it would have been.
type Memory struct {
	Busy   map[string]bool   // by subject: an action is under way
	Retry  map[string]Retry  // by subject
	Health map[string]Health // by container ID; a container that is not in it has not been looked at
	Hooked map[string]bool   // by container ID: its preStop hook has run
	// Applied is, by container ID, the Fingerprint of the resources that the runtime was last told.
	Applied map[string]string
}

// Input is all that a decision depends on.
type Input struct {
	Pod         *corev1.Pod
	Terminating time.Time // since when the pod has to go; zero: it has to run
	Grace       int64     // seconds from Terminating on
	Verdict     *Verdict
	Finished    bool      // the API server has it as Succeeded or Failed: nothing is started any more
	StartedAt   time.Time // when the agent took the pod on
	Seen        Observed
	Memory      Memory
	Now         time.Time
}

// Verb is a kind of action.
type Verb string

// The verbs. Each is one flow of package node.
const (
	RunSandbox      Verb = "RunSandbox"      // Attempt; Replaces are stopped first
	StopSandbox     Verb = "StopSandbox"     // ID
	RemoveSandbox   Verb = "RemoveSandbox"   // ID, with its containers
	StartContainer  Verb = "StartContainer"  // Name, Attempt, SandboxID, Backoff; pulls, creates and starts
	RunPreStop      Verb = "RunPreStop"      // ID, Name, Grace; the hook of a container whose turn to stop comes later
	StopContainer   Verb = "StopContainer"   // ID, Name, Grace, Reason; with its preStop hook, unless that has run
	UpdateContainer Verb = "UpdateContainer" // ID, Name; the resources of a running one
	RemoveContainer Verb = "RemoveContainer" // ID, Name, Attempt
)

// Action is one thing to do. Actions of different subjects may run at the same time; one of a busy subject is never planned.
type Action struct {
	Verb      Verb
	Name      string // of the container
	ID        string
	SandboxID string
	Attempt   uint32
	Backoff   time.Duration // recorded with the container: how long its successor waits
	Grace     time.Duration
	Reason    string // why, in the kubelet's words where it has some: it becomes an event
	Replaces  []string
}

// Subject is what the action is done to.
func (a Action) Subject() string {
	switch a.Verb {
	case StopContainer, StartContainer:
		return a.Name
	case RunPreStop:
		return "hook " + a.ID
	case UpdateContainer:
		return "update " + a.ID
	case RemoveContainer:
		return "remove " + a.ID
	case RemoveSandbox, StopSandbox:
		return "sandbox " + a.ID
	}
	return SandboxSubject
}

// Plan is what to do now, and when to look again if nothing happens before.
type Plan struct {
	Actions []Action
	WakeAt  time.Time // zero: nothing is due
	Gone    bool      // a terminating pod has left nothing in the runtime
}
