package examples_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shimd/shimd/integration/cluster"
	"github.com/shimd/shimd/integration/controlgroup"
	"github.com/shimd/shimd/integration/enclosure"
	"github.com/shimd/shimd/integration/images"
	"github.com/shimd/shimd/integration/leaks"
	"github.com/shimd/shimd/integration/tools"
)

const (
	// agentVariable chooses the nodes' agent; `make examples AGENT=...` sets it.
	agentVariable = "SHIMD_TEST_AGENT"
	// dirVariable carries the working directory into the enclosure.
	dirVariable = "SHIMD_TEST_EXAMPLES"

	// workers are the nodes that examples run on. There is one more, the small one, for what fills a node's memory.
	workers = 3
)

var (
	shared *cluster.Cluster // set once, before any test
	reason string           // why there is none
)

func TestMain(m *testing.M) {
	status, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "examples:", err)
		status = 1
	}
	os.Exit(status)
}

func run(m *testing.M) (status int, err error) {
	ctx := context.Background()
	root, err := tools.ModuleRoot()
	if err != nil {
		return 0, err
	}
	if reason, err = whyNot(ctx, root); err != nil {
		return 0, err
	}
	if reason != "" {
		return m.Run(), nil
	}
	if os.Getenv(dirVariable) == "" {
		if err := prepare(ctx, root); err != nil {
			return 0, err
		}
	}
	dir := os.Getenv(dirVariable)
	// Also when the program inside was killed.
	enclosure.Enter(enclosure.Options{AtExit: func() error { return errors.Join(cluster.Remove(filepath.Join(dir, "cluster")), os.RemoveAll(dir)) }})
	return runInside(ctx, m, root, dir)
}

// whyNot says what is missing.
func whyNot(ctx context.Context, root string) (string, error) {
	if os.Geteuid() != 0 {
		return "root is needed: namespaces, mounts and control groups", nil
	}
	missing, err := tools.MissingPrograms(ctx, root, tools.ClusterPrograms())
	if err != nil || len(missing) == 0 {
		return "", err
	}
	return fmt.Sprintf("%s: not in the cache; `make kubernetes` builds them, which takes a quarter of an hour", strings.Join(missing, ", ")), nil
}

// prepare builds everything that wants a network, outside of the enclosure.
func prepare(ctx context.Context, root string) error {
	dir, err := os.MkdirTemp("/var/tmp", "shimd-examples-")
	if err != nil {
		return fmt.Errorf("making a working directory: %w", err)
	}
	say := func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
	err = cluster.Prepare(ctx, root, filepath.Join(dir, "bin"), say)
	if err == nil {
		say("building the images that the cache does not have")
		_, err = images.Examples(ctx, images.Options{Root: root})
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	return errors.Join(os.Setenv(dirVariable, dir), os.Setenv(cluster.PreparedVariable, filepath.Join(dir, "bin")))
}

func runInside(ctx context.Context, m *testing.M, root, dir string) (status int, err error) {
	set, err := images.Examples(ctx, images.Options{Root: root})
	if err != nil {
		return 0, err
	}
	showUnified, err := controlgroup.HideUnified()
	if err != nil {
		return 0, err
	}
	scope := leaks.Scope{
		Files: []string{"/run", "/var/run", "/var/lib", "/etc", "/opt", "/dev/shm", "/var/log"},
		// Of tests that run at the same time; that this cluster's control groups are gone is looked at below.
		Ignore: []string{"shimd-test-", "/shimd_", "go-build", "systemd-private", "shimd-bundle-", "/var/log/"},
	}
	before, err := leaks.Take(scope)
	if err != nil {
		return 0, err
	}
	shared, err = cluster.Start(ctx, cluster.Config{
		Nodes: workers + 1, Agent: os.Getenv(agentVariable), Dir: filepath.Join(dir, "cluster"), Images: set, Log: os.Stdout, NodeConfig: configure,
	})
	if err != nil {
		return 0, errors.Join(err, keepLogs(root, filepath.Join(dir, "cluster", "log")))
	}
	status = m.Run()
	if left := namespacesLeft(ctx); left != "" {
		fmt.Println("LEAK: namespaces that do not go:", left)
		status = 1
	}
	for _, death := range shared.Deaths() {
		fmt.Println("DIED:", death)
		status = 1
	}
	if status != 0 {
		err = keepLogs(root, filepath.Join(dir, "cluster", "log"))
	}
	if err := errors.Join(err, shared.Close()); err != nil {
		return 0, err
	}
	left, err := leaks.Settle(before, scope, 15*time.Second)
	if err := errors.Join(err, showUnified()); err != nil {
		return 0, err
	}
	for _, node := range shared.Nodes() {
		groups, err := filepath.Glob("/sys/fs/cgroup/*/" + node.CgroupName())
		if err != nil {
			return 0, err
		}
		left = append(left, groups...)
	}
	if !leaks.Report(left) {
		status = 1
	}
	return status, nil
}

// namespacesLeft waits until every namespace of the examples has gone, and answers those that do not go.
func namespacesLeft(ctx context.Context) string {
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Second) {
		all, err := shared.Kubectl(ctx, "get", "namespaces", "-o", "jsonpath={range .items[*]}{.metadata.name}{\"\\n\"}{end}")
		var left []string
		for name := range strings.FieldsSeq(string(all)) {
			if !strings.HasPrefix(name, "kube-") && name != "default" {
				left = append(left, name)
			}
		}
		if err == nil && len(left) == 0 {
			return ""
		}
		if time.Now().After(deadline) {
			return fmt.Sprint(left, " ", err)
		}
	}
}

// keepLogs copies what the cluster's programs said to bin/examples-logs.
func keepLogs(root, from string) error {
	to := filepath.Join(root, "bin", "examples-logs")
	if err := os.RemoveAll(to); err != nil {
		return fmt.Errorf("removing earlier logs: %w", err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return fmt.Errorf("keeping the logs: %w", err)
	}
	fmt.Println("logs are in", to)
	return nil
}

// configure adds runc and crun to every node, and makes the last one small: most of its memory is said to be the system's.
func configure(i int, settings *cluster.NodeSettings) {
	settings.Shimd = "[runtimes.runc]\npath = \"/usr/sbin/runc\"\n\n[runtimes.crun]\npath = \"/usr/bin/crun\"\n"
	if i < workers {
		return
	}
	const forPods = 600 << 10 // KiB
	settings.Kubelet["systemReserved"] = map[string]string{"memory": fmt.Sprintf("%dKi", machineMemory()-forPods)}
	settings.Kubelet["evictionHard"] = map[string]string{"memory.available": "150Mi"}
	settings.Kubelet["evictionPressureTransitionPeriod"] = "10s"
	settings.Kubelet["registerWithTaints"] = []map[string]string{{"key": "example.com/small", "effect": "NoSchedule"}}
}

// machineMemory is in KiB.
func machineMemory() (total int64) {
	text, err := os.ReadFile("/proc/meminfo")
	if err == nil {
		_, err = fmt.Sscanf(string(text), "MemTotal: %d kB", &total)
	}
	if err != nil {
		panic(fmt.Sprintf("reading the machine's memory: %v", err))
	}
	return total
}
