package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/integration/criclient"
	"github.com/shimd/shimd/integration/daemon"
	"github.com/shimd/shimd/integration/tools"
)

// Twenty clients ask for the same at the same time: one sandbox, one container, one start.
func TestSameRequestsAtTheSameTime(t *testing.T) {
	_, client := start(t, daemon.Config{})
	image := pull(t, client)
	config := client.Sandbox("same")
	together := func(what string, request func() (string, error)) string {
		t.Helper()
		ids, errs := make([]string, 20), make([]error, 20)
		var group sync.WaitGroup
		for n := range ids {
			group.Go(func() { ids[n], errs[n] = request() })
		}
		group.Wait()
		for n := range ids {
			if errs[n] != nil || ids[n] != ids[0] {
				t.Fatalf("%s: %q and %q, %v", what, ids[0], ids[n], errs[n])
			}
		}
		return ids[0]
	}
	sandbox := together("RunPodSandbox", func() (string, error) { return client.RunSandbox(t.Context(), config) })
	member := criclient.Container("same", image, "sleep", "1000")
	member.LogPath = ""
	container := together("CreateContainer", func() (string, error) {
		answer, err := client.CreateContainer(t.Context(), &criv1.CreateContainerRequest{PodSandboxId: sandbox, Config: member, SandboxConfig: config})
		return answer.GetContainerId(), err
	})
	together("StartContainer", func() (string, error) {
		_, err := client.StartContainer(t.Context(), &criv1.StartContainerRequest{ContainerId: container})
		return "", err
	})
	wantPods(t, client, 1, 1)
	together("StopContainer", func() (string, error) {
		_, err := client.StopContainer(t.Context(), &criv1.StopContainerRequest{ContainerId: container, Timeout: 0})
		return "", err
	})
	together("StopPodSandbox", func() (string, error) {
		_, err := client.StopPodSandbox(t.Context(), &criv1.StopPodSandboxRequest{PodSandboxId: sandbox})
		return "", err
	})
	together("RemovePodSandbox", func() (string, error) {
		_, err := client.RemovePodSandbox(t.Context(), &criv1.RemovePodSandboxRequest{PodSandboxId: sandbox})
		return "", err
	})
	wantPods(t, client, 0, 0)
}

// Each request has a deadline of a millisecond, and is asked again until it succeeds.
func TestClientHasNoPatience(t *testing.T) {
	d, client := start(t, daemon.Config{CgroupParent: groupsOf(t)})
	image := warm(t, client)
	m := look(t, d)
	l := newLife(t, client, image)
	patiently := func(name string, request func(*criclient.Client) error) {
		t.Helper()
		if err := request(client); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	insist := func(name string, request func(context.Context) (string, error)) string {
		t.Helper()
		for range 10000 {
			deadline, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			id, err := request(deadline)
			cancel()
			if err == nil {
				return id
			}
			if code := status.Code(unwrap(err)); code != codes.DeadlineExceeded && code != codes.Canceled {
				t.Fatalf("%s: %v", name, err)
			}
		}
		t.Fatalf("%s never succeeds", name)
		return ""
	}
	l.sandbox = insist("RunPodSandbox", func(ctx context.Context) (string, error) { return client.RunSandbox(ctx, l.pod) })
	l.container = insist("CreateContainer", func(ctx context.Context) (string, error) {
		answer, err := client.CreateContainer(ctx, &criv1.CreateContainerRequest{PodSandboxId: l.sandbox, Config: l.member, SandboxConfig: l.pod})
		return answer.GetContainerId(), err
	})
	insist("StartContainer", func(ctx context.Context) (string, error) {
		_, err := client.StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: l.container})
		return "", err
	})
	wantPods(t, client, 1, 1)
	l.call = patiently
	l.use(t.Context())
	insist("StopPodSandbox", func(ctx context.Context) (string, error) {
		_, err := client.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: l.sandbox})
		return "", err
	})
	insist("RemovePodSandbox", func(ctx context.Context) (string, error) {
		_, err := client.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: l.sandbox})
		return "", err
	})
	wantPods(t, client, 0, 0)
	m.wantNothingNew(t)
}

