package translate

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/runtime/request"
)

// kubeletContainer is a request that uses everything.
func kubeletContainer() *criv1.CreateContainerRequest {
	return &criv1.CreateContainerRequest{
		PodSandboxId: "sb",
		Config: &criv1.ContainerConfig{
			Metadata:   &criv1.ContainerMetadata{Name: "nginx", Attempt: 1},
			Image:      &criv1.ImageSpec{Image: "sha256:1", UserSpecifiedImage: "nginx:1", ImageRef: "r", RuntimeHandler: "runc", Annotations: map[string]string{"i": "j"}},
			Command:    []string{"sh"},
			Args:       []string{"-c", "true"},
			WorkingDir: "/work",
			Envs:       []*criv1.KeyValue{{Key: "A", Value: []byte("b\n\xff")}, {Key: "EMPTY"}},
			Mounts: []*criv1.Mount{
				{ContainerPath: "/data", HostPath: "/var/data", Readonly: true, RecursiveReadOnly: true, SelinuxRelabel: true, MountOptions: []string{"noexec", "nosuid"},
					UidMappings: []*criv1.IDMapping{{HostId: 1000, Length: 10}}, GidMappings: []*criv1.IDMapping{{HostId: 1000, Length: 10}}},
				{ContainerPath: "/host", HostPath: "/", Propagation: criv1.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
				{ContainerPath: "/image", Image: &criv1.ImageSpec{Image: "sha256:2"}, ImageSubPath: "etc/x"},
			},
			Devices:     []*criv1.Device{{ContainerPath: "/dev/fuse", HostPath: "/dev/fuse", Permissions: "rwm"}},
			CDIDevices:  []*criv1.CDIDevice{{Name: "vendor.com/gpu=gpu0"}},
			Labels:      map[string]string{"app": "web"},
			Annotations: map[string]string{"note": "x"},
			LogPath:     "nginx/1.log",
			Stdin:       true, StdinOnce: true, Tty: true,
			StopSignal: criv1.Signal_SIGNAL_SIGRTMINPLUS3,
			Linux: &criv1.LinuxContainerConfig{
				Resources: &criv1.LinuxContainerResources{
					CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: 1 << 30, MemorySwapLimitInBytes: 2 << 30, OomScoreAdj: 999,
					CpusetCpus: "0-1,3", CpusetMems: "0", HugepageLimits: []*criv1.HugepageLimit{{PageSize: "1GB", Limit: 1 << 30}},
					Unified: map[string]string{"memory.high": "100", "hugetlb.2MB.max": "0"},
				},
				SecurityContext: &criv1.LinuxContainerSecurityContext{
					Capabilities: &criv1.Capability{AddCapabilities: []string{"CAP_NET_ADMIN", "sys_time"}, DropCapabilities: []string{"ALL"}, AddAmbientCapabilities: []string{"NET_BIND_SERVICE"}},
					Privileged:   true,
					NamespaceOptions: &criv1.NamespaceOption{
						Pid: criv1.NamespaceMode_TARGET, TargetId: "other",
					},
					SelinuxOptions:           &criv1.SELinuxOption{Type: "t"},
					RunAsUser:                &criv1.Int64Value{Value: 1000},
					RunAsGroup:               &criv1.Int64Value{Value: 2000},
					ReadonlyRootfs:           true,
					SupplementalGroups:       []int64{5, 6},
					SupplementalGroupsPolicy: criv1.SupplementalGroupsPolicy_Strict,
					NoNewPrivs:               true,
					MaskedPaths:              []string{"/proc/kcore"},
					ReadonlyPaths:            []string{"/proc/sys"},
					Seccomp:                  &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Localhost, LocalhostRef: "/var/lib/kubelet/seccomp/a.json"},
					Apparmor:                 &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Unconfined},
				},
			},
		},
	}
}

