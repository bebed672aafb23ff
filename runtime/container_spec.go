package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimd/shimd/image"
	"github.com/shimd/shimd/runtime/ocispec"
	"github.com/shimd/shimd/runtime/ocispec/hostprobe"
	"github.com/shimd/shimd/runtime/ocispec/imageuser"
	"github.com/shimd/shimd/runtime/request"
	"github.com/shimd/shimd/seccomp"
	"github.com/shimd/shimd/security"
)

// specFile is the container's OCI spec, which exec sessions of a later daemon and external runtimes need.
const specFile = "config.json"

// bundle is what Start needs of what Create has computed.
type bundle struct {
	spec   *specs.Spec
	images map[string]*os.File // image volumes, mounted and detached, by destination
}

func (b *bundle) close() {
	for _, mount := range b.images {
		mount.Close()
	}
	*b = bundle{}
}

// makeSpec computes the container's OCI spec.
func (r *Runtime) makeSpec(ctx context.Context, c *container, img image.Image) error {
	in, err := r.specInput(ctx, c, img)
	if err != nil {
		return err
	}
	out, err := ocispec.Generate(in)
	if err != nil {
		return err
	}
	for _, note := range out.Notes {
		r.Logger.Info("container gets less than it asked for", "container", c.id, "note", note)
	}
	if err := r.injectCDI(c, out.Spec, in.Container.CDIDevices); err != nil {
		return err
	}
	if len(out.Volumes) > 0 {
		if err := privateDir(c.files, in.Sandbox.Namespaces.User); err != nil {
			return fmt.Errorf("making the directory of the image's volumes: %w", err)
		}
	}
	for _, volume := range out.Volumes {
		if err := fillVolume(c.rootfs, volume); err != nil {
			return fmt.Errorf("making the image's volume %s: %w", volume.Path, err)
		}
	}
	data, err := json.Marshal(out.Spec)
	if err != nil {
		return fmt.Errorf("encoding the OCI spec: %w", err)
	}
	if err := os.WriteFile(filepath.Join(c.dir, specFile), data, 0o600); err != nil {
		return fmt.Errorf("writing the OCI spec: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bundle.spec = out.Spec
	c.record.StopSignal = firstOf(c.record.Config.StopSignal, img.Config.StopSignal, "SIGTERM")
	c.record.User = containerUser(in.User)
	c.record.Cgroup = r.Cgroups.ContainerPath(c.sandbox.snapshot().Cgroup, string(c.id))
	return nil
}

// specInput gathers what the spec is computed from: facts of the host, of the image's files and of the sandbox.
func (r *Runtime) specInput(ctx context.Context, c *container, img image.Image) (ocispec.Input, error) {
	s := c.sandbox.snapshot()
	cfg := c.record.Config
	in := ocispec.Input{
		ID: string(c.id), SandboxID: string(s.ID), Sandbox: s.Config, Container: cfg,
		Image: img.Config, ImageName: firstOf(cfg.Image.UserSpecified, cfg.Image.Image),
		Host: r.Host, PidsLimit: r.PidsLimit, RootfsPath: r.rootfsPath(c), CgroupPath: r.ociCgroupPath(c, s),
		Files: ocispec.Files{
			Hosts:      filepath.Join(c.sandbox.files, "hosts"),
			Hostname:   filepath.Join(c.sandbox.files, "hostname"),
			ResolvConf: filepath.Join(c.sandbox.files, "resolv.conf"),
			Volumes:    c.files,
		},
		RecursiveReadOnly: s.Config.RuntimeHandler == "",
	}
	// These are the pod's, whatever the container says: it can't be in the pod without sharing them.
	modes := &in.Container.Security.Namespaces
	modes.Network, modes.IPC, modes.User = s.Config.Namespaces.Network, s.Config.Namespaces.IPC, s.Config.Namespaces.User
	if ownIPC(s.Config) {
		in.Files.Shm = c.sandbox.shmPath()
	}
	if !cfg.Security.ReadonlyRootfs {
		// What is written to a volume of the image goes to the container's writable layer, with all else that it writes.
		in.Image.Volumes = nil
	}
	var err error
	if in.Namespaces, err = r.namespacePaths(c, s); err != nil {
		return in, err
	}
	if in.User, err = imageuser.Resolve(c.rootfs, img.Config.User, cfg.Security); err != nil {
		return in, err
	}
	if in.Devices, err = hostprobe.Devices(cfg.Devices); err != nil {
		return in, err
	}
	if in.Container.Mounts, err = hostprobe.Mounts(cfg.Mounts); err != nil {
		return in, err
	}
	if cfg.Security.Privileged {
		if in.HostDevices, err = hostprobe.AllDevices(); err != nil {
			return in, err
		}
	}
	if in.ImageSources, err = r.mountImageVolumes(ctx, c, in.Container.Mounts); err != nil {
		return in, err
	}
	labels := c.snapshot().Labels
	in.ProcessLabel, in.MountLabel = labels.Process, labels.Mount
	if err := relabelMounts(in.Container.Mounts, labels); err != nil {
		return in, err
	}
	return in, r.securityProfiles(&in, cfg.Security)
}

// securityProfiles reads what localhost profiles name.
func (r *Runtime) securityProfiles(in *ocispec.Input, sec request.Security) (err error) {
	if sec.Seccomp.Kind == request.ProfileLocalhost {
		if in.LocalhostSeccomp, err = seccomp.Load(r.SeccompRoot, sec.Seccomp.Localhost); err != nil {
			return err
		}
	}
	if sec.AppArmor.Kind == request.ProfileLocalhost && r.Host.AppArmor {
		if in.Host.AppArmorProfiles, err = security.AppArmorProfiles(); err != nil {
			return err
		}
	}
	return err
}

// namespacePaths says where the namespaces are that the container shares.
func (r *Runtime) namespacePaths(c *container, s sandboxRecord) (ocispec.NamespacePaths, error) {
	var paths ocispec.NamespacePaths
	if ownNetwork(s.Config) {
		paths.Network, paths.UTS = c.sandbox.namespacePath("net"), c.sandbox.namespacePath("uts")
	}
	if ownIPC(s.Config) {
		paths.IPC = c.sandbox.namespacePath("ipc")
	}
	if s.Config.Namespaces.User != nil {
		paths.User = c.sandbox.namespacePath("user")
	}
	modes := c.record.Config.Security.Namespaces
	switch modes.PID {
	case request.NamespaceTarget:
		target, err := r.findContainer(ContainerID(modes.Target))
		if err != nil {
			return paths, fmt.Errorf("linux.security_context.namespace_options.target_id: %w", err)
		}
		if target.sandbox != c.sandbox {
			return paths, fmt.Errorf("linux.security_context.namespace_options.target_id: container %s is of another sandbox: %w", target.id, errdefs.ErrInvalidArgument)
		}
		record := target.snapshot()
		if record.Phase != containerRunning {
			return paths, fmt.Errorf("linux.security_context.namespace_options.target_id: container %s is not running (%s): %w", target.id, record.Phase, errdefs.ErrFailedPrecondition)
		}
		paths.PID = fmt.Sprintf("/proc/%d/ns/pid", record.Process.PID)
	case request.NamespacePod, "":
		if s.Pause.PID != 0 {
			paths.PID = c.sandbox.namespacePath("pid")
		}
	}
	return paths, nil
}

// mountImageVolumes mounts the images that the container wants as volumes, and names each as the spec's source.
func (r *Runtime) mountImageVolumes(ctx context.Context, c *container, mounts []request.Mount) (map[string]string, error) {
	sources := make(map[string]string)
	for _, m := range mounts {
		if m.Image == nil {
			continue
		}
		img, err := r.Images.Get(ctx, m.Image.Image)
		if err != nil {
			return nil, fmt.Errorf("image volume at %s: image %q is not on this node, pull it first: %w", m.ContainerPath, m.Image.Image, err)
		}
		mount, err := r.Images.MountImage(ctx, string(c.id), img.ID, m.ImageSubPath, r.rootfsOptions(c))
		if err != nil {
			return nil, fmt.Errorf("image volume at %s: %w", m.ContainerPath, err)
		}
		c.mu.Lock()
		if c.bundle.images == nil {
			c.bundle.images = make(map[string]*os.File)
		}
		c.bundle.images[filepath.Clean(m.ContainerPath)] = mount
		c.mu.Unlock()
		source, err := r.imageVolumeSource(c, len(sources), mount)
		if err != nil {
			return nil, fmt.Errorf("image volume at %s: %w", m.ContainerPath, err)
		}
		sources[m.ContainerPath] = source
	}
	return sources, nil
}

func (r *Runtime) injectCDI(c *container, spec *specs.Spec, names []string) error {
	if len(names) == 0 {
		return nil
	}
	if r.CDI == nil {
		return fmt.Errorf("CDI_devices %v: CDI is switched off in the configuration: %w", names, errdefs.ErrFailedPrecondition)
	}
	return r.CDI.Inject(spec, names, r.isExternal(c))
}

// readSpec answers the container's spec. Only a container between Create and Start has it in memory.
func (c *container) readSpec() (*specs.Spec, error) {
	c.mu.Lock()
	spec := c.bundle.spec
	c.mu.Unlock()
	if spec != nil {
		return spec, nil
	}
	data, err := os.ReadFile(filepath.Join(c.dir, specFile))
	if err != nil {
		return nil, fmt.Errorf("reading the OCI spec: %w", err)
	}
	spec = &specs.Spec{}
	if err := json.Unmarshal(data, spec); err != nil {
		return nil, fmt.Errorf("reading the OCI spec: %w", err)
	}
	return spec, nil
}

func containerUser(user ocispec.User) *ContainerUser {
	out := &ContainerUser{UID: int64(user.UID), GID: int64(user.GID)}
	for _, group := range user.Groups {
		out.Groups = append(out.Groups, int64(group))
	}
	return out
}

func firstOf(values ...string) string {
	for _, value := range values {
		if value != "" {
			return value
		}
	}
	return ""
}

// containerResources translates limits; what this kernel has not is noted in the log.
func (r *Runtime) containerResources(res *request.Resources) (*specs.LinuxResources, error) {
	limits, notes, err := ocispec.Resources(res, r.Host)
	for _, note := range notes {
		r.Logger.Info("a limit is not as asked", "note", note)
	}
	return limits, err
}

func (r *Runtime) podResources(cfg request.Sandbox) (*specs.LinuxResources, error) {
	limits, notes, err := ocispec.PodResources(cfg, r.Host)
	for _, note := range notes {
		r.Logger.Info("a limit of a pod is not as asked", "note", note)
	}
	return limits, err
}

// makeCgroup makes the container's cgroup with its limits, before any process is in it.
func (r *Runtime) makeCgroup(ctx context.Context, c *container) error {
	c.mu.Lock()
	path, spec := c.record.Cgroup, c.bundle.spec
	err := writeRecord(c.dir, c.record)
	c.mu.Unlock()
	if err != nil {
		return err
	}
	cgroup, err := r.Cgroups.Create(ctx, path, spec.Linux.Resources)
	if err != nil {
		return fmt.Errorf("making cgroup %s: %w", path, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.removed {
		return errors.Join(cgroup.Close())
	}
	c.cgroup = cgroup
	return nil
}
