package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"
)

// NodeAddress is the node's, in the enclosure's network. It is not on loopback, which no node may be.
const NodeAddress = "10.99.98.1"

// NodeRun is a run of e2e_node.test: it starts etcd and an API server within itself, and the agent.
type NodeRun struct {
	Suite    Suite
	Ginkgo   string // program
	Program  string // e2e_node.test
	Agents   string // directory with a program called kubelet
	Endpoint string // of the runtime
	Reports  string // directory for reports and logs
	Work     string // directory for what the node writes, on a disk
	Parallel int
	Again    int // how often specs that failed are run again, one after the other
	Progress io.Writer
}

// fixed are directories that the agent and the suite write to at places of their own choice.
func fixed() []string { return []string{"/var/lib/kubelet", "/var/log", "/run"} }

// MakeMountPoints makes those of the agent's fixed directories that the machine does not have, so that PrepareNode can mount there. It is called outside
// of the enclosure; so is remove, when that is gone.
func MakeMountPoints() (remove func() error, err error) {
	var made []string
	remove = func() error {
		var err error
		for _, dir := range made {
			err = errors.Join(err, os.Remove(dir))
		}
		return err
	}
	for _, dir := range fixed() {
		if err := os.Mkdir(dir, 0o755); errors.Is(err, os.ErrExist) {
			continue
		} else if err != nil {
			return nil, errors.Join(fmt.Errorf("making %s to mount on: %w", dir, err), remove())
		}
		made = append(made, dir)
	}
	return remove, nil
}

// PrepareNode changes the enclosure into the node: an address, the agent's fixed directories in work, and nothing of the machine's that it would write to
// or talk to. All of it is gone with the enclosure.
func PrepareNode(work string) error {
	if err := addAddress("node0", NodeAddress+"/24"); err != nil {
		return err
	}
	for _, dir := range fixed() {
		if err := bind(filepath.Join(work, "machine", dir), dir); err != nil {
			return fmt.Errorf("giving the node its own %s: %w", dir, err)
		}
	}
	// The suite starts the agent by systemd where it finds these, and reads its log there. The systemd of this machine knows nothing of the enclosure.
	for _, name := range []string{"systemd-run", "journalctl", "systemctl"} {
		if path, err := exec.LookPath(name); err == nil {
			if err := unix.Mount("/dev/null", path, "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("hiding %s: %w", path, err)
			}
		}
	}
	return hideTunables(filepath.Join(work, "tunables"))
}

// tunables are what the kubelet wants of the kernel. They are the machine's in every namespace, so it gets files to look at instead.
var tunables = map[string]string{
	"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
	"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}

func hideTunables(dir string) error {
	for name, value := range tunables {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return fmt.Errorf("hiding the kernel's %s: %w", name, err)
		}
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return fmt.Errorf("hiding the kernel's %s: %w", name, err)
		}
		if err := unix.Mount(file, filepath.Join("/proc/sys", name), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("hiding the kernel's %s: %w", name, err)
		}
	}
	return nil
}

func bind(from, to string) error {
	if err := os.MkdirAll(from, 0o755); err != nil {
		return err
	}
	return unix.Mount(from, to, "", unix.MS_BIND, "")
}

// addAddress adds a bridge with an address: not every kernel has dummy interfaces.
func addAddress(name, address string) error {
	parsed, err := netlink.ParseAddr(address)
	if err != nil {
		return fmt.Errorf("giving the node its address: %w", err)
	}
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("adding the node's interface: %w", err)
	}
	if err := errors.Join(netlink.AddrAdd(link, parsed), netlink.LinkSetUp(link)); err != nil {
		return fmt.Errorf("giving the node its address: %w", err)
	}
	// It leads nowhere, but the suite's API server takes the address of the interface that a default route names.
	gateway := slices.Clone(parsed.IP.To4())
	gateway[3] = 254
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Index, Gw: gateway}); err != nil {
		return fmt.Errorf("giving the node a default route: %w", err)
	}
	return nil
}

