package kubelet_test

import (
	"io"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/integration/controlgroup"
)

const podCIDR = "10.99.0.0/24"

// The real kubelet, without a cluster, runs the pods of testdata on shimd. What a user would see is asserted through the kubelet's API.
func TestKubeletRunsStaticPods(t *testing.T) {
	// shimd is not one of the runtimes that the kubelet's cAdvisor knows.
	n := startNode(t, map[string]bool{"PodAndContainerStatsFromCRI": true}, nil)
	n.runFiles(t, "*")
	runParts(t, n, []part{
		{"web", testWeb}, {"streams", testStreams}, {"crash", testCrash}, {"memory", testMemory}, {"hostnetwork", testHostNetwork}, {"processes", testProcesses},
		{"secure", testSecure}, {"userns", testUserns}, {"sidecar", testSidecar}, {"statistics", testStatistics},
		{"shimd killed", testDaemonKilled}, {"kubelet restarted", testKubeletRestarted}, {"files removed", testFilesRemoved},
	})
}

// The same with the kubelet's alpha features that use more of CRI: events instead of polling, lists as streams, stop signals.
func TestKubeletDrivenByEvents(t *testing.T) {
	n := startNode(t, map[string]bool{
		"PodAndContainerStatsFromCRI": true, "EventedPLEG": true, "CRIListStreaming": true, "ContainerStopSignals": true, "ImageVolumeWithDigest": true,
	}, nil)
	n.runFiles(t, "[cms]*")
	runParts(t, n, []part{
		{"crash", testCrash}, {"memory", testMemory}, {"secure", testSecure}, {"sidecar", testSidecar}, {"files removed", testFilesRemoved},
	})
}

type part struct {
	name string
	test func(*testing.T, *node)
}

func runParts(t *testing.T, n *node, parts []part) {
	t.Helper()
	for _, part := range parts {
		t.Run(part.name, func(t *testing.T) { part.test(t, n) })
	}
	complaints, err := n.kubelet.Complaints(expected...)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range complaints {
		if aboutRuntime.MatchString(line) {
			t.Errorf("the kubelet complains: %s", line)
		} else {
			t.Logf("the kubelet complains: %s", line)
		}
	}
}

// aboutRuntime fits complaints from the kubelet's files that deal with the runtime. Others may come from whatever else goes on on this machine.
var aboutRuntime = regexp.MustCompile(`rpc error|\d+ (remote_\w+|kuberuntime_\w+|evented|generic|cri_\w+|pod_workers|prober|worker|image_manager|image_gc_manager|userns_manager|pod_container_\w+|kubelet_pods|kubelet_getters|helpers)\.go:`)

// expected are complaints of the kubelet's that have nothing to do with the runtime, or are what the test does.
var expected = []string{
	// Without a cluster.
	"standalone", "failed to check if node is newer",
	// At the start.
	"Flexvolume plugin directory", "Skipping pod synchronization", "checkpoint is not found", "Failed to find cgroups of kubelet",
	"Failed to get system container stats", `system container \"pods\" not found`,
	// It looks for its cAdvisor's label, which only containerd and CRI-O have; what follows from it is "not separate", which is true.
	"no imagefs label for configured runtime",
	// Its cAdvisor follows every control group of the machine, those of other tests too, and they come and go; and the kernel's log.
	"watcher.go", "oomparser.go",
	// The crashing pod.
	"CrashLoopBackOff",
	// It lists containers, removes them, and asks for the status of one that it has just removed.
	"does not exist: not found",
	// While the daemon is away, and when a client of the kubelet is.
	"code = Unavailable", "connection error: desc", "addrConn.createTransport failed", "code = Canceled", "context canceled", "use of closed network connection", "Container runtime not ready", "Container runtime sanity check failed",
}

