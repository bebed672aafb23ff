package cri

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/image"
	"github.com/shimd/shimd/runtime"
)

func wantCode(t *testing.T, err error, code codes.Code) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("error %v has code %v, want %v", err, status.Code(err), code)
	}
}

func TestPodLife(t *testing.T) {
	s, ctx := serve(t), t.Context()
	pod := s.pod(t, "web")
	other := s.pod(t, "db")
	ct := s.run(t, pod, "nginx")

	st, err := s.PodSandboxStatus(ctx, &criv1.PodSandboxStatusRequest{PodSandboxId: pod, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	if st.GetStatus().GetNetwork().GetIp() != "10.1.2.3" || st.GetStatus().GetNetwork().GetAdditionalIps()[0].GetIp() != "fd00::3" {
		t.Errorf("network is %v", st.GetStatus().GetNetwork())
	}
	if len(st.GetContainersStatuses()) != 1 || st.GetTimestamp() == 0 || st.GetInfo()["info"] == "" {
		t.Errorf("status is %v", st)
	}
	cst, err := s.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: ct})
	if err != nil {
		t.Fatal(err)
	}
	if cst.GetStatus().GetState() != criv1.ContainerState_CONTAINER_RUNNING || cst.GetStatus().GetImage().GetImage() != "busybox" || len(cst.GetInfo()) != 0 {
		t.Errorf("container is %v", cst)
	}

	pods, err := s.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{Filter: &criv1.PodSandboxFilter{LabelSelector: map[string]string{"app": "db"}}})
	if err != nil || len(pods.GetItems()) != 1 || pods.GetItems()[0].GetId() != other {
		t.Errorf("listed %v, %v", pods, err)
	}
	cts, err := s.ListContainers(ctx, &criv1.ListContainersRequest{Filter: &criv1.ContainerFilter{PodSandboxId: pod[:4]}})
	if err != nil || len(cts.GetContainers()) != 1 {
		t.Errorf("listed %v, %v", cts, err)
	}

	if _, err := s.StopContainer(ctx, &criv1.StopContainerRequest{ContainerId: ct, Timeout: 7}); err != nil || s.rt.grace != 7*time.Second {
		t.Errorf("stop: %v, grace %v", err, s.rt.grace)
	}
	if _, err := s.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Error(err)
	}
	if _, err := s.RemoveContainer(ctx, &criv1.RemoveContainerRequest{ContainerId: ct}); err != nil {
		t.Error(err)
	}
	if _, err := s.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Error(err)
	}
}

func TestUnknownIDs(t *testing.T) {
	s, ctx := serve(t), t.Context()
	_, err := s.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: "none"})
	wantCode(t, err, codes.NotFound)
	_, err = s.PodSandboxStatus(ctx, &criv1.PodSandboxStatusRequest{PodSandboxId: "none"})
	wantCode(t, err, codes.NotFound)
	_, err = s.ContainerStats(ctx, &criv1.ContainerStatsRequest{ContainerId: "none"})
	wantCode(t, err, codes.NotFound)
	_, err = s.Exec(ctx, &criv1.ExecRequest{ContainerId: "none", Cmd: []string{"true"}, Stdout: true})
	wantCode(t, err, codes.NotFound)
	// What CRI wants idempotent.
	_, err = s.StopContainer(ctx, &criv1.StopContainerRequest{ContainerId: "none"})
	wantCode(t, err, codes.OK)
	_, err = s.RemoveContainer(ctx, &criv1.RemoveContainerRequest{ContainerId: "none"})
	wantCode(t, err, codes.OK)
	_, err = s.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: "none"})
	wantCode(t, err, codes.OK)
	_, err = s.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: "none"})
	wantCode(t, err, codes.OK)
	_, err = s.RemoveImage(ctx, &criv1.RemoveImageRequest{Image: &criv1.ImageSpec{Image: "none"}})
	wantCode(t, err, codes.OK)
}

