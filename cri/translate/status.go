package translate

import (
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/runtime"
	"github.com/shimd/shimd/runtime/request"
)

// ToSandboxStatus answers a sandbox's status as CRI words it.
func ToSandboxStatus(s runtime.SandboxStatus) *criv1.PodSandboxStatus {
	out := &criv1.PodSandboxStatus{
		Id:             string(s.ID),
		Metadata:       toSandboxMetadata(s.Config.Metadata),
		State:          toSandboxState(s.State),
		CreatedAt:      nanos(s.CreatedAt),
		Network:        &criv1.PodSandboxNetworkStatus{},
		Linux:          &criv1.LinuxPodSandboxStatus{Namespaces: &criv1.Namespace{Options: toNamespaces(s.Config.Namespaces)}},
		Labels:         s.Config.Labels,
		Annotations:    s.Config.Annotations,
		RuntimeHandler: s.Config.RuntimeHandler,
	}
	for i, ip := range s.IPs {
		if i == 0 {
			out.Network.Ip = ip
			continue
		}
		out.Network.AdditionalIps = append(out.Network.AdditionalIps, &criv1.PodIP{Ip: ip})
	}
	return out
}

// ToSandbox answers a sandbox as an item of a list.
func ToSandbox(s runtime.SandboxStatus) *criv1.PodSandbox {
	return &criv1.PodSandbox{
		Id:             string(s.ID),
		Metadata:       toSandboxMetadata(s.Config.Metadata),
		State:          toSandboxState(s.State),
		CreatedAt:      nanos(s.CreatedAt),
		Labels:         s.Config.Labels,
		Annotations:    s.Config.Annotations,
		RuntimeHandler: s.Config.RuntimeHandler,
	}
}

// toSandboxState translates a sandbox's state.
func toSandboxState(s runtime.SandboxState) criv1.PodSandboxState {
	if s == runtime.SandboxReady {
		return criv1.PodSandboxState_SANDBOX_READY
	}
	return criv1.PodSandboxState_SANDBOX_NOTREADY
}

// ToContainerStatus answers a container's status as CRI words it.
func ToContainerStatus(s runtime.ContainerStatus) *criv1.ContainerStatus {
	out := &criv1.ContainerStatus{
		Id:          string(s.ID),
		Metadata:    toContainerMetadata(s.Config.Metadata),
		State:       toContainerState(s.State),
		CreatedAt:   nanos(s.CreatedAt),
		StartedAt:   nanos(s.StartedAt),
		FinishedAt:  nanos(s.FinishedAt),
		ExitCode:    s.ExitCode,
		Image:       toStatusImage(s.Config.Image),
		ImageRef:    s.ImageRef,
		ImageId:     s.ImageID,
		Reason:      s.Reason,
		Message:     s.Message,
		Labels:      s.Config.Labels,
		Annotations: s.Config.Annotations,
		LogPath:     s.LogPath,
		StopSignal:  toSignal(s.StopSignal),
	}
	for _, m := range s.Config.Mounts {
		out.Mounts = append(out.Mounts, toMount(m))
	}
	if s.Resources != nil {
		out.Resources = &criv1.ContainerResources{Linux: toResources(s.Resources)}
	}
	if s.User != nil {
		out.User = &criv1.ContainerUser{Linux: &criv1.LinuxContainerUser{Uid: s.User.UID, Gid: s.User.GID, SupplementalGroups: s.User.Groups}}
	}
	return out
}

// ToContainer answers a container as an item of a list.
func ToContainer(s runtime.ContainerStatus) *criv1.Container {
	return &criv1.Container{
		Id:           string(s.ID),
		PodSandboxId: string(s.Sandbox),
		Metadata:     toContainerMetadata(s.Config.Metadata),
		Image:        toStatusImage(s.Config.Image),
		ImageRef:     s.ImageRef,
		ImageId:      s.ImageID,
		State:        toContainerState(s.State),
		CreatedAt:    nanos(s.CreatedAt),
		Labels:       s.Config.Labels,
		Annotations:  s.Config.Annotations,
	}
}

// toContainerState translates a container's state.
func toContainerState(s runtime.ContainerState) criv1.ContainerState {
	switch s {
	case runtime.ContainerCreated:
		return criv1.ContainerState_CONTAINER_CREATED
	case runtime.ContainerRunning:
		return criv1.ContainerState_CONTAINER_RUNNING
	case runtime.ContainerExited:
		return criv1.ContainerState_CONTAINER_EXITED
	default:
		return criv1.ContainerState_CONTAINER_UNKNOWN
	}
}

