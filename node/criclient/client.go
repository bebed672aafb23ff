// Package criclient speaks CRI v1 to any runtime on a unix socket.
//
// Inside: the connection, what the runtime has of a pod in the words of package plan, the stream of events, deadlines of calls.
// Not inside: decisions, and how configurations are made (package translate).
package criclient

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	maxMessage = 16 << 20 // bytes, as the kubelet's
	// callTimeout bounds every call but pulls and the stream: the kubelet's runtimeRequestTimeout.
	callTimeout = 2 * time.Minute
	// versionTimeout is short: a runtime that is not there is to be reported, and asked again.
	versionTimeout = 5 * time.Second
	// sandboxTimeout is for what a network plugin may take long for.
	sandboxTimeout = 4 * time.Minute
)

// Client is one connection. It may be used by many goroutines.
type Client struct {
	conn    *grpc.ClientConn
	Runtime criv1.RuntimeServiceClient
	Images  criv1.ImageServiceClient
}

// Dial prepares a connection; it is made, and made again, when it is used. endpoint is unix:///path or a path. Interceptors see each call.
func Dial(endpoint string, interceptors ...grpc.UnaryClientInterceptor) (*Client, error) {
	path := strings.TrimPrefix(endpoint, "unix://")
	if !strings.HasPrefix(path, "/") {
		return nil, fmt.Errorf("connecting to the container runtime: endpoint %q is not unix:///path/to/socket: %w", endpoint, errdefs.ErrInvalidArgument)
	}
	quick := backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second}
	conn, err := grpc.NewClient("unix://"+path,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: quick, MinConnectTimeout: 5 * time.Second}),
		grpc.WithChainUnaryInterceptor(append(interceptors, plain)...),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
	)
	if err != nil {
		return nil, fmt.Errorf("connecting to the container runtime at %s: %w", endpoint, err)
	}
	return &Client{conn: conn, Runtime: criv1.NewRuntimeServiceClient(conn), Images: criv1.NewImageServiceClient(conn)}, nil
}

// plain makes errors of calls say what the runtime says, without gRPC's words around it. They keep their codes.
func plain(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, call grpc.UnaryInvoker, options ...grpc.CallOption) error {
	if err := call(ctx, method, request, answer, conn, options...); err != nil {
		return answered{err}
	}
	return nil
}

type answered struct{ err error }

func (a answered) Error() string { return status.Convert(a.err).Message() }
func (a answered) Unwrap() error { return a.err }

// Close ends the connection and all calls on it.
func (c *Client) Close() error { return c.conn.Close() }

// Version asks who is there, and waits for a runtime that is just starting.
func (c *Client) Version(ctx context.Context) (*criv1.VersionResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	version, err := c.Runtime.Version(ctx, &criv1.VersionRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return nil, fmt.Errorf("asking the container runtime for its version: %w", err)
	}
	return version, nil
}

// Status asks for the runtime's conditions, features and handlers.
func (c *Client) Status(ctx context.Context) (*criv1.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	status, err := c.Runtime.Status(ctx, &criv1.StatusRequest{})
	if err != nil {
		return nil, fmt.Errorf("asking the container runtime for its features: %w", err)
	}
	return status, nil
}

// RunSandbox makes and starts a sandbox with a runtime handler ("" is the default's), and answers its ID.
func (c *Client) RunSandbox(ctx context.Context, config *criv1.PodSandboxConfig, handler string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, sandboxTimeout)
	defer cancel()
	answer, err := c.Runtime.RunPodSandbox(ctx, &criv1.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	if err != nil {
		return "", fmt.Errorf("running a sandbox of pod %s/%s: %w", config.Metadata.Namespace, config.Metadata.Name, err)
	}
	return answer.PodSandboxId, nil
}

// StopSandbox ends a sandbox and all in it; one that is gone has been stopped.
func (c *Client) StopSandbox(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, sandboxTimeout)
	defer cancel()
	if _, err := c.Runtime.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: id}); err != nil && !IsNotFound(err) {
		return fmt.Errorf("stopping sandbox %s: %w", id, err)
	}
	return nil
}

