package ocispec

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimd/shimd/image"
	"github.com/shimd/shimd/runtime/request"
	"github.com/shimd/shimd/seccomp"
)

func testHost() Host {
	return Host{
		CgroupVersion: 2, Hostname: "node", Capabilities: capabilityNames(), OOMScoreAdjMin: -1000,
		HugepageSizes: []string{"2MB", "1GB"}, Hugetlb: true, SwapAccounting: true, Seccomp: true,
		SeccompTarget: seccomp.Target{Arch: "amd64", Kernel: 6, Major: 18},
	}
}

// testInput is an ordinary container of an ordinary pod.
func testInput() Input {
	return Input{
		ID: "c1", SandboxID: "s1",
		Sandbox: request.Sandbox{
			Metadata: request.SandboxMetadata{Name: "pod", Namespace: "ns", UID: "uid"}, Hostname: "pod",
		},
		Container: request.Container{
			Metadata: request.ContainerMetadata{Name: "main"},
			Security: request.Security{
				Namespaces:    request.Namespaces{PID: request.NamespaceContainer},
				MaskedPaths:   []string{"/proc/kcore", "/sys/firmware"},
				ReadonlyPaths: []string{"/proc/sys"},
			},
		},
		Image:     image.Config{Env: []string{"PATH=/bin", "A=image"}, Entrypoint: []string{"/entry"}, Cmd: []string{"cmd"}},
		ImageName: "busybox:latest",
		User:      User{UID: 1000, GID: 1000, Groups: []uint32{1000, 44}, Home: "/home/app"},
		Host:      testHost(),
		Files: Files{
			Hosts: "/run/shimd/s1/hosts", Hostname: "/run/shimd/s1/hostname", ResolvConf: "/run/shimd/s1/resolv.conf",
			Shm: "/run/shimd/s1/shm", Volumes: "/var/lib/shimd/volumes/c1",
		},
		Namespaces: NamespacePaths{Network: "/run/shimd/s1/net", IPC: "/run/shimd/s1/ipc", UTS: "/run/shimd/s1/uts", User: "/run/shimd/s1/user"},
		RootfsPath: "rootfs", CgroupPath: "/pods/s1/c1", PidsLimit: 4096, RecursiveReadOnly: true,
	}
}

func TestGolden(t *testing.T) {
	cases := map[string]func(*Input){
		"plain":      func(*Input) {},
		"privileged": privileged,
		"userns-hostnetwork": func(in *Input) {
			in.Container.Security.Namespaces.User = &request.UserNamespace{
				UIDs: []request.IDMapping{{HostID: 65536, ContainerID: 0, Length: 65536}},
				GIDs: []request.IDMapping{{HostID: 65536, ContainerID: 0, Length: 65536}},
			}
			in.Container.Security.Namespaces.Network = request.NamespaceNode
			in.Image.Volumes = []string{"/data"}
		},
		"limits-and-mounts": func(in *Input) {
			c := &in.Container
			c.Command, c.Args = []string{"sh"}, []string{"-c", "true"}
			c.TTY = true
			c.WorkingDir = "/work"
			c.Envs = []request.EnvVar{{Key: "A", Value: "request"}, {Key: "B", Value: "2"}}
			c.Resources = &request.Resources{
				CPUPeriod: 100000, CPUQuota: 50000, CPUShares: 512, MemoryLimit: 64 << 20, OOMScoreAdj: 900, CPUSetCPUs: "0-1",
				HugepageLimits: []request.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}, {PageSize: "64KB"}},
				Unified:        map[string]string{"memory.high": "1000000"},
			}
			c.Mounts = []request.Mount{
				{ContainerPath: "/a/b", HostPath: "/h/b", ReadOnly: true, RecursiveReadOnly: true},
				{ContainerPath: "/a", HostPath: "/h/a", Propagation: request.PropagationHostToContainer, Options: []string{"noexec"}},
				{ContainerPath: "/etc/hosts", HostPath: "/h/hosts"},
				{ContainerPath: "/img", Image: &request.ImageRef{Image: "x"}},
			}
			in.ImageSources = map[string]string{"/img": "/run/shimd/c1/images/0"}
			c.Security.AddCapabilities = []string{"NET_ADMIN"}
			c.Security.DropCapabilities = []string{"CHOWN"}
			c.Security.AddAmbientCapabilities = []string{"NET_BIND_SERVICE"}
			c.Security.NoNewPrivs, c.Security.ReadonlyRootfs = true, true
			c.Devices = []request.Device{{HostPath: "/dev/fuse", ContainerPath: "/dev/fuse", Permissions: "rw"}}
			in.Devices = []Device{{LinuxDevice: specs.LinuxDevice{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}, Access: "rw"}}
		},
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			in := testInput()
			change(&in)
			out, err := Generate(in)
			if err != nil {
				t.Fatal(err)
			}
			compareGolden(t, name+".json", out)
		})
	}
}

