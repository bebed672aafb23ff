// Package criclient is a thin CRI client for tests, the bench and the demo. It speaks CRI alone, so it works with any runtime.
//
// It imports nothing of shimd, and holds no assertions.
package criclient

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxMessage is what the kubelet allows for one answer.
const maxMessage = 16 << 20

// Client speaks to one endpoint.
type Client struct {
	criv1.RuntimeServiceClient
	Images criv1.ImageServiceClient
	conn   *grpc.ClientConn
	serial atomic.Uint64
	prefix string // makes the pods of two clients differ
}

// Dial prepares a client for an endpoint such as unix:///run/shimd/shimd.sock. It does not wait for the server.
func Dial(endpoint string) (*Client, error) {
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("preparing a client for %s: %w", endpoint, err)
	}
	return &Client{
		RuntimeServiceClient: criv1.NewRuntimeServiceClient(conn),
		Images:               criv1.NewImageServiceClient(conn),
		conn:                 conn,
		prefix:               strconv.FormatInt(time.Now().UnixNano(), 36),
	}, nil
}

// Close closes the connection. It can only fail by being closed already.
func (c *Client) Close() { _ = c.conn.Close() }

// Pull pulls an image and answers its ID.
func (c *Client) Pull(ctx context.Context, image string) (string, error) {
	answer, err := c.Images.PullImage(ctx, &criv1.PullImageRequest{Image: &criv1.ImageSpec{Image: image}})
	if err != nil {
		return "", fmt.Errorf("pulling %s: %w", image, err)
	}
	return answer.ImageRef, nil
}

// Sandbox makes the configuration of a new pod, unlike any other's.
func (c *Client) Sandbox(name string) *criv1.PodSandboxConfig {
	id := fmt.Sprintf("%s-%d", c.prefix, c.serial.Add(1))
	return &criv1.PodSandboxConfig{
		Metadata: &criv1.PodSandboxMetadata{Name: name, Namespace: "default", Uid: id},
		Hostname: name,
		Labels:   map[string]string{"test": "integration"},
		Linux:    &criv1.LinuxPodSandboxConfig{SecurityContext: &criv1.LinuxSandboxSecurityContext{NamespaceOptions: OwnPID()}},
	}
}

// Container makes the configuration of a container.
func Container(name, image string, command ...string) *criv1.ContainerConfig {
	return &criv1.ContainerConfig{
		Metadata: &criv1.ContainerMetadata{Name: name},
		Image:    &criv1.ImageSpec{Image: image},
		Command:  command,
		LogPath:  name + ".log",
		Linux: &criv1.LinuxContainerConfig{
			Resources:       &criv1.LinuxContainerResources{},
			SecurityContext: &criv1.LinuxContainerSecurityContext{NamespaceOptions: OwnPID()},
		},
	}
}

// OwnPID are the namespaces that the kubelet asks for by default: a PID namespace for each container.
func OwnPID() *criv1.NamespaceOption {
	return &criv1.NamespaceOption{Pid: criv1.NamespaceMode_CONTAINER}
}

// RunSandbox runs a pod.
func (c *Client) RunSandbox(ctx context.Context, config *criv1.PodSandboxConfig) (string, error) {
	answer, err := c.RunPodSandbox(ctx, &criv1.RunPodSandboxRequest{Config: config})
	if err != nil {
		return "", fmt.Errorf("running pod %s: %w", config.Metadata.Name, err)
	}
	return answer.PodSandboxId, nil
}

// Start creates a container in a pod and starts it.
func (c *Client) Start(ctx context.Context, sandbox string, pod *criv1.PodSandboxConfig, config *criv1.ContainerConfig) (string, error) {
	created, err := c.CreateContainer(ctx, &criv1.CreateContainerRequest{PodSandboxId: sandbox, Config: config, SandboxConfig: pod})
	if err != nil {
		return "", fmt.Errorf("creating container %s: %w", config.Metadata.Name, err)
	}
	if _, err := c.StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: created.ContainerId}); err != nil {
		return created.ContainerId, fmt.Errorf("starting container %s: %w", config.Metadata.Name, err)
	}
	return created.ContainerId, nil
}

// Remove stops and removes a pod with its containers.
func (c *Client) Remove(ctx context.Context, sandbox string) error {
	if _, err := c.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: sandbox}); err != nil {
		return fmt.Errorf("stopping pod %s: %w", sandbox, err)
	}
	if _, err := c.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: sandbox}); err != nil {
		return fmt.Errorf("removing pod %s: %w", sandbox, err)
	}
	return nil
}

// RemoveAll stops and removes every pod that the runtime has.
func (c *Client) RemoveAll(ctx context.Context) error {
	pods, err := c.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("listing pods: %w", err)
	}
	for _, pod := range pods.Items {
		if err := c.Remove(ctx, pod.Id); err != nil {
			return err
		}
	}
	return nil
}

// Exec runs a command in a container to its end.
func (c *Client) Exec(ctx context.Context, container string, command ...string) (stdout string, code int32, err error) {
	answer, err := c.ExecSync(ctx, &criv1.ExecSyncRequest{ContainerId: container, Cmd: command, Timeout: 60})
	if err != nil {
		return "", 0, fmt.Errorf("running %q in container %s: %w", command, container, err)
	}
	return string(answer.Stdout), answer.ExitCode, nil
}

// Status asks for a container's status.
func (c *Client) Status(ctx context.Context, container string) (*criv1.ContainerStatus, error) {
	answer, err := c.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: container})
	if err != nil {
		return nil, fmt.Errorf("asking for the status of container %s: %w", container, err)
	}
	return answer.Status, nil
}

// WaitExited waits until a container has ended.
func (c *Client) WaitExited(ctx context.Context, container string) (*criv1.ContainerStatus, error) {
	for {
		status, err := c.Status(ctx, container)
		if err != nil {
			return nil, err
		}
		if status.State == criv1.ContainerState_CONTAINER_EXITED {
			return status, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for container %s to end: %w", container, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