func testWeb(t *testing.T, n *node) {
	pod := n.wait(t, "web", "ready", ready)
	if address, err := netip.ParseAddr(pod.Status.PodIP); err != nil || !netip.MustParsePrefix(podCIDR).Contains(address) {
		t.Errorf("the pod's address is %q, not one of the range in the kubelet's configuration: %v", pod.Status.PodIP, err)
	}
	prepare := status(pod, "prepare")
	if ended := prepare.State.Terminated; ended == nil || ended.ExitCode != 0 || ended.Reason != "Completed" || ended.StartedAt.IsZero() || ended.FinishedAt.IsZero() {
		t.Errorf("the init container's state is %+v", prepare.State)
	}
	for _, name := range []string{"server", "beside"} {
		s := status(pod, name)
		if !strings.HasPrefix(s.ContainerID, "shimd://") || s.State.Running == nil || s.RestartCount != 0 || !strings.Contains(s.ImageID, "@sha256:") ||
			(s.Image != "registry.k8s.io/shimd/web:1" && s.Image != "docker.io/library/busybox:latest") {
			t.Errorf("container %s: %+v", name, s)
		}
	}
	if got := status(pod, "server").Resources; got == nil || got.Limits.Memory().String() != "64Mi" || got.Limits.Cpu().String() != "500m" {
		t.Errorf("the server's actual resources are %v", got)
	}
	for _, address := range []string{pod.Status.PodIP + ":8080", "127.0.0.1:18080"} {
		if page := fetch(t, "http://"+address+"/asked"); !strings.Contains(page, "hello from the web pod") || !strings.Contains(page, "host name: web") {
			t.Errorf("%s serves %q", address, page)
		}
	}
	var log string
	eventually(t, "the server's log has the test's requests and the probes'", func() bool {
		log = n.log(t, pod, "server")
		return strings.Contains(log, "GET /asked") && strings.Contains(log, "GET /ready") && strings.Contains(log, "GET /alive")
	}, func() string { return log })
	if log := n.log(t, pod, "beside"); log != "greetings from web-node on node\nprepared in web\npart\n" {
		t.Errorf("the second container's log is %q", log)
	}
	if out := n.run(t, pod, "beside", "cat", "/shared/hook", "/info/labels", "/etc/hosts"); !strings.HasPrefix(out, "started\n") ||
		!strings.Contains(out, `app="web"`) || !strings.Contains(out, "alias.test") {
		t.Errorf("in the second container: %q", out)
	}
	if out := n.run(t, pod, "beside", "stat", "-f", "-c", "%T", "/tmp"); out != "tmpfs\n" {
		t.Errorf("a volume in memory is %q in the container", out)
	}
}

func testStreams(t *testing.T, n *node) {
	pod := n.wait(t, "web", "ready", ready)
	stdout, stderr, code, err := n.kubelet.Exec(t.Context(), pod.Name, "beside", "one\ntwo\n", "sh", "-c", "wc -l; echo problem >&2; exit 42")
	if err != nil || stdout != "2\n" || stderr != "problem\n" || code != 42 {
		t.Errorf("exec: %q, %q, status %d, %v", stdout, stderr, code, err)
	}
	page, err := n.kubelet.FetchForwarded(t.Context(), pod.Name, 8080, "/forwarded")
	if err != nil || !strings.Contains(page, "hello from the web pod") {
		t.Errorf("through a forwarded port: %q, %v", page, err)
	}
}

func testCrash(t *testing.T, n *node) {
	pod := n.wait(t, "crash", "is restarted and waits", func(pod corev1.Pod) bool {
		s := status(pod, "main")
		return s.RestartCount >= 2 && s.State.Waiting != nil && s.State.Waiting.Reason == "CrashLoopBackOff"
	})
	ended := status(pod, "main").LastTerminationState.Terminated
	if ended == nil || ended.ExitCode != 3 || ended.Reason != "Error" || ended.Message != "out of luck\n" {
		t.Errorf("the last state is %+v", ended)
	}
	if log := n.log(t, pod, "main"); log != "about to fail\n" {
		t.Errorf("the log is %q", log)
	}
}

func testMemory(t *testing.T, n *node) {
	pod := n.wait(t, "memory", "failed", phase(corev1.PodFailed))
	if ended := status(pod, "main").State.Terminated; ended == nil || ended.Reason != "OOMKilled" || ended.ExitCode != 137 {
		t.Errorf("the state is %+v", status(pod, "main").State)
	}
}

func testHostNetwork(t *testing.T, n *node) {
	n.wait(t, "hostnetwork", "ready", ready) // without an address: a kubelet without a cluster does not fill in the node's
	if page := fetch(t, "http://127.0.0.1:18081/"); !strings.Contains(page, "hello from the node's network") || !strings.Contains(page, nodeIP) {
		t.Errorf("the page is %q", page)
	}
}

func testProcesses(t *testing.T, n *node) {
	pod := n.wait(t, "processes", "ready", ready)
	if out := n.run(t, pod, "one", "ps", "-o", "pid,args"); !strings.Contains(out, "sleep 1001") || !strings.Contains(out, "sleep 1002") || strings.Contains(out, "    1 sleep") {
		t.Errorf("the processes are\n%s", out)
	}
}

func testSecure(t *testing.T, n *node) {
	pod := n.wait(t, "secure", "ready", ready)
	log := n.log(t, pod, "main")
	for _, want := range []string{
		"uid=1234 gid=2345 groups=", "2345", "3456", "4567", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2",
		"touch: /here: Read-only file system", "\n80\n", "\n3456\n",
	} {
		if !strings.Contains(log, want) {
			t.Errorf("%q is not in the log:\n%s", want, log)
		}
	}
	if user := status(pod, "main").User; user == nil || user.Linux == nil || user.Linux.UID != 1234 || user.Linux.GID != 2345 || len(user.Linux.SupplementalGroups) != 3 {
		t.Errorf("the status says that the user is %+v", user)
	}
}