func privileged(in *Input) {
	in.Sandbox.Privileged, in.Container.Security.Privileged = true, true
	in.Container.Security.Seccomp.Kind = request.ProfileRuntimeDefault
	in.HostDevices = []specs.LinuxDevice{{Path: "/dev/sda", Type: "b", Major: 8}}
}

func compareGolden(t *testing.T, file string, value any) {
	t.Helper()
	got, err := json.MarshalIndent(value, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	golden := filepath.Join("testdata", file)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s differs (UPDATE_GOLDEN=1 writes it anew):\n%s", golden, got)
	}
}

func generate(t *testing.T, change func(*Input)) *Output {
	t.Helper()
	in := testInput()
	change(&in)
	out, err := Generate(in)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func mountAt(s *specs.Spec, dest string) *specs.Mount {
	for i := range s.Mounts {
		if s.Mounts[i].Destination == dest {
			return &s.Mounts[i]
		}
	}
	return nil
}

func TestArgs(t *testing.T) {
	img := image.Config{Entrypoint: []string{"e"}, Cmd: []string{"c"}}
	for _, c := range []struct{ command, args, want string }{
		{"", "", "e c"}, {"", "a", "e a"}, {"x", "", "x"}, {"x", "a", "x a"},
	} {
		got, err := processArgs(request.Container{Command: strings.Fields(c.command), Args: strings.Fields(c.args)}, img)
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%+v: %v, %v", c, got, err)
		}
	}
	if _, err := processArgs(request.Container{}, image.Config{Entrypoint: []string{""}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("nothing to run: %v", err)
	}
}

func TestRefused(t *testing.T) {
	for field, change := range map[string]func(*Input){
		"privileged":       func(in *Input) { in.Container.Security.Privileged = true },
		"add_capabilities": func(in *Input) { in.Container.Security.AddCapabilities = []string{"FLY"} },
		"CAP_NET_ADMIN": func(in *Input) {
			in.Container.Security.AddCapabilities = []string{"NET_ADMIN"}
			in.Host.Capabilities = []string{"CAP_CHOWN"}
		},
		"working_dir":    func(in *Input) { in.Container.WorkingDir = "relative" },
		"container_path": func(in *Input) { in.Container.Mounts = []request.Mount{{ContainerPath: "/..", HostPath: "/x"}} },
		"recursive_read_only": func(in *Input) {
			in.Container.Mounts = []request.Mount{{ContainerPath: "/x", HostPath: "/x", RecursiveReadOnly: true}}
		},
		"mount_options": func(in *Input) {
			in.Container.Mounts = []request.Mount{{ContainerPath: "/x", HostPath: "/x", Options: []string{"rw"}}}
		},
		"hugepage_limits": func(in *Input) {
			in.Container.Resources = &request.Resources{HugepageLimits: []request.HugepageLimit{{PageSize: "3MB", Limit: 1}}}
		},
		"unified": func(in *Input) {
			in.Host.CgroupVersion = 1
			in.Container.Resources = &request.Resources{Unified: map[string]string{"a": "b"}}
		},
		"memory_swap_limit": func(in *Input) { in.Container.Resources = &request.Resources{MemoryLimit: 2, MemorySwapLimit: 1} },
		"localhost_ref":     func(in *Input) { in.Container.Security.Seccomp.Kind = request.ProfileLocalhost },
		"apparmor":          func(in *Input) { in.Container.Security.AppArmor.Kind = request.ProfileRuntimeDefault },
		"pid namespace":     func(in *Input) { in.Container.Security.Namespaces.PID = request.NamespacePod },
		"devices":           func(in *Input) { in.Container.Devices = []request.Device{{HostPath: "/dev/x"}} },
		"masked_paths":      func(in *Input) { in.Container.Security.MaskedPaths = []string{"proc"} },
	} {
		in := testInput()
		change(&in)
		_, err := Generate(in)
		if err == nil || !strings.Contains(err.Error(), field) || !(errdefs.IsInvalidArgument(err) || errdefs.IsFailedPrecondition(err)) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestCapabilities(t *testing.T) {
	host := capabilityNames()
	caps := func(sec request.Security) *specs.LinuxCapabilities {
		c, err := Capabilities(sec, host)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if c := caps(request.Security{AddCapabilities: []string{"ALL"}, DropCapabilities: []string{"chown"}}); len(c.Bounding) != len(host)-1 || slices.Contains(c.Effective, "CAP_CHOWN") {
		t.Errorf("ALL but CHOWN: %v", c.Bounding)
	}
	if c := caps(request.Security{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"CAP_KILL"}}); !slices.Equal(c.Permitted, []string{"CAP_KILL"}) {
		t.Errorf("only KILL: %v", c.Permitted)
	}
}

// TestCVE_2022_29162_CVE_2022_27652: nothing is inheritable, in exec neither, but what was asked for as ambient.
func TestCVE_2022_29162_CVE_2022_27652(t *testing.T) {
	for _, change := range []func(*Input){func(*Input) {}, privileged} {
		out := generate(t, change)
		exec, err := ExecProcess(out.Spec, []string{"id"}, true)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(out.Spec.Process.Capabilities.Inheritable) + len(exec.Capabilities.Inheritable); n != 0 {
			t.Errorf("%d inheritable capabilities", n)
		}
	}
}

// TestGHSA_7ww5: powercap is masked also when the request has no list.
func TestGHSA_7ww5(t *testing.T) {
	for _, list := range [][]string{nil, {"/proc/kcore"}, {powercap}} {
		out := generate(t, func(in *Input) { in.Container.Security.MaskedPaths = list })
		if n := strings.Count(strings.Join(out.Spec.Linux.MaskedPaths, "\n"), powercap); n != 1 {
			t.Errorf("%v: %v", list, out.Spec.Linux.MaskedPaths)
		}
	}
}

// TestCVE_2023_25809: only a privileged container can write to the cgroup mount.
func TestCVE_2023_25809(t *testing.T) {
	if o := mountAt(generate(t, func(*Input) {}).Spec, "/sys/fs/cgroup").Options; !slices.Contains(o, "ro") || slices.Contains(o, "rw") {
		t.Errorf("%v", o)
	}
}

// TestCVE_2022_23648: an image's VOLUME never names a path of the host.
func TestCVE_2022_23648(t *testing.T) {
	out := generate(t, func(in *Input) { in.Image.Volumes = []string{"/../../etc", "data", "/a/../../b"} })
	for _, v := range out.Volumes {
		if !strings.HasPrefix(v.HostPath, "/var/lib/shimd/volumes/c1/") || strings.Contains(v.Path+v.HostPath, "..") {
			t.Errorf("%+v", v)
		}
	}
	in := testInput()
	in.Image.Volumes = []string{"/.."}
	if _, err := Generate(in); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a volume at the root: %v", err)
	}
}

// TestCVE_2023_6476_CVE_2024_3154_CVE_2026_53488: annotations and labels change nothing.
func TestCVE_2023_6476_CVE_2024_3154_CVE_2026_53488(t *testing.T) {
	plain, _ := json.Marshal(generate(t, func(*Input) {}))
	hostile := map[string]string{
		"io.kubernetes.cri-o.UnifiedCgroup": "memory.max=max", "org.systemd.property.ExecStart": "'/bin/sh'", "io.kubernetes.cri.container-type": "sandbox",
	}
	other, _ := json.Marshal(generate(t, func(in *Input) {
		in.Sandbox.Annotations, in.Container.Annotations, in.Image.Labels, in.Sandbox.Labels = hostile, hostile, hostile, hostile
	}))
	if string(plain) != string(other) {
		t.Errorf("annotations changed the specification:\n%s", other)
	}
}

// TestCVE_2025_47291: with a user namespace too the container has its cgroup and limits.
func TestCVE_2025_47291(t *testing.T) {
	s := generate(t, func(in *Input) {
		one := []request.IDMapping{{HostID: 1000, Length: 65536}}
		in.Container.Security.Namespaces.User = &request.UserNamespace{UIDs: one, GIDs: one}
		in.Container.Resources = &request.Resources{MemoryLimit: 1 << 20}
	}).Spec
	if s.Linux.CgroupsPath != "/pods/s1/c1" || *s.Linux.Resources.Memory.Limit != 1<<20 {
		t.Errorf("%s %+v", s.Linux.CgroupsPath, s.Linux.Resources)
	}
}

// TestCVE_2022_0811: neither a name nor a value brings in a second setting.
func TestCVE_2022_0811(t *testing.T) {
	for name, value := range map[string]string{
		"kernel.shm_rmid_forced": "1+kernel.core_pattern=|/evil", "net.ipv4.x": "1\nkernel.core_pattern=|/evil",
		"net/../kernel/core_pattern": "|/evil", "net..kernel.core_pattern": "x", "kernel.core_pattern": "|/evil", "": "1", "net": "1",
		"net.ipv4.x\nkernel.y": "1", "net.ipv4.x kernel.y": "1", "/net/ipv4/x": "1",
	} {
		list, err := PodSysctls(request.Sandbox{Sysctls: map[string]string{name: value}})
		if err == nil && name == "kernel.shm_rmid_forced" {
			// The value is written as it is into that one file, where the kernel refuses it.
			continue
		}
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q=%q: %v, %v", name, value, list, err)
		}
	}
}

// TestCVE_2022_0532: sysctls of namespaces that the pod shares with the host are refused.
func TestCVE_2022_0532(t *testing.T) {
	node := request.Namespaces{Network: request.NamespaceNode, IPC: request.NamespaceNode}
	for _, name := range []string{"net.ipv4.ip_forward", "kernel.shmmax", "fs.mqueue.queues_max", "kernel.domainname"} {
		if _, err := PodSysctls(request.Sandbox{Namespaces: node, Sysctls: map[string]string{name: "1"}}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s on the host's namespaces: %v", name, err)
		}
		if _, err := PodSysctls(request.Sandbox{Sysctls: map[string]string{name: "1"}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if list, err := PodSysctls(request.Sandbox{Namespaces: node}); err != nil || len(list) != 0 {
		t.Errorf("defaults on the host's network: %v, %v", list, err)
	}
	list, err := PodSysctls(request.Sandbox{Sysctls: map[string]string{"net/ipv4/conf/eth0.1/forwarding": "1"}})
	if err != nil || list[0].Path != "net/ipv4/conf/eth0.1/forwarding" {
		t.Errorf("%v, %v", list, err)
	}
}

func TestOOMScoreAdjIsRaisedWithANote(t *testing.T) {
	out := generate(t, func(in *Input) {
		in.Host.OOMScoreAdjMin = 0
		in.Container.Resources = &request.Resources{OOMScoreAdj: -997}
	})
	if *out.Spec.Process.OOMScoreAdj != 0 || len(out.Notes) != 1 {
		t.Errorf("%d %v", *out.Spec.Process.OOMScoreAdj, out.Notes)
	}
}

func TestPodResources(t *testing.T) {
	sb := request.Sandbox{
		Resources: &request.Resources{CPUPeriod: 100000, CPUQuota: 100000, MemoryLimit: 100, CPUShares: 2},
		Overhead:  &request.Resources{CPUPeriod: 50000, CPUQuota: 25000, MemoryLimit: 10, CPUShares: 3},
	}
	r, _, err := PodResources(sb, testHost())
	if err != nil || *r.Memory.Limit != 110 || *r.Memory.Swap != 110 || *r.CPU.Quota != 150000 || *r.CPU.Shares != 5 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestSeccompFollowsCapabilities(t *testing.T) {
	for _, admin := range []bool{false, true} {
		s := generate(t, func(in *Input) {
			in.Container.Security.Seccomp.Kind = request.ProfileRuntimeDefault
			if admin {
				in.Container.Security.AddCapabilities = []string{"SYS_ADMIN"}
			}
		}).Spec
		mount := slices.ContainsFunc(s.Linux.Seccomp.Syscalls, func(r specs.LinuxSyscall) bool { return slices.Contains(r.Names, "mount") })
		if mount != admin {
			t.Errorf("SYS_ADMIN %v: mount allowed %v", admin, mount)
		}
	}
}
