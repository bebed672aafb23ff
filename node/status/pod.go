package status

import (
	"path/filepath"

	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/node/plan"
	"github.com/shimd/shimd/node/translate"
)

// PhaseTerminating is of a pod that has to go.
const PhaseTerminating = "Terminating"

// Extra is what a pod's short status holds beside the one for the API server.
type Extra struct {
	File            string
	LogDir          string
	Terminating     bool
	Reason, Message string // what keeps the pod as a whole from running
}

// Of is the short form of a pod's status: what people and scripts look for.
func Of(pod *corev1.Pod, of *corev1.PodStatus, extra Extra) Pod {
	s := Pod{
		Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID), File: extra.File, QOS: string(of.QOSClass), Phase: string(of.Phase),
		Reason: of.Reason, Message: of.Message, Containers: []Container{},
	}
	if ready := Condition(of.Conditions, corev1.PodReady); ready != nil {
		s.Ready = ready.Status == corev1.ConditionTrue
	}
	for _, ip := range of.PodIPs {
		s.IPs = append(s.IPs, ip.IP)
	}
	if of.StartTime != nil {
		s.StartedAt = of.StartTime.Time
	}
	if extra.Terminating {
		s.Phase, s.Ready = PhaseTerminating, false
	}
	if extra.Message != "" && s.Message == "" {
		s.Reason, s.Message = extra.Reason, extra.Message
	}
	logs := translate.LogDirectory(extra.LogDir, pod)
	for c := range plan.All(pod) {
		list := of.ContainerStatuses
		switch {
		case plan.IsInit(pod, c.Name):
			list = of.InitContainerStatuses
		case plan.IsEphemeral(pod, c.Name):
			list = of.EphemeralContainerStatuses
		}
		short := shortOf(c, find(list, c.Name))
		short.Init = plan.IsInit(pod, c.Name)
		if short.ID != "" {
			short.Log = filepath.Join(logs, translate.LogPath(c.Name, short.Restarts))
		}
		s.Containers = append(s.Containers, short)
	}
	return s
}

func shortOf(c *corev1.Container, of *corev1.ContainerStatus) Container {
	s := Container{
		Name: c.Name, Image: c.Image, ImageID: of.ImageID, ID: Identifier(of.ContainerID), Ready: of.Ready, Restarts: uint32(max(of.RestartCount, 0)),
		Started: of.Started != nil && *of.Started, State: "waiting",
	}
	switch state := of.State; {
	case state.Running != nil:
		s.State, s.StartedAt = "running", state.Running.StartedAt.Time
	case state.Terminated != nil:
		end := state.Terminated
		s.State, s.Reason, s.Message, s.ExitCode = "terminated", end.Reason, end.Message, end.ExitCode
		s.StartedAt, s.FinishedAt = end.StartedAt.Time, end.FinishedAt.Time
	case state.Waiting != nil:
		s.Reason, s.Message = state.Waiting.Reason, state.Waiting.Message
	}
	if end := of.LastTerminationState.Terminated; end != nil {
		s.Last = &Ended{ID: Identifier(end.ContainerID), ExitCode: end.ExitCode, Reason: end.Reason, Message: end.Message, FinishedAt: end.FinishedAt.Time}
	}
	return s
}

// Identifier is the runtime's ID in a status's, which has the runtime's name before it.
func Identifier(id string) string {
	for i := 0; i+3 <= len(id); i++ {
		if id[i:i+3] == "://" {
			return id[i+3:]
		}
	}
	return id
}
