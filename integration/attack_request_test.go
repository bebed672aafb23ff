package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/integration/criclient"
	"github.com/shimd/shimd/integration/daemon"
)

// Also CVE-2022-0811, CVE-2022-0532, CVE-2023-2431 and CVE-2024-3154: requests that ask for what a pod must not have are refused, with nothing left behind.
func TestCVE_2025_0750_CraftedPods(t *testing.T) {
	t.Parallel()
	d, client := start(t, daemon.Config{})
	host := newCanary(t)
	m := look(t, d)
	for name, change := range map[string]func(*criv1.PodSandboxConfig){
		"no metadata":          func(c *criv1.PodSandboxConfig) { c.Metadata = nil },
		"no name":              func(c *criv1.PodSandboxConfig) { c.Metadata.Name = "" },
		"a name of two lines":  func(c *criv1.PodSandboxConfig) { c.Metadata.Name = "a\nb" },
		"log directory":        func(c *criv1.PodSandboxConfig) { c.LogDirectory = "/var/log/pods/../../../" + host.dir },
		"relative logs":        func(c *criv1.PodSandboxConfig) { c.LogDirectory = "logs" },
		"long host name":       func(c *criv1.PodSandboxConfig) { c.Hostname = strings.Repeat("x", 100) },
		"host name of 2 lines": func(c *criv1.PodSandboxConfig) { c.Hostname = "a\n1.2.3.4 registry" },
		"dns": func(c *criv1.PodSandboxConfig) {
			c.DnsConfig = &criv1.DNSConfig{Searches: []string{"a\nnameserver 6.6.6.6"}}
		},
		"core pattern": func(c *criv1.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"kernel.core_pattern": "|/evil"} },
		"smuggled name": func(c *criv1.PodSandboxConfig) {
			c.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced+kernel.core_pattern": "x"}
		},
		"smuggled value": func(c *criv1.PodSandboxConfig) {
			c.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1\n+kernel.core_pattern=x"}
		},
		"sysctl by path": func(c *criv1.PodSandboxConfig) {
			c.Linux.Sysctls = map[string]string{"net/../kernel/core_pattern": "x"}
		},
		"sysctl by dots":      func(c *criv1.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"net.//kernel.core_pattern": "x"} },
		"cgroup parent":       func(c *criv1.PodSandboxConfig) { c.Linux.CgroupParent = "/a/../../.." },
		"cgroup of two lines": func(c *criv1.PodSandboxConfig) { c.Linux.CgroupParent = "/a\nb" },
		"port": func(c *criv1.PodSandboxConfig) {
			c.PortMappings = []*criv1.PortMapping{{ContainerPort: -1, HostPort: 80}}
		},
		"host port": func(c *criv1.PodSandboxConfig) {
			c.PortMappings = []*criv1.PortMapping{{ContainerPort: 80, HostPort: 65536}}
		},
		"host IP": func(c *criv1.PodSandboxConfig) {
			c.PortMappings = []*criv1.PortMapping{{ContainerPort: 80, HostPort: 80, HostIp: "0; drop"}}
		},
		"protocol": func(c *criv1.PodSandboxConfig) {
			c.PortMappings = []*criv1.PortMapping{{ContainerPort: 80, HostPort: 80, Protocol: 99}}
		},
		"memory below zero": func(c *criv1.PodSandboxConfig) {
			c.Linux.Resources = &criv1.LinuxContainerResources{MemoryLimitInBytes: -5}
		},
		"unified path": func(c *criv1.PodSandboxConfig) {
			c.Linux.Resources = &criv1.LinuxContainerResources{Unified: map[string]string{"../../memory.max": "max"}}
		},
		"port twice": func(c *criv1.PodSandboxConfig) {
			one := &criv1.PortMapping{ContainerPort: 80, HostPort: 48080}
			c.PortMappings = []*criv1.PortMapping{one, {ContainerPort: 81, HostPort: 48080}}
		},
		"sysctl in the host's network": func(c *criv1.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Network = criv1.NamespaceMode_NODE
			c.Linux.Sysctls = map[string]string{"net.ipv4.ip_forward": "1"}
		},
		"user namespace of the host's root": func(c *criv1.PodSandboxConfig) {
			mapping := []*criv1.IDMapping{{HostId: 0, ContainerId: 0, Length: 4294967295}, {HostId: 5, ContainerId: 1, Length: 4294967295}}
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &criv1.UserNamespace{Mode: criv1.NamespaceMode_POD, Uids: mapping, Gids: mapping}
		},
		"runtime handler": func(*criv1.PodSandboxConfig) {},
	} {
		config := client.Sandbox("crafted")
		change(config)
		request := &criv1.RunPodSandboxRequest{Config: config}
		if name == "runtime handler" {
			request.RuntimeHandler = "../../bin/sh"
		}
		answer, err := client.RunPodSandbox(t.Context(), request)
		if err == nil {
			t.Errorf("%s: let through", name)
			if err := client.Remove(t.Context(), answer.PodSandboxId); err != nil {
				t.Error(err)
			}
			continue
		}
		wantRefusal(t, name, err)
	}
	m.wantNothingNew(t)
	host.wantUntouched(t)
	big := client.Sandbox("big")
	for n := range 10000 {
		big.Labels[fmt.Sprintf("label-%d", n)] = strings.Repeat("../", 20) + "\n"
		if big.Annotations == nil {
			big.Annotations = map[string]string{}
		}
		big.Annotations[fmt.Sprintf("annotation-%d", n)] = "\x1b[2J"
	}
	id, err := client.RunSandbox(t.Context(), big)
	if err != nil {
		t.Fatalf("10,000 labels: %v", err)
	}
	if answer, err := client.PodSandboxStatus(t.Context(), &criv1.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true}); err != nil || len(answer.Status.Labels) < 10000 {
		t.Errorf("10,000 labels: %v", err)
	}
	if err := client.Remove(t.Context(), id); err != nil {
		t.Error(err)
	}
	big.Annotations["huge"] = strings.Repeat("x", 20<<20)
	if _, err := client.RunSandbox(t.Context(), big); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("20 MiB: %v", err)
	}
}

