package translate

import (
	"maps"
	"slices"
	"strings"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	cdi "tags.cncf.io/container-device-interface/pkg/parser"

	"github.com/shimd/shimd/runtime/request"
)

// Container translates the config of CreateContainer. The request's sandbox_config is not looked at: the sandbox knows its own.
func Container(req *criv1.CreateContainerRequest) (request.Container, error) {
	c := &check{}
	c.required("pod_sandbox_id", req.GetPodSandboxId())
	cfg := req.GetConfig()
	if cfg == nil {
		c.refuse("config", "is required")
		return request.Container{}, c.err()
	}
	out := request.Container{
		Metadata:    c.containerMetadata("config.metadata", cfg.GetMetadata()),
		Image:       c.imageRef("config.image", cfg.GetImage()),
		Command:     c.words("config.command", cfg.GetCommand()),
		Args:        c.words("config.args", cfg.GetArgs()),
		WorkingDir:  cfg.GetWorkingDir(),
		Envs:        c.envs("config.envs", cfg.GetEnvs()),
		Mounts:      c.mounts("config.mounts", cfg.GetMounts()),
		Devices:     c.devices("config.devices", cfg.GetDevices()),
		CDIDevices:  c.cdiDevices("config.CDI_devices", cfg.GetCDIDevices()),
		Labels:      maps.Clone(cfg.GetLabels()),
		Annotations: maps.Clone(cfg.GetAnnotations()),
		LogPath:     cfg.GetLogPath(),
		Stdin:       cfg.GetStdin(),
		StdinOnce:   cfg.GetStdinOnce(),
		TTY:         cfg.GetTty(),
		StopSignal:  c.signal("config.stop_signal", cfg.GetStopSignal()),
		Resources:   c.resources("config.linux.resources", cfg.GetLinux().GetResources()),
		Security:    c.security("config.linux.security_context", cfg.GetLinux().GetSecurityContext()),
	}
	if out.WorkingDir != "" {
		c.absolute("config.working_dir", out.WorkingDir)
	}
	// The runtime opens it as root below the pod's log directory (CVE-2025-0750).
	c.local("config.log_path", out.LogPath)
	if cfg.GetWindows() != nil {
		c.refuse("config.windows", "this is a Linux runtime")
	}
	return out, c.err()
}

func (c *check) containerMetadata(field string, m *criv1.ContainerMetadata) request.ContainerMetadata {
	if m == nil {
		c.refuse(field, "is required")
		return request.ContainerMetadata{}
	}
	c.required(field+".name", m.GetName())
	c.line(field+".name", m.GetName())
	return request.ContainerMetadata{Name: m.GetName(), Attempt: m.GetAttempt()}
}

func (c *check) imageRef(field string, s *criv1.ImageSpec) request.ImageRef {
	c.required(field+".image", s.GetImage())
	c.word(field+".image", s.GetImage())
	return request.ImageRef{
		Image:          s.GetImage(),
		UserSpecified:  s.GetUserSpecifiedImage(),
		Ref:            s.GetImageRef(),
		Annotations:    maps.Clone(s.GetAnnotations()),
		RuntimeHandler: s.GetRuntimeHandler(),
	}
}

func (c *check) words(field string, in []string) []string {
	for i, w := range in {
		c.noNUL(item(field, i), w)
	}
	return slices.Clone(in)
}

func (c *check) envs(field string, in []*criv1.KeyValue) []request.EnvVar {
	var out []request.EnvVar
	for i, e := range in {
		f := item(field, i)
		c.required(f+".key", e.GetKey())
		c.noNUL(f+".key", e.GetKey())
		if strings.Contains(e.GetKey(), "=") {
			c.refuse(f+".key", "%q contains \"=\"", e.GetKey())
		}
		value := string(e.GetValue())
		c.noNUL(f+".value", value)
		out = append(out, request.EnvVar{Key: e.GetKey(), Value: value})
	}
	return out
}

func (c *check) devices(field string, in []*criv1.Device) []request.Device {
	var out []request.Device
	for i, d := range in {
		f := item(field, i)
		c.absolute(f+".container_path", d.GetContainerPath())
		c.absolute(f+".host_path", d.GetHostPath())
		if p := d.GetPermissions(); p == "" || strings.Trim(p, "rwm") != "" {
			c.refuse(f+".permissions", "%q is not one or more of r, w, m", p)
		}
		out = append(out, request.Device{ContainerPath: d.GetContainerPath(), HostPath: d.GetHostPath(), Permissions: d.GetPermissions()})
	}
	return out
}

func (c *check) cdiDevices(field string, in []*criv1.CDIDevice) []string {
	var out []string
	for i, d := range in {
		if _, _, _, err := cdi.ParseQualifiedName(d.GetName()); err != nil {
			c.refuse(item(field, i)+".name", "%q is not a qualified CDI name (vendor/class=name): %v", d.GetName(), err)
		}
		out = append(out, d.GetName())
	}
	return out
}