func TestContainer(t *testing.T) {
	got, err := Container(kubeletContainer())
	if err != nil {
		t.Fatal(err)
	}
	uid, gid := int64(1000), int64(2000)
	ids := []request.IDMapping{{HostID: 1000, Length: 10}}
	want := request.Container{
		Metadata:   request.ContainerMetadata{Name: "nginx", Attempt: 1},
		Image:      request.ImageRef{Image: "sha256:1", UserSpecified: "nginx:1", Ref: "r", RuntimeHandler: "runc", Annotations: map[string]string{"i": "j"}},
		Command:    []string{"sh"},
		Args:       []string{"-c", "true"},
		WorkingDir: "/work",
		Envs:       []request.EnvVar{{Key: "A", Value: "b\n\xff"}, {Key: "EMPTY"}},
		Mounts: []request.Mount{
			{ContainerPath: "/data", HostPath: "/var/data", ReadOnly: true, RecursiveReadOnly: true, SELinuxRelabel: true, Propagation: request.PropagationPrivate,
				UIDs: ids, GIDs: ids, Options: []string{"noexec", "nosuid"}},
			{ContainerPath: "/host", HostPath: "/", Propagation: request.PropagationHostToContainer},
			{ContainerPath: "/image", Image: &request.ImageRef{Image: "sha256:2"}, ImageSubPath: "etc/x", ReadOnly: true, Propagation: request.PropagationPrivate},
		},
		Devices:     []request.Device{{ContainerPath: "/dev/fuse", HostPath: "/dev/fuse", Permissions: "rwm"}},
		CDIDevices:  []string{"vendor.com/gpu=gpu0"},
		Labels:      map[string]string{"app": "web"},
		Annotations: map[string]string{"note": "x"},
		LogPath:     "nginx/1.log",
		Stdin:       true, StdinOnce: true, TTY: true,
		StopSignal: "SIGRTMIN+3",
		Resources: &request.Resources{
			CPUPeriod: 100000, CPUQuota: 50000, CPUShares: 512, MemoryLimit: 1 << 30, MemorySwapLimit: 2 << 30, OOMScoreAdj: 999,
			CPUSetCPUs: "0-1,3", CPUSetMems: "0", HugepageLimits: []request.HugepageLimit{{PageSize: "1GB", Limit: 1 << 30}},
			Unified: map[string]string{"memory.high": "100", "hugetlb.2MB.max": "0"},
		},
		Security: request.Security{
			AddCapabilities: []string{"NET_ADMIN", "SYS_TIME"}, DropCapabilities: []string{"ALL"}, AddAmbientCapabilities: []string{"NET_BIND_SERVICE"},
			Privileged: true,
			Namespaces: request.Namespaces{Network: request.NamespacePod, PID: request.NamespaceTarget, IPC: request.NamespacePod, Target: "other"},
			SELinux:    request.SELinuxLabel{Type: "t"},
			RunAsUser:  &uid, RunAsGroup: &gid, ReadonlyRootfs: true, SupplementalGroups: []int64{5, 6}, StrictSupplementalGroups: true, NoNewPrivs: true,
			MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"},
			Seccomp:  request.SecurityProfile{Kind: request.ProfileLocalhost, Localhost: "/var/lib/kubelet/seccomp/a.json"},
			AppArmor: request.SecurityProfile{Kind: request.ProfileUnconfined},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// spoiled answers what Container says of a request with one thing wrong.
func spoiled(spoil func(*criv1.ContainerConfig)) error {
	req := proto.CloneOf(kubeletContainer())
	spoil(req.Config)
	_, err := Container(req)
	return err
}

func TestContainerRefusals(t *testing.T) {
	type cfg = criv1.ContainerConfig
	for _, c := range []struct {
		field string
		spoil func(*cfg)
	}{
		{"config.metadata", func(c *cfg) { c.Metadata = nil }},
		{"config.metadata.name", func(c *cfg) { c.Metadata.Name = "" }},
		{"config.metadata.name", func(c *cfg) { c.Metadata.Name = "\x1b[2J" }},
		{"config.image.image", func(c *cfg) { c.Image = nil }},
		{"config.image.image", func(c *cfg) { c.Image.Image = "a b" }},
		{"config.command[0]", func(c *cfg) { c.Command[0] = "a\x00b" }},
		{"config.args[1]", func(c *cfg) { c.Args[1] = "\x00" }},
		{"config.working_dir", func(c *cfg) { c.WorkingDir = "work" }},
		{"config.envs[0].key", func(c *cfg) { c.Envs[0].Key = "" }},
		{"config.envs[0].key", func(c *cfg) { c.Envs[0].Key = "A=B" }},
		{"config.envs[1].value", func(c *cfg) { c.Envs[1].Value = []byte{0} }},
		{"config.mounts[0].container_path", func(c *cfg) { c.Mounts[0].ContainerPath = "" }},
		{"config.mounts[0].container_path", func(c *cfg) { c.Mounts[0].ContainerPath = "data" }},
		{"config.mounts[0].container_path", func(c *cfg) { c.Mounts[0].ContainerPath = "/./" }},
		{"config.mounts[0].host_path", func(c *cfg) { c.Mounts[0].HostPath = "" }},
		{"config.mounts[0].host_path", func(c *cfg) { c.Mounts[0].HostPath = "relative" }},
		{"config.mounts[0].image_sub_path", func(c *cfg) { c.Mounts[0].ImageSubPath = "x" }},
		{"config.mounts[0].recursive_read_only", func(c *cfg) { c.Mounts[0].Readonly = false }},
		{"config.mounts[0].recursive_read_only", func(c *cfg) { c.Mounts[0].Propagation = criv1.MountPropagation_PROPAGATION_BIDIRECTIONAL }},
		{"config.mounts[0].propagation", func(c *cfg) { c.Mounts[0].Propagation = 5 }},
		{"config.mounts[0].uidMappings", func(c *cfg) { c.Mounts[0].GidMappings = nil }},
		{"config.mounts[0].uidMappings[0].length", func(c *cfg) { c.Mounts[0].UidMappings[0].Length = 0 }},
		{"config.mounts[0].gidMappings[0].container_id", func(c *cfg) { c.Mounts[0].GidMappings[0].ContainerId = math.MaxUint32 }},
		{"config.mounts[0].mount_options[1]", func(c *cfg) { c.Mounts[0].MountOptions[1] = "upperdir=/etc" }},
		{"config.mounts[0].mount_options[0]", func(c *cfg) { c.Mounts[0].MountOptions[0] = "rw" }},
		{"config.mounts[2].host_path", func(c *cfg) { c.Mounts[2].HostPath = "/x" }},
		{"config.mounts[2].image.image", func(c *cfg) { c.Mounts[2].Image.Image = "" }},
		{"config.mounts[2].image_sub_path", func(c *cfg) { c.Mounts[2].ImageSubPath = "a/../../b" }},
		{"config.mounts[2].image_sub_path", func(c *cfg) { c.Mounts[2].ImageSubPath = "/etc" }},
		{"config.mounts[2].propagation", func(c *cfg) { c.Mounts[2].Propagation = criv1.MountPropagation_PROPAGATION_HOST_TO_CONTAINER }},
		{"config.devices[0].container_path", func(c *cfg) { c.Devices[0].ContainerPath = "fuse" }},
		{"config.devices[0].host_path", func(c *cfg) { c.Devices[0].HostPath = "" }},
		{"config.devices[0].permissions", func(c *cfg) { c.Devices[0].Permissions = "" }},
		{"config.devices[0].permissions", func(c *cfg) { c.Devices[0].Permissions = "rx" }},
		{"config.CDI_devices[0].name", func(c *cfg) { c.CDIDevices[0].Name = "gpu0" }},
		{"config.stop_signal", func(c *cfg) { c.StopSignal = 99 }},
		{"config.windows", func(c *cfg) { c.Windows = &criv1.WindowsContainerConfig{} }},
	} {
		t.Run(c.field, func(t *testing.T) { wantRefusal(t, spoiled(c.spoil), c.field) })
	}
	_, err := Container(&criv1.CreateContainerRequest{PodSandboxId: "s"})
	wantRefusal(t, err, "config")
	_, err = Container(&criv1.CreateContainerRequest{Config: kubeletContainer().Config})
	wantRefusal(t, err, "pod_sandbox_id")
}

func TestCVE_2025_0750_LogPathStaysInItsDirectory(t *testing.T) {
	for _, p := range []string{"/etc/cron.d/x", "..", "../x", "a/../../x", "a/..", "./../x", "a\x00b", strings.Repeat("x", 5000)} {
		wantRefusal(t, spoiled(func(c *criv1.ContainerConfig) { c.LogPath = p }), "config.log_path")
	}
	for _, p := range []string{"", "0.log", "nginx/0.log", "a..b/c", "..."} {
		if err := spoiled(func(c *criv1.ContainerConfig) { c.LogPath = p }); err != nil {
			t.Errorf("%q: %v", p, err)
		}
	}
}

func TestSecurityRefusals(t *testing.T) {
	type sec = criv1.LinuxContainerSecurityContext
	val := func(n int64) *criv1.Int64Value { return &criv1.Int64Value{Value: n} }
	for _, c := range []struct {
		field string
		spoil func(*sec)
	}{
		{"capabilities.add_capabilities[0]", func(s *sec) { s.Capabilities.AddCapabilities[0] = "CAP_EVERYTHING" }},
		{"capabilities.drop_capabilities[0]", func(s *sec) { s.Capabilities.DropCapabilities[0] = "" }},
		{"capabilities.add_ambient_capabilities[0]", func(s *sec) { s.Capabilities.AddAmbientCapabilities[0] = "CAP_CAP_CHOWN" }},
		{"namespace_options.target_id", func(s *sec) { s.NamespaceOptions.TargetId = "" }},
		{"namespace_options.target_id", func(s *sec) { s.NamespaceOptions.Pid = criv1.NamespaceMode_POD }},
		{"namespace_options.network", func(s *sec) { s.NamespaceOptions.Network = criv1.NamespaceMode_CONTAINER }},
		{"selinux_options.user", func(s *sec) { s.SelinuxOptions.User = "a:b" }},
		{"run_as_user", func(s *sec) { s.RunAsUser = val(-1) }},
		{"run_as_user", func(s *sec) { s.RunAsUser = val(math.MaxUint32) }},
		{"run_as_user", func(s *sec) { s.RunAsUser = val(1 << 32) }}, // would be root after a cut to 32 bits
		{"run_as_group", func(s *sec) { s.RunAsGroup = val(-5) }},
		{"run_as_group", func(s *sec) { s.RunAsUser = nil }},
		{"run_as_username", func(s *sec) { s.RunAsUsername = "www-data" }},
		{"run_as_username", func(s *sec) { s.RunAsUser, s.RunAsUsername = nil, "a:b" }},
		{"run_as_username", func(s *sec) { s.RunAsUser, s.RunAsUsername = nil, "a\nroot:x:0:0::/:/bin/sh" }},
		{"supplemental_groups[1]", func(s *sec) { s.SupplementalGroups[1] = -1 }},
		{"supplemental_groups[0]", func(s *sec) { s.SupplementalGroups[0] = 1 << 32 }},
		{"supplemental_groups_policy", func(s *sec) { s.SupplementalGroupsPolicy = 2 }},
		{"masked_paths[0]", func(s *sec) { s.MaskedPaths[0] = "proc/kcore" }},
		{"readonly_paths[0]", func(s *sec) { s.ReadonlyPaths[0] = "" }},
		{"seccomp.localhost_ref", func(s *sec) { s.Seccomp.LocalhostRef = "a.json" }},
		{"seccomp.localhost_ref", func(s *sec) { s.Seccomp.ProfileType = criv1.SecurityProfile_RuntimeDefault }},
		{"seccomp.profile_type", func(s *sec) { s.Seccomp.ProfileType = 3 }},
		{"apparmor.localhost_ref", func(s *sec) { s.Apparmor.LocalhostRef = "x" }},
		{"apparmor.localhost_ref", func(s *sec) {
			s.Apparmor = &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Localhost, LocalhostRef: "a\nb"}
		}},
		{"seccomp_profile_path", func(s *sec) { s.Seccomp, s.SeccompProfilePath = nil, "default" }},            //nolint:staticcheck // deprecated, and still honoured
		{"seccomp_profile_path", func(s *sec) { s.Seccomp, s.SeccompProfilePath = nil, "localhost/relative" }}, //nolint:staticcheck // deprecated, and still honoured
		{"apparmor_profile", func(s *sec) { s.Apparmor, s.ApparmorProfile = nil, "localhost/" }},               //nolint:staticcheck // deprecated, and still honoured
	} {
		t.Run(c.field, func(t *testing.T) {
			wantRefusal(t, spoiled(func(cfg *criv1.ContainerConfig) { c.spoil(cfg.Linux.SecurityContext) }), "config.linux.security_context."+c.field)
		})
	}
}

func TestProfiles(t *testing.T) {
	type profile = request.SecurityProfile
	type sec = criv1.LinuxContainerSecurityContext
	for name, c := range map[string]struct {
		in                *sec
		seccomp, apparmor profile
	}{
		"none":            {&sec{}, profile{}, profile{}},
		"old":             {&sec{SeccompProfilePath: "runtime/default", ApparmorProfile: "unconfined"}, profile{Kind: request.ProfileRuntimeDefault}, profile{Kind: request.ProfileUnconfined}},                                        //nolint:staticcheck // deprecated, and still honoured
		"older":           {&sec{SeccompProfilePath: "docker/default"}, profile{Kind: request.ProfileRuntimeDefault}, profile{}},                                                                                                       //nolint:staticcheck // deprecated, and still honoured
		"old localhost":   {&sec{SeccompProfilePath: "localhost//a/b.json", ApparmorProfile: "localhost/x"}, profile{Kind: request.ProfileLocalhost, Localhost: "/a/b.json"}, profile{Kind: request.ProfileLocalhost, Localhost: "x"}}, //nolint:staticcheck // deprecated, and still honoured
		"new before old":  {&sec{Seccomp: &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Unconfined}, SeccompProfilePath: "localhost/x"}, profile{Kind: request.ProfileUnconfined}, profile{}},                              //nolint:staticcheck // deprecated, and still honoured
		"prefixed as old": {&sec{Apparmor: &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Localhost, LocalhostRef: "localhost/x"}}, profile{}, profile{Kind: request.ProfileLocalhost, Localhost: "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			req := kubeletContainer()
			req.Config.Linux.SecurityContext = c.in
			got, err := Container(req)
			if err != nil {
				t.Fatal(err)
			}
			if got.Security.Seccomp != c.seccomp || got.Security.AppArmor != c.apparmor {
				t.Errorf("got %v and %v", got.Security.Seccomp, got.Security.AppArmor)
			}
		})
	}
}

