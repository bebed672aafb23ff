package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shimd/shimd/integration/cluster"
	"github.com/shimd/shimd/integration/enclosure"
	"github.com/shimd/shimd/integration/images"
	"github.com/shimd/shimd/integration/leaks"
	"github.com/shimd/shimd/integration/tools"
)

// reason says why no cluster can be started; set once, before any test.
var reason string

func TestMain(m *testing.M) {
	var err error
	if reason, err = cluster.Enter(context.Background(), enclosure.Options{}); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// lines gives a test what a cluster says.
type lines struct{ t *testing.T }

func (l lines) Write(text []byte) (int, error) {
	l.t.Logf("%s", bytes.TrimSpace(text))
	return len(text), nil
}

// start starts a cluster with the images of DNS, a web page and busybox. When the test ends, the cluster does, and nothing may be left of it.
func start(t *testing.T, config cluster.Config) *cluster.Cluster {
	t.Helper()
	if reason != "" {
		t.Skip(reason)
	}
	root, err := tools.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	opts := images.Options{Root: root}
	if config.Images, err = images.Cluster(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	web, err := images.Demo(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(config.Images, web)
	// Not t.TempDir: /tmp may be a tmpfs, and the name too long.
	if config.Dir, err = os.MkdirTemp("/var/tmp", "shimd-test-"); err != nil {
		t.Fatal(err)
	}
	scope := leaks.Scope{
		Files:  []string{"/run", "/var/run", "/var/lib", "/etc", "/opt", "/dev/shm", "/var/log", "/usr/libexec"},
		Ignore: []string{"systemd-private", "/shimd_"},
	}
	before, err := leaks.Take(scope)
	if err != nil {
		t.Fatal(err)
	}
	// Control groups of other tests come and go; this cluster's are looked for by name.
	delete(before, "control group")
	config.Log = lines{t}
	c, err := cluster.Start(t.Context(), config)
	if err != nil {
		t.Fatal(errors.Join(err, os.RemoveAll(config.Dir)))
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("closing the cluster: %v", err)
		}
		if err := os.RemoveAll(config.Dir); err != nil {
			t.Error(err)
		}
		left, err := leaks.Settle(before, scope, 15*time.Second)
		if err != nil {
			t.Error(err)
		}
		for _, line := range left {
			if ours := strings.Contains(line, c.Nodes()[0].CgroupName()); ours || !strings.HasPrefix(line, "control group") {
				t.Errorf("LEAK: %s", line)
			}
		}
	})
	return c
}

func kubectl(t *testing.T, c *cluster.Cluster, args ...string) string {
	t.Helper()
	out, err := c.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// One node: a Deployment behind a Service is reached by its DNS name from another pod; what the API server asks the kubelet for works; the node survives
// restarts of its parts and of itself.
func TestCluster(t *testing.T) {
	c := start(t, cluster.Config{})
	node := c.Nodes()[0]
	if nodes := kubectl(t, c, "get", "nodes", "--no-headers"); !strings.Contains(nodes, node.Name()+" ") || strings.Contains(nodes, "NotReady") {
		t.Fatalf("the node isn't ready:\n%s", nodes)
	}
	kubectl(t, c, "create", "deployment", "web", "--image", images.Web, "--replicas", "2")
	kubectl(t, c, "expose", "deployment", "web", "--port", "80", "--target-port", "8080")
	kubectl(t, c, "run", "client", "--image", images.Busybox, "--command", "--", "sleep", "100000")
	kubectl(t, c, "rollout", "status", "deployment/web", "--timeout", "2m")
	kubectl(t, c, "wait", "pod/client", "--for=condition=Ready", "--timeout", "2m")
	// Asked until it works: an agent that was just restarted has to hear of its pods first.
	fetch := func() {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for {
			page, err := c.Kubectl(t.Context(), "exec", "client", "--", "wget", "-q", "-O", "-", "http://web.default.svc.cluster.local/")
			if err == nil && strings.Contains(string(page), "Hello from a pod") {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("fetching the page: %v\n%s", err, page)
			}
			time.Sleep(time.Second)
		}
	}
	fetch()
	if log := kubectl(t, c, "logs", "deployment/web", "--all-pods"); !strings.Contains(log, "GET /") {
		t.Errorf("no pod's log tells of a request:\n%s", log)
	}
	if out, err := node.Command(t.Context(), "hostname").Output(); err != nil || strings.TrimSpace(string(out)) != node.Name() {
		t.Errorf("the node is called %q: %v", out, err)
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"shimd is killed", func() error { return errors.Join(node.KillShimd(), node.StartShimd(t.Context())) }},
		{"the agent is restarted", func() error { return node.RestartAgent(t.Context()) }},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		fetch()
	}
	if pods := kubectl(t, c, "get", "pods", "-A", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}"); strings.Trim(pods, "0 ") != "" {
		t.Errorf("containers were restarted: %s", pods)
	}
	if err := node.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	kubectl(t, c, "wait", "pod/client", "--for=condition=Ready", "--timeout", "2m")
	kubectl(t, c, "rollout", "status", "deployment/web", "--timeout", "2m")
	kubectl(t, c, "--namespace", "kube-system", "rollout", "status", "deployment/coredns", "--timeout", "2m")
	if deaths := c.Deaths(); len(deaths) > 0 {
		t.Errorf("a program has died: %v", deaths[0])
	}
}

// A program that ends is reported at once, by name, with the end of its log.
func TestDeathIsReported(t *testing.T) {
	told := make(chan *cluster.DeathError, 10)
	c := start(t, cluster.Config{Died: func(death *cluster.DeathError) { told <- death }})
	for _, p := range c.Components() {
		if p.Name != "kube-scheduler" {
			continue
		}
		if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case death := <-told:
		if death.Component != "kube-scheduler" || !strings.Contains(death.State, "killed") || death.LogTail == "" {
			t.Errorf("reported was: %v", death)
		}
	case <-time.After(time.Minute):
		t.Error("nothing was reported")
	}
}