// RemoveSandbox removes a sandbox and all in it; one that is gone has been removed.
func (c *Client) RemoveSandbox(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, sandboxTimeout)
	defer cancel()
	if _, err := c.Runtime.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: id}); err != nil && !IsNotFound(err) {
		return fmt.Errorf("removing sandbox %s: %w", id, err)
	}
	return nil
}

// CreateContainer makes a container and answers its ID.
func (c *Client) CreateContainer(ctx context.Context, sandboxID string, sandbox *criv1.PodSandboxConfig, config *criv1.ContainerConfig) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := c.Runtime.CreateContainer(ctx, &criv1.CreateContainerRequest{PodSandboxId: sandboxID, SandboxConfig: sandbox, Config: config})
	if err != nil {
		return "", fmt.Errorf("creating container %s: %w", config.Metadata.Name, err)
	}
	return answer.ContainerId, nil
}

// StartContainer starts a created one.
func (c *Client) StartContainer(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := c.Runtime.StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: id}); err != nil {
		return fmt.Errorf("starting container %s: %w", id, err)
	}
	return nil
}

// StopContainer asks a container to end, and kills it after the grace period (whole seconds, rounded up); one that is gone has ended.
func (c *Client) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, grace+callTimeout)
	defer cancel()
	seconds := int64((grace + time.Second - 1) / time.Second)
	if _, err := c.Runtime.StopContainer(ctx, &criv1.StopContainerRequest{ContainerId: id, Timeout: seconds}); err != nil && !IsNotFound(err) {
		return fmt.Errorf("stopping container %s: %w", id, err)
	}
	return nil
}

// RemoveContainer removes a container, whether it runs or not; one that is gone has been removed.
func (c *Client) RemoveContainer(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := c.Runtime.RemoveContainer(ctx, &criv1.RemoveContainerRequest{ContainerId: id}); err != nil && !IsNotFound(err) {
		return fmt.Errorf("removing container %s: %w", id, err)
	}
	return nil
}

// Exec runs a command in a container to its end.
func (c *Client) Exec(ctx context.Context, id string, command []string, timeout time.Duration) (output []byte, exitCode int32, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout+callTimeout)
	defer cancel()
	answer, err := c.Runtime.ExecSync(ctx, &criv1.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: int64((timeout + time.Second - 1) / time.Second)})
	if err != nil {
		return nil, 0, fmt.Errorf("running %q in container %s: %w", command, id, err)
	}
	return append(answer.Stdout, answer.Stderr...), answer.ExitCode, nil
}

// Image tells of an image that the node has; nil: it has not.
func (c *Client) Image(ctx context.Context, image string) (*criv1.Image, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := c.Images.ImageStatus(ctx, &criv1.ImageStatusRequest{Image: &criv1.ImageSpec{Image: image}})
	if err != nil {
		return nil, fmt.Errorf("looking for image %s: %w", image, err)
	}
	return answer.Image, nil
}

// Pull fetches an image, however long it takes, and answers what to create containers from. auth may be nil.
func (c *Client) Pull(ctx context.Context, image string, auth *criv1.AuthConfig, sandbox *criv1.PodSandboxConfig) (string, error) {
	answer, err := c.Images.PullImage(ctx, &criv1.PullImageRequest{Image: &criv1.ImageSpec{Image: image, UserSpecifiedImage: image}, Auth: auth, SandboxConfig: sandbox})
	if err != nil {
		return "", fmt.Errorf("pulling image %s: %w", image, err)
	}
	return answer.ImageRef, nil
}

// UpdateContainer changes the resources of a running container.
func (c *Client) UpdateContainer(ctx context.Context, id string, resources *criv1.LinuxContainerResources) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := c.Runtime.UpdateContainerResources(ctx, &criv1.UpdateContainerResourcesRequest{ContainerId: id, Linux: resources}); err != nil {
		return fmt.Errorf("updating the resources of container %s: %w", id, err)
	}
	return nil
}
