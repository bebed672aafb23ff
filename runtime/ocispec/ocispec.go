// Package ocispec translates a request into an OCI runtime specification (1.3).
//
// What belongs inside: pure functions from requests, image configuration and facts about the host to specifications, processes, limits
// and sysctls. The same specification is compiled to a launch program or written as config.json for an external OCI runtime, so it is
// complete and valid for both. What does not: anything that touches the system. Probing the host is package hostprobe, looking up
// users in an image is package imageuser, CDI devices are package cdi; making mounts, namespaces and cgroups is the runtime's.
//
// Image configuration is untrusted here. Annotations of pods, containers and images are data for external runtimes at
// most: none of them changes a limit, a path or a mount (CVE-2023-6476, CVE-2026-53488).
package ocispec

import (
	"fmt"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimd/shimd/image"
	"github.com/shimd/shimd/runtime/request"
	"github.com/shimd/shimd/seccomp"
)

// Input is all that a container's specification is made of.
type Input struct {
	ID        string // the container's
	SandboxID string
	Sandbox   request.Sandbox
	Container request.Container
	Image     image.Config
	ImageName string // for the annotation: what the person wrote

	User       User
	Host       Host
	Files      Files
	Namespaces NamespacePaths
	RootfsPath string // root.path: absolute, or relative to the bundle
	CgroupPath string // linux.cgroupsPath: "/pod/container" (cgroupfs) or "slice:prefix:name" (systemd, external runtimes)
	PidsLimit  int64  // default limit of processes; 0 or negative: none

	// Devices are the request's devices, resolved on the host (hostprobe.Devices), in the request's order.
	Devices []Device
	// HostDevices are all device nodes of the host (hostprobe.AllDevices), for privileged containers only.
	HostDevices []specs.LinuxDevice
	// LocalhostSeccomp is the profile that Security.Seccomp names, parsed (seccomp.Load), when its kind is localhost.
	LocalhostSeccomp *seccomp.Profile
	// ProcessLabel and MountLabel are SELinux labels (security.Labels); "" without SELinux.
	ProcessLabel, MountLabel string
	// ImageSources gives the host path at which the image of an image volume is attached, by the mount's ContainerPath.
	ImageSources map[string]string
	// RecursiveReadOnly tells whether the runtime handler can make recursively read-only mounts.
	RecursiveReadOnly bool
}

// User is the identity of a container's process: what package imageuser finds.
type User struct {
	UID, GID uint32
	// Groups are all supplementary groups to set, the primary group among them (CVE-2022-2995, CVE-2023-25173).
	Groups []uint32
	Name   string // "" when passwd has no entry
	Home   string // absolute; "/" when passwd has none
}

// Files are the host paths of what the sandbox gives to each of its containers. "" leaves one out. In a user namespace they belong to its root.
type Files struct {
	Hosts, Hostname, ResolvConf string
	Shm                         string // the directory where the sandbox's /dev/shm is mounted
	Volumes                     string // the directory of this container under which the image's VOLUMEs get directories
}

// NamespacePaths are the files of the namespaces to join, by mode of the request: a kind that the container does not share needs none.
type NamespacePaths struct {
	Network, IPC, UTS, PID, User string
}

// Output is a specification with what the caller must know besides.
type Output struct {
	Spec *specs.Spec
	// Notes are for the log: where the result is less than what was asked.
	Notes []string
	// Volumes are the image's VOLUMEs that no mount of the request covers: directories that the caller makes, and fills with what the image has there.
	Volumes []Volume
}

// Volume is one VOLUME of an image. Path is clean and absolute; it must still be resolved inside the root file system, where symlinks are the image's (CVE-2022-23648).
type Volume struct {
	Path     string // in the container
	HostPath string // the directory bind mounted there
}

// specVersion is what specifications declare. Later versions only add fields, which are used all the same; but crun up to 1.8 (Debian 12) refuses any
// other minor version than 1.0.
const specVersion = "1.0.2"

// Generate translates a request into a specification.
//
// Errors are of kind invalid argument and name the CRI field, or failed precondition where this host lacks what was asked for.
func Generate(in Input) (*Output, error) {
	g := &generator{in: in, sec: in.Container.Security, out: &Output{}}
	if err := g.checkPrivileged(); err != nil {
		return nil, err
	}
	g.spec = &specs.Spec{
		Version: specVersion,
		Root:    &specs.Root{Path: in.RootfsPath, Readonly: g.sec.ReadonlyRootfs},
		Linux:   &specs.Linux{CgroupsPath: in.CgroupPath, MountLabel: in.MountLabel},
	}
	for _, step := range []func() error{
		g.process,
		g.capabilities,
		g.namespaces,
		g.mounts,
		g.resources,
		g.devices,
		g.masks,
		g.seccomp,
		g.appArmor,
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	g.spec.Annotations = g.annotations()
	g.out.Spec = g.spec
	return g.out, nil
}

// generator is one run of Generate.
type generator struct {
	in   Input
	sec  request.Security
	spec *specs.Spec
	out  *Output
}

func (g *generator) note(format string, args ...any) {
	g.out.Notes = append(g.out.Notes, fmt.Sprintf(format, args...))
}

func (g *generator) checkPrivileged() error {
	if g.sec.Privileged && !g.in.Sandbox.Privileged {
		return invalid("linux.security_context.privileged: a privileged container needs a privileged sandbox")
	}
	return nil
}

// inUserNamespace tells whether the container has a user namespace other than the host's.
func (g *generator) inUserNamespace() bool { return g.sec.Namespaces.User != nil }

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

func unmet(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrFailedPrecondition)...)
}

// errorf makes the inner part of an error that the caller wraps with its field and kind.
func errorf(format string, args ...any) error { return fmt.Errorf(format, args...) }