func testUserns(t *testing.T, n *node) {
	pod := n.wait(t, "userns", "ready", ready)
	lines := strings.Split(n.log(t, pod, "main"), "\n")
	if len(lines) != 4 || lines[0] != "0" || lines[2] != "0" {
		t.Fatalf("the log is %q", lines)
	}
	if mapping := strings.Fields(lines[1]); len(mapping) != 3 || mapping[0] != "0" || mapping[1] == "0" || mapping[2] != "65536" {
		t.Errorf("user IDs are mapped by %q", lines[1])
	}
	file := filepath.Join(n.kubelet.Root(), "pods", string(pod.UID), "volumes/kubernetes.io~empty-dir/data/file")
	if info, err := os.Stat(file); err != nil || info.Size() != 5 {
		t.Errorf("what the container wrote to its volume: %v, %v", info, err)
	}
}

func testSidecar(t *testing.T, n *node) {
	pod := n.wait(t, "sidecar", "succeeded", phase(corev1.PodSucceeded))
	if log := n.log(t, pod, "main"); log != "here\ndone\n" {
		t.Errorf("the log is %q", log)
	}
	if ended := status(pod, "side").State.Terminated; ended == nil || ended.ExitCode != 0 {
		t.Errorf("the sidecar's state is %+v", status(pod, "side").State)
	}
}

func testDaemonKilled(t *testing.T, n *node) {
	before := containers(n.pods(t), "crash")
	started := processStarts(t, n)
	if err := n.daemon.Kill(); err != nil {
		t.Fatal(err)
	}
	// Long enough for the kubelet to notice.
	time.Sleep(5 * time.Second)
	web := n.pods(t)["web"]
	if page := fetch(t, "http://"+web.Status.PodIP+":8080/"); !strings.Contains(page, "hello") {
		t.Errorf("without the daemon the web pod serves %q", page)
	}
	if err := n.daemon.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.wantUnchanged(t, before, started)
}

func testKubeletRestarted(t *testing.T, n *node) {
	before := containers(n.pods(t), "crash")
	started := processStarts(t, n)
	if err := n.kubelet.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := n.kubelet.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.wantUnchanged(t, before, started)
}

// wantUnchanged waits until the kubelet is content with its pods again, lets it work on them a little, and compares.
func (n *node) wantUnchanged(t *testing.T, before map[string]string, started map[string]int64) {
	t.Helper()
	for _, name := range []string{"web", "hostnetwork", "processes", "secure", "userns"} {
		n.wait(t, name, "ready again", ready)
	}
	n.wait(t, "memory", "failed still", phase(corev1.PodFailed))
	n.wait(t, "sidecar", "succeeded still", phase(corev1.PodSucceeded))
	time.Sleep(5 * time.Second)
	if after := containers(n.pods(t), "crash"); !maps.Equal(before, after) {
		t.Errorf("containers changed from\n%v\nto\n%v", before, after)
	}
	if now := processStarts(t, n); !maps.Equal(started, now) {
		t.Errorf("running containers changed from\n%v\nto\n%v", started, now)
	}
}

// processStarts are the running containers with the time each was started, as the runtime says.
func processStarts(t *testing.T, n *node) map[string]int64 {
	t.Helper()
	list, err := n.client.ListContainers(t.Context(), &criv1.ListContainersRequest{
		Filter: &criv1.ContainerFilter{State: &criv1.ContainerStateValue{State: criv1.ContainerState_CONTAINER_RUNNING}},
	})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int64{}
	for _, container := range list.Containers {
		if container.Labels["io.kubernetes.pod.name"] == "crash-node" {
			continue
		}
		status, err := n.client.Status(t.Context(), container.Id)
		if err != nil {
			t.Fatal(err)
		}
		found[container.Id] = status.StartedAt
	}
	return found
}

func testFilesRemoved(t *testing.T, n *node) {
	files, err := filepath.Glob(filepath.Join(n.kubelet.PodFiles(), "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	var left []string
	eventually(t, "pods and what they were made of are gone", func() bool {
		left = n.left(t)
		return len(left) == 0
	}, func() string { return "left: " + strings.Join(left, ", ") })
}

// left is what is still there of pods: in the kubelet's eyes, in the runtime's, on the disk and in control groups.
func (n *node) left(t *testing.T) []string {
	t.Helper()
	var found []string
	for name := range n.pods(t) {
		found = append(found, "pod "+name)
	}
	sandboxes, err := n.client.ListPodSandbox(t.Context(), &criv1.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, sandbox := range sandboxes.Items {
		found = append(found, "sandbox of "+sandbox.Metadata.Name+" "+sandbox.State.String())
	}
	for _, pattern := range []string{filepath.Join(n.kubelet.Root(), "pods", "*"), "/var/log/containers/*"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, files...)
	}
	groups, err := controlgroup.Children(n.cgroup)
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range groups {
		// The kubelet's own, which stay: the groups of all pods and of quality classes.
		if group != "kubepods" && group != "kubepods/burstable" && group != "kubepods/besteffort" {
			found = append(found, "control group "+group)
		}
	}
	return found
}

func fetch(t *testing.T, url string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Error(err)
	}
	return string(body)
}
