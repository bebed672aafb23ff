package translate

import (
	"math"
	"net/netip"
	"strings"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/runtime/request"
)

// ID checks that a request names something.
func ID(field, id string) error {
	c := &check{}
	c.required(field, id)
	return c.err()
}

// StopContainer answers the grace period.
func StopContainer(req *criv1.StopContainerRequest) (time.Duration, error) {
	c := &check{}
	c.required("container_id", req.GetContainerId())
	grace := c.seconds("timeout", req.GetTimeout())
	return grace, c.err()
}

// ExecSync answers the timeout; 0 is none.
func ExecSync(req *criv1.ExecSyncRequest) (time.Duration, error) {
	c := &check{}
	c.required("container_id", req.GetContainerId())
	c.command("cmd", req.GetCmd())
	timeout := c.seconds("timeout", req.GetTimeout())
	return timeout, c.err()
}

// Exec checks a request for a stream.
func Exec(req *criv1.ExecRequest) error {
	c := &check{}
	c.required("container_id", req.GetContainerId())
	c.command("cmd", req.GetCmd())
	c.streams(req.GetStdin(), req.GetStdout(), req.GetStderr(), req.GetTty())
	return c.err()
}

// Attach checks a request for a stream.
func Attach(req *criv1.AttachRequest) error {
	c := &check{}
	c.required("container_id", req.GetContainerId())
	c.streams(req.GetStdin(), req.GetStdout(), req.GetStderr(), req.GetTty())
	return c.err()
}

// PortForward checks a request for a stream. No ports is fine: SPDY clients name them per stream.
func PortForward(req *criv1.PortForwardRequest) error {
	c := &check{}
	c.required("pod_sandbox_id", req.GetPodSandboxId())
	for i, port := range req.GetPort() {
		c.between(item("port", i), int64(port), 1, 65535)
	}
	return c.err()
}

// UpdateContainer answers the new resources.
func UpdateContainer(req *criv1.UpdateContainerResourcesRequest) (*request.Resources, error) {
	c := &check{}
	c.required("container_id", req.GetContainerId())
	if req.GetLinux() == nil {
		c.refuse("linux", "is required")
	}
	if req.GetWindows() != nil {
		c.refuse("windows", "this is a Linux runtime")
	}
	res := c.resources("linux", req.GetLinux())
	return res, c.err()
}

// UpdateSandbox answers the new overhead and resources; nil ones stay as they are.
func UpdateSandbox(req *criv1.UpdatePodSandboxResourcesRequest) (overhead, resources *request.Resources, err error) {
	c := &check{}
	c.required("pod_sandbox_id", req.GetPodSandboxId())
	overhead = c.resources("overhead", req.GetOverhead())
	resources = c.resources("resources", req.GetResources())
	return overhead, resources, c.err()
}

// PodCIDR answers the pod CIDR of UpdateRuntimeConfig: "", one, or two separated by a comma (dual stack).
func PodCIDR(req *criv1.UpdateRuntimeConfigRequest) (string, error) {
	c := &check{}
	cidr := req.GetRuntimeConfig().GetNetworkConfig().GetPodCidr()
	if cidr == "" {
		return "", nil
	}
	parts := strings.Split(cidr, ",")
	if len(parts) > 2 {
		c.refuse("runtime_config.network_config.pod_cidr", "%q has more than two ranges", cidr)
	}
	for _, part := range parts {
		if _, err := netip.ParsePrefix(strings.TrimSpace(part)); err != nil {
			c.refuse("runtime_config.network_config.pod_cidr", "%q is not a CIDR", part)
		}
	}
	return cidr, c.err()
}

func (c *check) command(field string, cmd []string) {
	if len(cmd) == 0 {
		c.refuse(field, "is required")
	}
	for i, word := range cmd {
		c.noNUL(item(field, i), word)
	}
}

func (c *check) streams(stdin, stdout, stderr, tty bool) {
	if !stdin && !stdout && !stderr {
		c.refuse("stdin, stdout, stderr", "at least one must be true")
	}
	if tty && stderr {
		c.refuse("stderr", "cannot be true together with tty: a terminal has one output")
	}
}

// seconds cuts what a Duration cannot hold, 292 years, rather than letting it wrap around to "at once".
func (c *check) seconds(field string, s int64) time.Duration {
	if s < 0 {
		c.refuse(field, "%d is negative", s)
		return 0
	}
	return time.Duration(min(s, int64(math.MaxInt64/time.Second))) * time.Second
}