func TestMissingIDsAreRefused(t *testing.T) {
	s, ctx := serve(t), t.Context()
	calls := map[string]func() error{
		"StopPodSandbox":     func() error { _, err := s.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{}); return err },
		"RemovePodSandbox":   func() error { _, err := s.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{}); return err },
		"PodSandboxStatus":   func() error { _, err := s.PodSandboxStatus(ctx, &criv1.PodSandboxStatusRequest{}); return err },
		"PodSandboxStats":    func() error { _, err := s.PodSandboxStats(ctx, &criv1.PodSandboxStatsRequest{}); return err },
		"RunPodSandbox":      func() error { _, err := s.RunPodSandbox(ctx, &criv1.RunPodSandboxRequest{}); return err },
		"CreateContainer":    func() error { _, err := s.CreateContainer(ctx, &criv1.CreateContainerRequest{}); return err },
		"StartContainer":     func() error { _, err := s.StartContainer(ctx, &criv1.StartContainerRequest{}); return err },
		"StopContainer":      func() error { _, err := s.StopContainer(ctx, &criv1.StopContainerRequest{}); return err },
		"RemoveContainer":    func() error { _, err := s.RemoveContainer(ctx, &criv1.RemoveContainerRequest{}); return err },
		"ContainerStatus":    func() error { _, err := s.ContainerStatus(ctx, &criv1.ContainerStatusRequest{}); return err },
		"ContainerStats":     func() error { _, err := s.ContainerStats(ctx, &criv1.ContainerStatsRequest{}); return err },
		"ReopenContainerLog": func() error { _, err := s.ReopenContainerLog(ctx, &criv1.ReopenContainerLogRequest{}); return err },
		"UpdateContainerResources": func() error {
			_, err := s.UpdateContainerResources(ctx, &criv1.UpdateContainerResourcesRequest{})
			return err
		},
		"UpdatePodSandboxResources": func() error {
			_, err := s.UpdatePodSandboxResources(ctx, &criv1.UpdatePodSandboxResourcesRequest{})
			return err
		},
		"ExecSync":    func() error { _, err := s.ExecSync(ctx, &criv1.ExecSyncRequest{}); return err },
		"Exec":        func() error { _, err := s.Exec(ctx, &criv1.ExecRequest{}); return err },
		"Attach":      func() error { _, err := s.Attach(ctx, &criv1.AttachRequest{}); return err },
		"PortForward": func() error { _, err := s.PortForward(ctx, &criv1.PortForwardRequest{}); return err },
		"PullImage":   func() error { _, err := s.PullImage(ctx, &criv1.PullImageRequest{}); return err },
		"ImageStatus": func() error { _, err := s.ImageStatus(ctx, &criv1.ImageStatusRequest{}); return err },
		"RemoveImage": func() error { _, err := s.RemoveImage(ctx, &criv1.RemoveImageRequest{}); return err },
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) { wantCode(t, call(), codes.InvalidArgument) })
	}
}

// Covers CVE-2024-8676, CVE-2026-50195, CVE-2026-53489, CVE-2026-53492 and CVE-2025-0426: nothing is restored and no checkpoint is written.
func TestCheckpointsAreRefused(t *testing.T) {
	s, ctx := serve(t), t.Context()
	_, err := s.CheckpointContainer(ctx, &criv1.CheckpointContainerRequest{ContainerId: "x"})
	wantCode(t, err, codes.Unimplemented)
	_, err = s.CheckpointPod(ctx, &criv1.CheckpointPodRequest{PodSandboxId: "x"})
	wantCode(t, err, codes.Unimplemented)
	_, err = s.RestorePod(ctx, &criv1.RestorePodRequest{CheckpointPath: "/x"})
	wantCode(t, err, codes.Unimplemented)
}

func TestUnknownHandlerIsRefused(t *testing.T) {
	s, ctx := serve(t), t.Context()
	req := &criv1.RunPodSandboxRequest{RuntimeHandler: "kata", Config: &criv1.PodSandboxConfig{
		Metadata: &criv1.PodSandboxMetadata{Name: "a", Namespace: "b", Uid: "c"}}}
	_, err := s.RunPodSandbox(ctx, req)
	wantCode(t, err, codes.InvalidArgument)
	req.RuntimeHandler = "runc"
	_, err = s.RunPodSandbox(ctx, req)
	wantCode(t, err, codes.OK)
	_, err = s.PullImage(ctx, &criv1.PullImageRequest{Image: &criv1.ImageSpec{Image: "a", RuntimeHandler: "kata"}})
	wantCode(t, err, codes.InvalidArgument)
}