func wantRefusal(t *testing.T, name string, err error) {
	t.Helper()
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition, codes.AlreadyExists, codes.ResourceExhausted, codes.Unimplemented, codes.OutOfRange:
	default:
		t.Errorf("%s: not a refusal: %v", name, err)
	}
}

// Also CVE-2019-16884, CVE-2021-30465 and CVE-2024-45310 as requests.
func TestCVE_2025_0750_CraftedContainers(t *testing.T) {
	t.Parallel()
	_, client := start(t, daemon.Config{})
	host := newCanary(t)
	serve(t, map[string]v1.Image{"links": hostileImage(t, busybox(), nil, link("p", "/proc"), link("out", host.dir), link("s", "/proc/self"), link("fd", "/proc/self/fd/7"), directory("proc"))})
	image, err := client.Pull(t.Context(), hostileName(t, "links"))
	if err != nil {
		t.Fatal(err)
	}
	p := runPod(t, client, "crafted")
	volume := t.TempDir()
	mount := func(path string) func(*criv1.ContainerConfig) {
		return func(c *criv1.ContainerConfig) { c.Mounts = []*criv1.Mount{{ContainerPath: path, HostPath: volume}} }
	}
	for name, c := range map[string]struct {
		change func(*criv1.ContainerConfig)
		may    bool // run: the attack is then that the host is changed, or that /proc is not the real one
	}{
		"log path":            {change: func(c *criv1.ContainerConfig) { c.LogPath = "../x" }},
		"absolute log path":   {change: func(c *criv1.ContainerConfig) { c.LogPath = host.secret }},
		"log path within":     {change: func(c *criv1.ContainerConfig) { c.LogPath = "a/../../x" }},
		"log path of NULs":    {change: func(c *criv1.ContainerConfig) { c.LogPath = "a\x00b" }},
		"mount on the root":   {change: mount("/")},
		"mount by dots":       {change: mount("/../../.."), may: false},
		"mount on proc":       {change: mount("/proc")},
		"mount in proc":       {change: mount("/proc/sys")},
		"mount in self":       {change: mount("/proc/self/attr")},
		"mount by link":       {change: mount("/p")},
		"mount by link in":    {change: mount("/p/sys/kernel")},
		"mount by self":       {change: mount("/s/fd")},
		"mount by descriptor": {change: mount("/fd/x"), may: true},
		"mount out":           {change: mount("/out/new"), may: true},
		"mount by many dots":  {change: mount("/a/../../../../../../.." + host.dir + "/new"), may: true},
		"mount long":          {change: mount("/" + strings.Repeat("x/", 3000))},
		"seccomp of nothing": {change: func(c *criv1.ContainerConfig) {
			c.Linux.SecurityContext.Seccomp = &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Localhost}
		}},
		"seccomp by dots": {change: func(c *criv1.ContainerConfig) {
			c.Linux.SecurityContext.Seccomp = &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Localhost, LocalhostRef: "../../../../" + host.secret}
		}},
		"capability": {change: func(c *criv1.ContainerConfig) {
			c.Linux.SecurityContext.Capabilities = &criv1.Capability{AddCapabilities: []string{"SYS_ADMIN\nALL"}}
		}},
		"user below zero":     {change: func(c *criv1.ContainerConfig) { c.Linux.SecurityContext.RunAsUser = &criv1.Int64Value{Value: -1} }},
		"user beyond":         {change: func(c *criv1.ContainerConfig) { c.Linux.SecurityContext.RunAsUser = &criv1.Int64Value{Value: 1 << 32} }},
		"group beyond":        {change: func(c *criv1.ContainerConfig) { c.Linux.SecurityContext.SupplementalGroups = []int64{1 << 33} }},
		"environment":         {change: func(c *criv1.ContainerConfig) { c.Envs = []*criv1.KeyValue{{Key: "A=B", Value: []byte("x")}} }},
		"environment of NULs": {change: func(c *criv1.ContainerConfig) { c.Envs = []*criv1.KeyValue{{Key: "A", Value: []byte("x\x00B=y")}} }},
		"device": {change: func(c *criv1.ContainerConfig) {
			c.Devices = []*criv1.Device{{ContainerPath: "/dev/x", HostPath: host.secret, Permissions: "rwm"}}
		}},
		"device out": {change: func(c *criv1.ContainerConfig) {
			c.Devices = []*criv1.Device{{ContainerPath: "/out/null", HostPath: "/dev/null", Permissions: "rwm"}}
		}, may: true},
		"device's rights": {change: func(c *criv1.ContainerConfig) {
			c.Devices = []*criv1.Device{{ContainerPath: "/dev/x", HostPath: "/dev/null", Permissions: "rwx"}}
		}},
		"working directory": {change: func(c *criv1.ContainerConfig) { c.WorkingDir = "../.." }},
		"working out":       {change: func(c *criv1.ContainerConfig) { c.WorkingDir = "/out" }, may: true},
		"stop signal":       {change: func(c *criv1.ContainerConfig) { c.StopSignal = 99 }},
		"masked path out": {change: func(c *criv1.ContainerConfig) {
			c.Linux.SecurityContext.MaskedPaths = []string{"/out/secret", "/proc/../out", "relative"}
		}, may: true},
		"image of the store": {change: func(c *criv1.ContainerConfig) { c.Image.Image = "../../../../etc" }},
		"image volume by dots": {change: func(c *criv1.ContainerConfig) {
			c.Mounts = []*criv1.Mount{{ContainerPath: "/v", Image: &criv1.ImageSpec{Image: image}, ImageSubPath: "../.."}}
		}},
		"image volume by link": {change: func(c *criv1.ContainerConfig) {
			c.Mounts = []*criv1.Mount{{ContainerPath: "/v", Image: &criv1.ImageSpec{Image: image}, ImageSubPath: "out"}}
		}},
		"target of another": {change: func(c *criv1.ContainerConfig) {
			c.Linux.SecurityContext.NamespaceOptions = &criv1.NamespaceOption{Pid: criv1.NamespaceMode_TARGET, TargetId: ""}
		}},
		"OOM score":      {change: func(c *criv1.ContainerConfig) { c.Linux.Resources.OomScoreAdj = -5000 }},
		"CPU below zero": {change: func(c *criv1.ContainerConfig) { c.Linux.Resources.CpuShares = -1 }},
		"CPU set":        {change: func(c *criv1.ContainerConfig) { c.Linux.Resources.CpusetCpus = "0\n1" }},
		"huge page": {change: func(c *criv1.ContainerConfig) {
			c.Linux.Resources.HugepageLimits = []*criv1.HugepageLimit{{PageSize: "../../x", Limit: 1}}
		}},
	} {
		config := criclient.Container("crafted", image, "sh", "-c", `grep -q ' /proc proc ' /proc/self/mounts || grep -q '^proc /proc' /proc/self/mounts || echo FALSE-PROC; cat secret /v/secret /out/secret 2>/dev/null; echo pwned > secret; true`)
		c.change(config)
		created, err := client.Start(t.Context(), p.id, p.config, config)
		if err == nil {
			if _, err := client.WaitExited(t.Context(), created); err != nil {
				t.Error(err)
			}
			if !c.may {
				t.Errorf("%s: let through", name)
			}
			if log, err := os.ReadFile(filepath.Join(p.logs, "crafted.log")); err == nil && (strings.Contains(string(log), "FALSE-PROC") || strings.Contains(string(log), secretWord)) {
				t.Errorf("%s: %s", name, log)
			}
		} else {
			wantRefusal(t, name, err)
		}
		if created != "" {
			if _, err := client.RemoveContainer(t.Context(), &criv1.RemoveContainerRequest{ContainerId: created}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		host.wantUntouched(t)
	}
	wantAlive(t, client, p, image)
}

// The log directory is root's. All the same: links and FIFOs there neither lead out of it nor hang the daemon.
func TestCVE_2025_0750_PlantedLogs(t *testing.T) {
	t.Parallel()
	_, client := start(t, daemon.Config{})
	host := newCanary(t)
	image := pull(t, client)
	p := runPod(t, client, "logs")
	for name, plant := range map[string]func(string) error{
		"link":     func(path string) error { return os.Symlink(host.secret, path) },
		"dangling": func(path string) error { return os.Symlink(filepath.Join(host.dir, "new"), path) },
		"fifo":     func(path string) error { return syscall.Mkfifo(path, 0o666) },
		"dir":      func(path string) error { return os.Mkdir(path, 0o755) },
		"below":    func(path string) error { return os.Symlink(host.dir, path) },
		"device":   func(path string) error { return syscall.Mknod(path, syscall.S_IFCHR|0o666, 1<<8|1) },
	} {
		config := criclient.Container(name, image, "echo", "pwned")
		if err := plant(filepath.Join(p.logs, name+".log")); err != nil {
			t.Fatal(err)
		}
		if name == "below" {
			config.LogPath = "below.log/x/y.log"
		}
		id, err := client.Start(t.Context(), p.id, p.config, config)
		if err == nil {
			t.Errorf("%s: the log was opened", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
		if _, err := client.RemoveContainer(t.Context(), &criv1.RemoveContainerRequest{ContainerId: id}); err != nil {
			t.Error(err)
		}
		host.wantUntouched(t)
	}
	// While it runs: the log is removed, swapped for a link, and reopened.
	writer := p.start(t, client, criclient.Container("writer", image, "sh", "-c", "while :; do echo pwned; usleep 1000; done"))
	log := filepath.Join(p.logs, "writer.log")
	for _, plant := range []func() error{
		func() error { return os.Remove(log) },
		func() error { return os.Symlink(host.secret, log) },
		func() error { _ = os.Remove(log); return syscall.Mkfifo(log, 0o666) },
	} {
		if err := plant(); err != nil && !os.IsNotExist(err) && !os.IsExist(err) {
			t.Fatal(err)
		}
		_, err := client.ReopenContainerLog(t.Context(), &criv1.ReopenContainerLogRequest{ContainerId: writer})
		t.Logf("reopened: %v", err)
		host.wantUntouched(t)
		_ = os.Remove(log)
	}
	wantAlive(t, client, p, image)
}

// IDs: only a whole one, or a prefix that fits one alone, names a thing. Also CVE-2024-3727: what is no ID never becomes a path.
func TestCVE_2024_3727_CraftedIDs(t *testing.T) {
	t.Parallel()
	d, client := start(t, daemon.Config{})
	image := pull(t, client)
	var all []pod
	for range 17 { // so that two begin with the same digit
		p := pod{config: client.Sandbox("id")}
		var err error
		if p.id, err = client.RunSandbox(t.Context(), p.config); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	count := map[byte]int{}
	for _, p := range all {
		count[p.id[0]]++
	}
	crafted := []string{"", ".", "..", "../..", "/", "*", "sha256:", strings.Repeat("f", 65), all[0].id + "0", all[0].id + "/..", strings.ToUpper(all[0].id) + "X", "\x00", strings.Repeat("a", 1<<20)}
	for first, n := range count {
		if n > 1 {
			crafted = append(crafted, string(first))
		}
	}
	ctx := t.Context()
	for _, id := range crafted {
		for what, call := range map[string]func() error{
			"StopPodSandbox": func() error {
				_, err := client.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: id})
				return err
			},
			"RemovePodSandbox": func() error {
				_, err := client.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: id})
				return err
			},
			"StopContainer": func() error {
				_, err := client.StopContainer(ctx, &criv1.StopContainerRequest{ContainerId: id})
				return err
			},
			"RemoveContainer": func() error {
				_, err := client.RemoveContainer(ctx, &criv1.RemoveContainerRequest{ContainerId: id})
				return err
			},
			"RemoveImage": func() error {
				_, err := client.Images.RemoveImage(ctx, &criv1.RemoveImageRequest{Image: &criv1.ImageSpec{Image: id}})
				return err
			},
			"PullImage": func() error {
				_, err := client.Images.PullImage(ctx, &criv1.PullImageRequest{Image: &criv1.ImageSpec{Image: hostileHost(t) + "/x@sha256:" + id}})
				return err
			},
		} {
			err := call()
			if code := status.Code(err); code == codes.Internal || code == codes.Unavailable {
				t.Errorf("%s(%.80q): %v", what, id, err)
			}
			if what == "PullImage" && err == nil {
				t.Errorf("%s(%.80q): let through", what, id)
			}
		}
	}
	ready, err := client.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{Filter: &criv1.PodSandboxFilter{State: &criv1.PodSandboxStateValue{State: criv1.PodSandboxState_SANDBOX_READY}}})
	if err != nil || len(ready.Items) != len(all) {
		t.Errorf("%d of %d pods are left: %v", len(ready.GetItems()), len(all), err)
	}
	if answer, err := client.Images.ImageStatus(ctx, &criv1.ImageStatusRequest{Image: &criv1.ImageSpec{Image: image}}); err != nil || answer.Image == nil {
		t.Errorf("the image is gone: %v", err)
	}
	if _, err := os.Stat(d.State()); err != nil {
		t.Error(err)
	}
}