// Do runs the suite, and what failed again.
func (n NodeRun) Do(ctx context.Context) (Results, error) {
	for _, dir := range []string{"run", "tmp", "plugins"} {
		if err := os.MkdirAll(filepath.Join(n.Work, dir), 0o755); err != nil {
			return nil, fmt.Errorf("making the node's directories: %w", err)
		}
	}
	config := filepath.Join(n.Work, "kubelet.yaml")
	text, err := yaml.Marshal(n.configuration())
	if err != nil {
		return nil, fmt.Errorf("writing the node's configuration: %w", err)
	}
	if err := os.WriteFile(config, text, 0o644); err != nil {
		return nil, fmt.Errorf("writing the node's configuration: %w", err)
	}
	reports, err := filepath.Abs(n.Reports)
	if err != nil {
		return nil, fmt.Errorf("finding the directory for reports: %w", err)
	}
	run := Run{
		Name: n.Suite.Name, Ginkgo: n.Ginkgo, Suite: n.Program, Dir: reports, WorkDir: filepath.Join(n.Work, "run"),
		Labels: n.Suite.Labels, Focus: n.Suite.Focus, Skip: n.Suite.Skip, Parallel: n.Parallel, Progress: n.Progress,
		Env: []string{"TMPDIR=" + filepath.Join(n.Work, "tmp")},
	}
	return runAgain(ctx, run, n.Again, func(name string) []string { return n.arguments(config, filepath.Join(reports, name)) })
}

// arguments are e2e_node.test's.
func (n NodeRun) arguments(config, reports string) []string {
	agent := []string{
		// These two would move processes of the machine.
		"--system-cgroups=", "--kubelet-cgroups=", "--runtime-cgroups=",
		"--node-ip=" + NodeAddress, "--cluster-domain=cluster.local",
	}
	return []string{
		"--k8s-bin-dir=" + n.Agents, "--container-runtime-endpoint=" + n.Endpoint, "--node-name=node",
		"--kubelet-config-file=" + config, "--kubelet-flags=" + strings.Join(agent, " "),
		"--dns-domain=cluster.local", "--prepull-images=false", "--report-dir=" + reports, "--server-start-timeout=5m",
		// For the agent too, and for specs that ask: cAdvisor knows the sockets of two other runtimes only.
		"--feature-gates=PodAndContainerStatsFromCRI=true",
	}
}

// configuration is the suite's own (test/e2e_node/jenkins/default-kubelet-config.yaml), and what this machine needs.
func (n NodeRun) configuration() map[string]any {
	return map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"cgroupDriver": "cgroupfs", "cgroupRoot": "/",
		"podCIDR":                          "10.100.0.0/24",
		"volumeStatsAggPeriod":             "10s",
		"fileCheckFrequency":               "10s",
		"evictionPressureTransitionPeriod": "30s",
		"evictionHard":                     map[string]string{"memory.available": "250Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%"},
		"evictionMinimumReclaim":           map[string]string{"nodefs.available": "5%", "nodefs.inodesFree": "5%"},
		"serializeImagePulls":              false,
		"failCgroupV1":                     false,
		"failSwapOn":                       false,
		"protectKernelDefaults":            true, // says so instead of writing
		"makeIPTablesUtilChains":           false,
		"volumePluginDir":                  filepath.Join(n.Work, "plugins"),
	}
}

// runAgain runs what failed again, one after the other. arguments get the run's name.
func runAgain(ctx context.Context, run Run, times int, arguments func(name string) []string) (Results, error) {
	first := run.Name
	run.Args = arguments(run.Name)
	results, err := run.Do(ctx)
	for n := 2; err == nil && n < times+2 && len(results.Of(Failed)) > 0; n++ {
		run.Name, run.Labels, run.Focus, run.Skip, run.Parallel = fmt.Sprintf("%s-%d", first, n), "", exactly(results.Of(Failed)), nil, 1
		run.Args = arguments(run.Name)
		var later Results
		if later, err = run.Do(ctx); err == nil {
			results.Merge(later)
		}
	}
	return results, err
}