// racing builds shimd with the race detector, beside the bundle's keeper. Where there is no compiler or no source it answers the bundle's own programs.
func racing(t *testing.T) (programs string) {
	t.Helper()
	needRoot(t)
	root, err := tools.ModuleRoot()
	if _, gccErr := exec.LookPath("gcc"); err != nil || gccErr != nil {
		t.Logf("without the race detector: %v, %v", err, gccErr)
		return shared.bundle.Programs()
	}
	programs = t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-race", "-mod=readonly", "-buildvcs=false", "-o", filepath.Join(programs, "shimd"), "./cmd/shimd")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building shimd with the race detector: %v\n%s", err, out)
	}
	if err := os.Symlink(shared.bundle.Program("shimd-keeper"), filepath.Join(programs, "shimd-keeper")); err != nil {
		t.Fatal(err)
	}
	return programs
}

// Clients that run, create, start, use, stop and remove the same few pods at the same time, in any order: no race, no deadlock, nothing left.
func TestStorm(t *testing.T) {
	d, client := start(t, daemon.Config{CgroupParent: groupsOf(t), Programs: racing(t)})
	image := warm(t, client)
	m := look(t, d)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	logs := t.TempDir()
	const pods, clients, rounds = 3, 4, 12
	configs := make([]*criv1.PodSandboxConfig, pods)
	for n := range configs {
		configs[n] = client.Sandbox(fmt.Sprintf("storm-%d", n))
		configs[n].LogDirectory = logs
		if n == 0 {
			configs[n].Linux.SecurityContext.NamespaceOptions = &criv1.NamespaceOption{Pid: criv1.NamespaceMode_POD}
		}
	}
	var group sync.WaitGroup
	for worker := range clients * pods {
		config := configs[worker%pods]
		group.Go(func() {
			for round := range rounds {
				member := criclient.Container("main", image, "sleep", "1000")
				member.Linux.SecurityContext.NamespaceOptions = config.Linux.SecurityContext.NamespaceOptions
				storm(ctx, client, config, member, worker/pods, round)
			}
		})
	}
	group.Wait()
	if ctx.Err() != nil {
		t.Fatal("requests wait for each other: no end in a minute")
	}
	if err := client.RemoveAll(t.Context()); err != nil {
		t.Error(err)
	}
	wantPods(t, client, 0, 0)
	m.wantNothingNew(t)
	if log, err := os.ReadFile(d.LogFile()); err != nil || strings.Contains(string(log), "DATA RACE") || strings.Contains(string(log), "panic:") {
		t.Errorf("the race detector, or a panic, %v:\n%s", err, log)
	}
}

// storm does what one client wants of a pod. Errors are expected: others take away what it has just made.
func storm(ctx context.Context, client *criclient.Client, config *criv1.PodSandboxConfig, member *criv1.ContainerConfig, worker, round int) {
	sandbox, err := client.RunSandbox(ctx, config)
	if err != nil {
		pods, err := client.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{})
		for _, pod := range pods.GetItems() {
			if err == nil && pod.Metadata.Name == config.Metadata.Name {
				sandbox = pod.Id
			}
		}
	}
	container, err := client.Start(ctx, sandbox, config, member)
	if err == nil {
		_, _, _ = client.Exec(ctx, container, "true")
	}
	switch (worker + round) % 4 {
	case 0:
		_, _ = client.StopContainer(ctx, &criv1.StopContainerRequest{ContainerId: container, Timeout: 0})
		_, _ = client.ListContainerStats(ctx, &criv1.ListContainerStatsRequest{})
	case 1:
		_, _ = client.RemoveContainer(ctx, &criv1.RemoveContainerRequest{ContainerId: container})
		_, _ = client.ListPodSandboxStats(ctx, &criv1.ListPodSandboxStatsRequest{})
	case 2:
		_, _ = client.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: sandbox})
		_, _ = client.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: container, Verbose: true})
	}
	if round%2 == 0 {
		_, _ = client.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: sandbox})
	}
}