func TestVersionAndStatus(t *testing.T) {
	s, ctx := serve(t), t.Context()
	v, err := s.Version(ctx, &criv1.VersionRequest{})
	if err != nil || v.GetRuntimeName() != "shimd" || v.GetRuntimeVersion() != "1.2.3" || v.GetRuntimeApiVersion() != "v1" {
		t.Errorf("version is %v, %v", v, err)
	}
	s.rt.networkErr = errors.New("no CNI configuration and no pod CIDR")
	st, err := s.Status(ctx, &criv1.StatusRequest{Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	ready, net := st.GetStatus().GetConditions()[0], st.GetStatus().GetConditions()[1]
	if ready.GetType() != "RuntimeReady" || !ready.GetStatus() {
		t.Errorf("runtime is %v", ready)
	}
	if net.GetType() != "NetworkReady" || net.GetStatus() || net.GetReason() == "" || net.GetMessage() != s.rt.networkErr.Error() {
		t.Errorf("network is %v", net)
	}
	if h := st.GetRuntimeHandlers(); len(h) != 2 || h[0].GetName() != "" || !h[0].GetFeatures().GetUserNamespaces() || h[1].GetFeatures().GetUserNamespaces() {
		t.Errorf("handlers are %v", h)
	}
	if !st.GetFeatures().GetSupplementalGroupsPolicy() || st.GetInfo()["config"] == "" {
		t.Errorf("status is %v", st)
	}
	cfg, err := s.RuntimeConfig(ctx, &criv1.RuntimeConfigRequest{})
	if err != nil || cfg.GetLinux().GetCgroupDriver() != criv1.CgroupDriver_SYSTEMD {
		t.Errorf("config is %v, %v", cfg, err)
	}
	update := func(cidr string) error {
		_, err := s.UpdateRuntimeConfig(ctx, &criv1.UpdateRuntimeConfigRequest{RuntimeConfig: &criv1.RuntimeConfig{NetworkConfig: &criv1.NetworkConfig{PodCidr: cidr}}})
		return err
	}
	wantCode(t, update("10.0.0.0/24,fd00::/64"), codes.OK)
	if s.rt.cidr != "10.0.0.0/24,fd00::/64" {
		t.Errorf("cidr is %q", s.rt.cidr)
	}
	wantCode(t, update("10.0.0.0"), codes.InvalidArgument)
	wantCode(t, update("10.0.0.0/8,10.1.0.0/16,10.2.0.0/16"), codes.InvalidArgument)
}

func TestExecSync(t *testing.T) {
	s, ctx := serve(t), t.Context()
	id := s.run(t, s.pod(t, "p"), "c")
	req := &criv1.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "--password=secret"}, Timeout: 3}

	s.rt.execSync = func(cmd []string, timeout time.Duration) ([]byte, []byte, int32, error) {
		return []byte(strings.Join(cmd, " ")), []byte(timeout.String()), 4, nil
	}
	got, err := s.ExecSync(ctx, req)
	if err != nil || string(got.GetStdout()) != "sh --password=secret" || string(got.GetStderr()) != "3s" || got.GetExitCode() != 4 {
		t.Errorf("answered %v, %v", got, err)
	}

	s.rt.execSync = func([]string, time.Duration) ([]byte, []byte, int32, error) {
		return nil, nil, 0, fmt.Errorf("exec: %w", context.DeadlineExceeded)
	}
	_, err = s.ExecSync(ctx, req)
	wantCode(t, err, codes.DeadlineExceeded)
	if !strings.Contains(err.Error(), `command "sh" timed out after 3s`) || strings.Contains(err.Error(), "secret") {
		t.Errorf("error is %v", err)
	}
	if strings.Contains(s.log.String(), "secret") {
		t.Error("the command's arguments are in the log")
	}
}

