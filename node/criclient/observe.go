package criclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/node/plan"
	"github.com/shimd/shimd/node/translate"
)

// IsNotFound says whether a call was about something that is not there.
func IsNotFound(err error) bool { return code(err) == codes.NotFound }

// IsUnavailable says whether nobody answered: the runtime is down or restarting.
func IsUnavailable(err error) bool { return code(err) == codes.Unavailable }

// IsCanceled says whether the caller gave up.
func IsCanceled(err error) bool { return code(err) == codes.Canceled }

// IsUnimplemented says whether the runtime does not have the call.
func IsUnimplemented(err error) bool { return code(err) == codes.Unimplemented }

func code(err error) codes.Code {
	var carrier interface{ GRPCStatus() *status.Status }
	if errors.As(err, &carrier) {
		return carrier.GRPCStatus().Code()
	}
	return codes.Unknown
}

// Observe answers what the runtime has of one pod. Containers are asked for before sandboxes: of a sandbox that dies in between with its
// containers, the other order would tell that it is ready and its container dead, and a start in it would be planned. Dead containers do not change, so those in known (by ID) are not asked for again.
func (c *Client) Observe(ctx context.Context, uid string, known map[string]plan.Container) (plan.Observed, error) {
	var seen plan.Observed
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	mine := map[string]string{translate.LabelPodUID: uid}
	containers, err := c.Runtime.ListContainers(ctx, &criv1.ListContainersRequest{Filter: &criv1.ContainerFilter{LabelSelector: mine}})
	if err != nil {
		return seen, fmt.Errorf("listing the containers of pod %s: %w", uid, err)
	}
	for _, listed := range containers.Containers {
		if before, ok := known[listed.Id]; ok && before.State == plan.Exited {
			seen.Containers = append(seen.Containers, before)
			continue
		}
		container, err := c.container(ctx, listed)
		if IsNotFound(err) {
			continue
		} else if err != nil {
			return seen, err
		}
		seen.Containers = append(seen.Containers, container)
	}
	sandboxes, err := c.Runtime.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{Filter: &criv1.PodSandboxFilter{LabelSelector: mine}})
	if err != nil {
		return seen, fmt.Errorf("listing the sandboxes of pod %s: %w", uid, err)
	}
	for _, listed := range sandboxes.Items {
		sandbox, err := c.sandbox(ctx, listed)
		if IsNotFound(err) {
			continue
		} else if err != nil {
			return seen, err
		}
		seen.Sandboxes = append(seen.Sandboxes, sandbox)
	}
	return seen, nil
}

func (c *Client) sandbox(ctx context.Context, listed *criv1.PodSandbox) (plan.Sandbox, error) {
	sandbox := plan.Sandbox{
		ID: listed.Id, Attempt: listed.GetMetadata().GetAttempt(), Ready: listed.State == criv1.PodSandboxState_SANDBOX_READY,
		CreatedAt: time.Unix(0, listed.CreatedAt), Handler: listed.RuntimeHandler,
	}
	if !sandbox.Ready {
		return sandbox, nil
	}
	answer, err := c.Runtime.PodSandboxStatus(ctx, &criv1.PodSandboxStatusRequest{PodSandboxId: listed.Id})
	if err != nil {
		return sandbox, fmt.Errorf("asking for the status of sandbox %s: %w", listed.Id, err)
	}
	network := answer.GetStatus().GetNetwork()
	if network.GetIp() != "" {
		sandbox.IPs = append(sandbox.IPs, network.GetIp())
	}
	for _, more := range network.GetAdditionalIps() {
		sandbox.IPs = append(sandbox.IPs, more.Ip)
	}
	return sandbox, nil
}

func (c *Client) container(ctx context.Context, listed *criv1.Container) (plan.Container, error) {
	answer, err := c.Runtime.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: listed.Id})
	if err != nil {
		return plan.Container{}, fmt.Errorf("asking for the status of container %s: %w", listed.Id, err)
	}
	s := answer.GetStatus()
	container := plan.Container{
		ID: listed.Id, SandboxID: listed.PodSandboxId, Name: listed.GetMetadata().GetName(), Attempt: listed.GetMetadata().GetAttempt(),
		ExitCode: s.GetExitCode(), Reason: s.GetReason(), Message: s.GetMessage(),
		CreatedAt: moment(s.GetCreatedAt()), StartedAt: moment(s.GetStartedAt()), FinishedAt: moment(s.GetFinishedAt()),
		Image: s.GetAnnotations()[translate.AnnotationImage], ImageID: s.GetImageRef(), Resources: translate.Actual(s.GetResources().GetLinux()),
	}
	if nanoseconds, err := strconv.ParseInt(s.GetAnnotations()[translate.AnnotationBackoff], 10, 64); err == nil && nanoseconds > 0 {
		container.Backoff = time.Duration(nanoseconds)
	}
	if user := s.GetUser().GetLinux(); user != nil {
		container.User = &corev1.ContainerUser{Linux: &corev1.LinuxContainerUser{UID: user.Uid, GID: user.Gid, SupplementalGroups: user.SupplementalGroups}}
	}
	if container.Image == "" {
		container.Image = s.GetImage().GetUserSpecifiedImage()
	}
	switch s.GetState() {
	case criv1.ContainerState_CONTAINER_CREATED:
		container.State = plan.Created
	case criv1.ContainerState_CONTAINER_RUNNING:
		container.State = plan.Running
	case criv1.ContainerState_CONTAINER_EXITED:
		container.State = plan.Exited
	default:
		container.State = plan.Unknown
	}
	return container, nil
}

// moment: CRI counts nanoseconds since 1970, with 0 for never.
func moment(nanoseconds int64) time.Time {
	if nanoseconds <= 0 {
		return time.Time{}
	}
	return time.Unix(0, nanoseconds)
}

// Owned is a pod that an agent of the same folder or node has made.
type Owned struct{ UID, Namespace, Name, File string }

// Owned lists the pods that an agent of an owner (package translate) has made, whatever has become of them elsewhere.
func (c *Client) Owned(ctx context.Context, owner string) ([]Owned, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := c.Runtime.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{
		Filter: &criv1.PodSandboxFilter{LabelSelector: map[string]string{translate.LabelOwner: owner}},
	})
	if err != nil {
		return nil, fmt.Errorf("listing the sandboxes of %s: %w", owner, err)
	}
	var found []Owned
	seen := map[string]bool{}
	for _, sandbox := range answer.Items {
		metadata := sandbox.GetMetadata()
		if uid := metadata.GetUid(); uid != "" && !seen[uid] {
			seen[uid] = true
			found = append(found, Owned{UID: uid, Namespace: metadata.GetNamespace(), Name: metadata.GetName(), File: sandbox.Annotations[translate.AnnotationFile]})
		}
	}
	return found, nil
}

// Events calls listening once the stream stands, then changed with the UID of each pod that something happened to ("" when the runtime does
// not say), until the stream or the context ends. What happened before listening is called has to be listed.
func (c *Client) Events(ctx context.Context, listening func(), changed func(uid string)) error {
	stream, err := c.Runtime.GetContainerEvents(ctx, &criv1.GetEventsRequest{})
	if err != nil {
		return fmt.Errorf("subscribing to container events: %w", err)
	}
	listening()
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("receiving container events: %w", err)
		}
		changed(event.GetPodSandboxStatus().GetMetadata().GetUid())
	}
}