// ToEvent translates an event with the statuses it carries.
func ToEvent(e runtime.Event) *criv1.ContainerEventResponse {
	types := map[runtime.EventType]criv1.ContainerEventType{
		runtime.EventCreated: criv1.ContainerEventType_CONTAINER_CREATED_EVENT,
		runtime.EventStarted: criv1.ContainerEventType_CONTAINER_STARTED_EVENT,
		runtime.EventStopped: criv1.ContainerEventType_CONTAINER_STOPPED_EVENT,
		runtime.EventDeleted: criv1.ContainerEventType_CONTAINER_DELETED_EVENT,
	}
	out := &criv1.ContainerEventResponse{ContainerId: e.ContainerID, ContainerEventType: types[e.Type], CreatedAt: nanos(e.Time)}
	if e.Sandbox != nil {
		out.PodSandboxStatus = ToSandboxStatus(*e.Sandbox)
	}
	for _, c := range e.Containers {
		out.ContainersStatuses = append(out.ContainersStatuses, ToContainerStatus(c))
	}
	return out
}

func toSandboxMetadata(m request.SandboxMetadata) *criv1.PodSandboxMetadata {
	return &criv1.PodSandboxMetadata{Name: m.Name, Uid: m.UID, Namespace: m.Namespace, Attempt: m.Attempt}
}

func toContainerMetadata(m request.ContainerMetadata) *criv1.ContainerMetadata {
	return &criv1.ContainerMetadata{Name: m.Name, Attempt: m.Attempt}
}

// toStatusImage names the image as a person did: the kubelet creates containers by image ID and shows this name in the pod's status.
func toStatusImage(r request.ImageRef) *criv1.ImageSpec {
	out := toImageSpec(r)
	if r.UserSpecified != "" {
		out.Image = r.UserSpecified
	}
	return out
}

func toImageSpec(r request.ImageRef) *criv1.ImageSpec {
	return &criv1.ImageSpec{
		Image:              r.Image,
		Annotations:        r.Annotations,
		UserSpecifiedImage: r.UserSpecified,
		RuntimeHandler:     r.RuntimeHandler,
		ImageRef:           r.Ref,
	}
}

func toMount(m request.Mount) *criv1.Mount {
	out := &criv1.Mount{
		ContainerPath:     m.ContainerPath,
		HostPath:          m.HostPath,
		Readonly:          m.ReadOnly,
		SelinuxRelabel:    m.SELinuxRelabel,
		UidMappings:       toIDMappings(m.UIDs),
		GidMappings:       toIDMappings(m.GIDs),
		RecursiveReadOnly: m.RecursiveReadOnly,
		ImageSubPath:      m.ImageSubPath,
		MountOptions:      m.Options,
	}
	switch m.Propagation {
	case request.PropagationHostToContainer:
		out.Propagation = criv1.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	case request.PropagationBidirectional:
		out.Propagation = criv1.MountPropagation_PROPAGATION_BIDIRECTIONAL
	}
	if m.Image != nil {
		out.Image = toImageSpec(*m.Image)
	}
	return out
}

func toIDMappings(in []request.IDMapping) []*criv1.IDMapping {
	var out []*criv1.IDMapping
	for _, m := range in {
		out = append(out, &criv1.IDMapping{HostId: m.HostID, ContainerId: m.ContainerID, Length: m.Length})
	}
	return out
}

func toNamespaces(n request.Namespaces) *criv1.NamespaceOption {
	modes := map[request.NamespaceMode]criv1.NamespaceMode{
		request.NamespaceContainer: criv1.NamespaceMode_CONTAINER,
		request.NamespaceNode:      criv1.NamespaceMode_NODE,
		request.NamespaceTarget:    criv1.NamespaceMode_TARGET,
	}
	out := &criv1.NamespaceOption{Network: modes[n.Network], Pid: modes[n.PID], Ipc: modes[n.IPC], TargetId: n.Target}
	if n.User != nil {
		out.UsernsOptions = &criv1.UserNamespace{Uids: toIDMappings(n.User.UIDs), Gids: toIDMappings(n.User.GIDs)}
	}
	return out
}

// nanos is 0 for a time that is not set, as CRI has it.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