// The runtime bounds what it keeps; the answer must fit into a message, whatever the command wrote.
func TestCVE_2022_31030_CVE_2022_1708_ExecSyncOutputIsBounded(t *testing.T) {
	s, ctx := serve(t), t.Context()
	id := s.run(t, s.pod(t, "p"), "c")
	much := bytes.Repeat([]byte("x"), 16<<20)
	s.rt.execSync = func([]string, time.Duration) ([]byte, []byte, int32, error) { return much, much, 0, nil }
	got, err := s.ExecSync(ctx, &criv1.ExecSyncRequest{ContainerId: id, Cmd: []string{"yes"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.GetStdout())+len(got.GetStderr()) != maxOutput || len(got.GetStdout()) != len(got.GetStderr()) {
		t.Errorf("answered %d and %d bytes", len(got.GetStdout()), len(got.GetStderr()))
	}
	for _, c := range []struct{ out, err, wantOut, wantErr int }{{3, 3, 3, 3}, {10, 0, 10, 0}, {20, 2, 8, 2}, {2, 20, 2, 8}, {20, 20, 5, 5}} {
		o, e := cutOutputs(make([]byte, c.out), make([]byte, c.err), 10)
		if len(o) != c.wantOut || len(e) != c.wantErr {
			t.Errorf("cutOutputs(%d, %d) = %d, %d, want %d, %d", c.out, c.err, len(o), len(e), c.wantOut, c.wantErr)
		}
	}
}

func TestStreamsNeedSomethingRunning(t *testing.T) {
	s, ctx := serve(t), t.Context()
	pod := s.pod(t, "p")
	id := s.run(t, pod, "c")
	exec := &criv1.ExecRequest{ContainerId: id, Cmd: []string{"sh"}, Stdout: true}
	if got, err := s.Exec(ctx, exec); err != nil || !strings.HasPrefix(got.GetUrl(), "http://127.0.0.1:") {
		t.Errorf("exec: %v, %v", got, err)
	}
	if got, err := s.Attach(ctx, &criv1.AttachRequest{ContainerId: id, Stdout: true}); err != nil || got.GetUrl() == "" {
		t.Errorf("attach: %v, %v", got, err)
	}
	_, err := s.Attach(ctx, &criv1.AttachRequest{ContainerId: id, Stdout: true, Tty: true})
	wantCode(t, err, codes.InvalidArgument)
	if got, err := s.PortForward(ctx, &criv1.PortForwardRequest{PodSandboxId: pod}); err != nil || got.GetUrl() == "" {
		t.Errorf("port-forward: %v, %v", got, err)
	}
	_, _ = s.StopContainer(ctx, &criv1.StopContainerRequest{ContainerId: id})
	_, err = s.Exec(ctx, exec)
	wantCode(t, err, codes.FailedPrecondition)
	_, _ = s.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: pod})
	_, err = s.PortForward(ctx, &criv1.PortForwardRequest{PodSandboxId: pod})
	wantCode(t, err, codes.FailedPrecondition)
}

func TestStatsRateNeedsTwoSamples(t *testing.T) {
	s, ctx := serve(t), t.Context()
	pod := s.pod(t, "p")
	id := s.run(t, pod, "c")
	s.rt.usage = 1e9
	first, err := s.ContainerStats(ctx, &criv1.ContainerStatsRequest{ContainerId: id})
	if err != nil {
		t.Fatal(err)
	}
	if cpu := first.GetStats().GetCpu(); cpu.GetUsageNanoCores() != nil || cpu.GetUsageCoreNanoSeconds().GetValue() != 1e9 {
		t.Errorf("first sample is %v", cpu)
	}
	if m := first.GetStats().GetMemory(); m.GetAvailableBytes().GetValue() != 800 || m.GetRssBytes().GetValue() != 100 {
		t.Errorf("memory is %v", m)
	}
	s.rt.usage, s.rt.now = 2e9, s.rt.now.Add(10*time.Second)
	list, err := s.ListContainerStats(ctx, &criv1.ListContainerStatsRequest{Filter: &criv1.ContainerStatsFilter{Id: id}})
	if err != nil || len(list.GetStats()) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	if got := list.GetStats()[0].GetCpu().GetUsageNanoCores().GetValue(); got != 1e8 {
		t.Errorf("rate is %d, want 1e8", got)
	}
	ps, err := s.PodSandboxStats(ctx, &criv1.PodSandboxStatsRequest{PodSandboxId: pod})
	if err != nil || ps.GetStats().GetLinux().GetNetwork().GetDefaultInterface().GetRxBytes().GetValue() != 5 || ps.GetStats().GetLinux().GetProcess().GetProcessCount().GetValue() != 3 {
		t.Errorf("sandbox stats are %v, %v", ps, err)
	}
	_, _ = s.StopContainer(ctx, &criv1.StopContainerRequest{ContainerId: id})
	list, err = s.ListContainerStats(ctx, &criv1.ListContainerStatsRequest{})
	if err != nil || len(list.GetStats()) != 0 {
		t.Errorf("stats of stopped containers: %v, %v", list, err)
	}
}