func TestResourceRefusals(t *testing.T) {
	type res = criv1.LinuxContainerResources
	for _, c := range []struct {
		field string
		in    *res
	}{
		{"linux.cpu_period", &res{CpuPeriod: -1}},
		{"linux.cpu_period", &res{CpuPeriod: 999}},
		{"linux.cpu_period", &res{CpuPeriod: 1000001}},
		{"linux.cpu_quota", &res{CpuQuota: -2}},
		{"linux.cpu_quota", &res{CpuQuota: 999}},
		{"linux.cpu_shares", &res{CpuShares: -1}},
		{"linux.cpu_shares", &res{CpuShares: 262145}},
		{"linux.memory_limit_in_bytes", &res{MemoryLimitInBytes: -1}},
		{"linux.memory_swap_limit_in_bytes", &res{MemorySwapLimitInBytes: -2}},
		{"linux.memory_swap_limit_in_bytes", &res{MemoryLimitInBytes: 10, MemorySwapLimitInBytes: 9}},
		{"linux.oom_score_adj", &res{OomScoreAdj: 1001}},
		{"linux.oom_score_adj", &res{OomScoreAdj: -1001}},
		{"linux.cpuset_cpus", &res{CpusetCpus: "0-"}},
		{"linux.cpuset_cpus", &res{CpusetCpus: "3-1"}},
		{"linux.cpuset_cpus", &res{CpusetCpus: "1\n2"}},
		{"linux.cpuset_mems", &res{CpusetMems: "all"}},
		{"linux.cpuset_mems", &res{CpusetMems: ",1"}},
		{"linux.hugepage_limits[0].page_size", &res{HugepageLimits: []*criv1.HugepageLimit{{PageSize: "2M"}}}},
		{"linux.hugepage_limits[0].page_size", &res{HugepageLimits: []*criv1.HugepageLimit{{PageSize: "../x"}}}},
		{"linux.hugepage_limits[1].page_size", &res{HugepageLimits: []*criv1.HugepageLimit{{PageSize: "2MB"}, {PageSize: "2MB"}}}},
		{`linux.unified["cgroup.procs"]`, &res{Unified: map[string]string{"cgroup.procs": "1"}}},
		{`linux.unified["../x.y"]`, &res{Unified: map[string]string{"../x.y": "1"}}},
		{`linux.unified["memory"]`, &res{Unified: map[string]string{"memory": "1"}}},
	} {
		t.Run(c.field, func(t *testing.T) {
			_, err := UpdateContainer(&criv1.UpdateContainerResourcesRequest{ContainerId: "c", Linux: c.in})
			wantRefusal(t, err, c.field)
		})
	}
	for _, ok := range []*res{{}, {CpuQuota: -1}, {MemorySwapLimitInBytes: -1, MemoryLimitInBytes: 5}, {OomScoreAdj: -1000}, {CpusetCpus: "0,2-3"}, {HugepageLimits: []*criv1.HugepageLimit{{PageSize: "64KB"}}}} {
		if _, err := UpdateContainer(&criv1.UpdateContainerResourcesRequest{ContainerId: "c", Linux: ok}); err != nil {
			t.Errorf("%v: %v", ok, err)
		}
	}
	_, err := UpdateContainer(&criv1.UpdateContainerResourcesRequest{ContainerId: "c"})
	wantRefusal(t, err, "linux")
	_, err = UpdateContainer(&criv1.UpdateContainerResourcesRequest{ContainerId: "c", Linux: &res{}, Windows: &criv1.WindowsContainerResources{}})
	wantRefusal(t, err, "windows")
	_, _, err = UpdateSandbox(&criv1.UpdatePodSandboxResourcesRequest{PodSandboxId: "s", Overhead: &res{CpuShares: -1}, Resources: &res{CpuShares: -1}})
	wantRefusal(t, err, "overhead.cpu_shares")
	wantRefusal(t, err, "resources.cpu_shares")
}