func TestStreamedListsAreTheLists(t *testing.T) {
	s, ctx := serve(t), t.Context()
	big := strings.Repeat("x", 200<<10)
	const n = 12 // 2.4 MB: more than two parts
	for i := range n {
		_, err := s.RunPodSandbox(ctx, &criv1.RunPodSandboxRequest{Config: &criv1.PodSandboxConfig{
			Metadata:    &criv1.PodSandboxMetadata{Name: fmt.Sprint(i), Namespace: "b", Uid: "c"},
			Annotations: map[string]string{"big": big},
		}})
		if err != nil {
			t.Fatal(err)
		}
		s.run(t, fmt.Sprintf("sb-%d", i), fmt.Sprint(i))
	}
	s.images.images["a"] = image.Image{ID: "sha256:a"}

	pods, err := s.StreamPodSandboxes(ctx, &criv1.StreamPodSandboxesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	seen, parts := map[string]bool{}, 0
	drain(t, pods.Recv, func(r *criv1.StreamPodSandboxesResponse) {
		parts++
		for _, p := range r.GetPodSandboxes() {
			seen[p.GetId()] = true
		}
	})
	if len(seen) != n || parts < 2 {
		t.Errorf("%d pods in %d parts", len(seen), parts)
	}
	total := 0
	cts, _ := s.StreamContainers(ctx, &criv1.StreamContainersRequest{})
	drain(t, cts.Recv, func(r *criv1.StreamContainersResponse) { total += len(r.GetContainers()) })
	cst, _ := s.StreamContainerStats(ctx, &criv1.StreamContainerStatsRequest{})
	drain(t, cst.Recv, func(r *criv1.StreamContainerStatsResponse) { total += len(r.GetContainerStats()) })
	pst, _ := s.StreamPodSandboxStats(ctx, &criv1.StreamPodSandboxStatsRequest{})
	drain(t, pst.Recv, func(r *criv1.StreamPodSandboxStatsResponse) { total += len(r.GetPodSandboxStats()) })
	pm, _ := s.StreamPodSandboxMetrics(ctx, &criv1.StreamPodSandboxMetricsRequest{})
	drain(t, pm.Recv, func(r *criv1.StreamPodSandboxMetricsResponse) { total += len(r.GetPodSandboxMetrics()) })
	if total != 4*n {
		t.Errorf("%d items in the other lists, want %d", total, 4*n)
	}
	imgs, _ := s.StreamImages(ctx, &criv1.StreamImagesRequest{})
	drain(t, imgs.Recv, func(r *criv1.StreamImagesResponse) { total += len(r.GetImages()) })
	if total != 4*n+1 {
		t.Error("no image")
	}
}

func drain[T any](t *testing.T, recv func() (T, error), do func(T)) {
	t.Helper()
	for {
		m, err := recv()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		do(m)
	}
}

func TestEvents(t *testing.T) {
	s := serve(t)
	stream, err := s.GetContainerEvents(t.Context(), &criv1.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil { // arrives before any event
		t.Fatal(err)
	}
	s.rt.events <- runtime.Event{Type: runtime.EventStopped, ContainerID: "c", Time: time.Unix(9, 0),
		Sandbox: &runtime.SandboxStatus{ID: "s"}, Containers: []runtime.ContainerStatus{{ID: "c", ExitCode: 3}}}
	e, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if e.GetContainerId() != "c" || e.GetContainerEventType() != criv1.ContainerEventType_CONTAINER_STOPPED_EVENT || e.GetCreatedAt() != 9e9 ||
		e.GetPodSandboxStatus().GetId() != "s" || e.GetContainersStatuses()[0].GetExitCode() != 3 {
		t.Errorf("event is %v", e)
	}
	close(s.rt.events) // as for a reader that is too slow
	_, err = stream.Recv()
	wantCode(t, err, codes.Unavailable)
}

func TestImages(t *testing.T) {
	s, ctx := serve(t), t.Context()
	s.images.images["docker.io/library/nginx:1"] = image.Image{
		ID: "sha256:abc", RepoTags: []string{"docker.io/library/nginx:1"}, Size: 9, Pinned: true,
		DiffIDs: []string{"sha256:" + strings.Repeat("1", 64)},
		Config:  image.Config{User: "www-data:www", Cmd: []string{"nginx"}, Volumes: []string{"/data"}, Labels: map[string]string{"a": "b"}},
	}
	spec := &criv1.ImageSpec{Image: "docker.io/library/nginx:1"}
	pull, err := s.PullImage(ctx, &criv1.PullImageRequest{Image: spec, Auth: &criv1.AuthConfig{Username: "me", Password: "hunter2", Auth: "hunter2", IdentityToken: "hunter2", RegistryToken: "hunter2"}})
	if err != nil || pull.GetImageRef() != "sha256:abc" || s.images.pulled.Auth.Password != "hunter2" {
		t.Errorf("pulled %v, %v", pull, err)
	}
	st, err := s.ImageStatus(ctx, &criv1.ImageStatusRequest{Image: spec, Verbose: true})
	if err != nil || st.GetImage().GetUsername() != "www-data" || st.GetImage().GetUid() != nil || !st.GetImage().GetPinned() {
		t.Errorf("status is %v, %v", st, err)
	}
	var info struct {
		ChainID   string `json:"chainID"`
		ImageSpec struct {
			Config struct {
				User    string              `json:"User"`
				Cmd     []string            `json:"Cmd"`
				Volumes map[string]struct{} `json:"Volumes"`
			} `json:"config"`
		} `json:"imageSpec"`
	}
	if err := json.Unmarshal([]byte(st.GetInfo()["info"]), &info); err != nil {
		t.Fatal(err)
	}
	if info.ImageSpec.Config.User != "www-data:www" || info.ChainID != "sha256:"+strings.Repeat("1", 64) || len(info.ImageSpec.Config.Volumes) != 1 {
		t.Errorf("info is %+v", info)
	}
	none, err := s.ImageStatus(ctx, &criv1.ImageStatusRequest{Image: &criv1.ImageSpec{Image: "none"}})
	if err != nil || none.GetImage() != nil {
		t.Errorf("status of an unknown image: %v, %v", none, err)
	}
	for filter, want := range map[string]int{"": 1, "none": 0, "sha256:abc": 1} {
		list, err := s.ListImages(ctx, &criv1.ListImagesRequest{Filter: &criv1.ImageFilter{Image: &criv1.ImageSpec{Image: filter}}})
		if err != nil || len(list.GetImages()) != want {
			t.Errorf("filter %q: %v, %v", filter, list, err)
		}
	}
	fs, err := s.ImageFsInfo(ctx, &criv1.ImageFsInfoRequest{})
	if err != nil || fs.GetImageFilesystems()[0].GetFsId().GetMountpoint() != "/store" || fs.GetContainerFilesystems()[0].GetUsedBytes().GetValue() != 7 {
		t.Errorf("file systems are %v, %v", fs, err)
	}
	if _, err := s.RemoveImage(ctx, &criv1.RemoveImageRequest{Image: spec}); err != nil || len(s.images.images) != 0 {
		t.Errorf("removed: %v, left %v", err, s.images.images)
	}
	s.images.fail = fmt.Errorf("registry said no: %w", errdefs.ErrUnauthenticated)
	_, err = s.PullImage(ctx, &criv1.PullImageRequest{Image: spec, Auth: &criv1.AuthConfig{Password: "hunter2"}})
	wantCode(t, err, codes.Unauthenticated)
	if strings.Contains(s.log.String(), "hunter2") {
		t.Error("a secret is in the log")
	}
	if !strings.Contains(s.log.String(), `"method":"PullImage","image":"docker.io/library/nginx:1"`) {
		t.Errorf("no line for the pull:\n%s", s.log)
	}
}

func TestUpdates(t *testing.T) {
	s, ctx := serve(t), t.Context()
	pod := s.pod(t, "p")
	id := s.run(t, pod, "c")
	_, err := s.UpdateContainerResources(ctx, &criv1.UpdateContainerResourcesRequest{ContainerId: id, Linux: &criv1.LinuxContainerResources{CpuShares: 5}})
	if err != nil || s.rt.updated.CPUShares != 5 {
		t.Errorf("updated %v, %v", s.rt.updated, err)
	}
	_, err = s.UpdatePodSandboxResources(ctx, &criv1.UpdatePodSandboxResourcesRequest{PodSandboxId: pod, Resources: &criv1.LinuxContainerResources{CpuShares: 6}})
	if err != nil || s.rt.updated.CPUShares != 6 {
		t.Errorf("updated %v, %v", s.rt.updated, err)
	}
	_, err = s.ReopenContainerLog(ctx, &criv1.ReopenContainerLogRequest{ContainerId: id})
	wantCode(t, err, codes.OK)
}

func TestMetricsTellEveryCall(t *testing.T) {
	s := serve(t)
	_, _ = s.Version(t.Context(), &criv1.VersionRequest{})
	families, err := s.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if len(families) != 1 || families[0].GetName() != "shimd_cri_request_duration_seconds" || families[0].GetMetric()[0].GetHistogram().GetSampleCount() != 1 {
		t.Errorf("metrics are %v", families)
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(Options{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("without a runtime: %v", err)
	}
	if _, err := New(Options{Runtime: newFakeRuntime(), Images: &fakeImages{}, StreamingAddress: "0.0.0.0:0"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("streaming address: %v", err)
	}
}
