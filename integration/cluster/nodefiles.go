package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	"github.com/shimd/shimd/integration/cluster/nodeplan"
)

// Where things are on a node.
const (
	programsInside    = "/opt/shimd/bin"
	agentConfigFile   = "/etc/kubernetes/kubelet.yaml"
	agentKubeconfig   = "/etc/kubernetes/kubelet.conf"
	proxyConfigFile   = "/etc/kubernetes/kube-proxy.yaml"
	proxyKubeconfig   = "/etc/kubernetes/kube-proxy.conf"
	staticPods        = "/etc/kubernetes/manifests"
	nodeAuthorityFile = "/etc/kubernetes/pki/ca.crt"
	nodeServingCert   = "/etc/kubernetes/pki/kubelet.crt"
	nodeServingKey    = "/etc/kubernetes/pki/kubelet.key"
)

// nodeDirectories are made on a node's disk; the first programs' directories are the machine's.
var nodeDirectories = []string{
	"dev", "proc", "sys", "run", "tmp", "root", "home", "mnt", "media", "srv", "usr", programsInside, "/etc/kubernetes/pki", staticPods,
	"/etc/shimd/certs.d", "/etc/cni/net.d", "/opt/cni/bin", "/var/lib/kubelet", "/var/lib/shimd", "/var/log/pods", "/var/log/containers", "/var/tmp",
}

// machineFiles are copied to a node's /etc where the machine has them: who resolves names and users wants them.
var machineFiles = []string{"passwd", "group", "nsswitch.conf", "protocols", "services", "os-release", "ld.so.cache", "ld.so.conf", "mime.types"}

// tunables are what kubelets want of the kernel, with the values that they want. They are the machine's, whatever namespace a node is in, so nodes see
// files instead.
var tunables = map[string]string{
	"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
	"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}

// plan is what nodeinit is told.
func (n *Node) plan() nodeplan.Plan {
	plan := nodeplan.Plan{
		Hostname: n.name, Root: n.Root(), Address: n.Address() + nodeNetworkBits, Gateway: rackAddress,
		ReadOnly: map[string]string{"usr": "/usr", programsInside: n.cluster.config.Programs}, Tunables: map[string]string{},
	}
	// Debian's alternatives are links over there. The certificates are for who speaks to the world.
	for _, dir := range []string{"/etc/alternatives", "/etc/ssl"} {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			plan.ReadOnly[dir] = dir
		}
	}
	for _, name := range rootPrograms() {
		if info, err := os.Lstat("/" + name); err == nil && info.IsDir() {
			plan.ReadOnly[name] = "/" + name
		}
	}
	for name := range tunables {
		plan.Tunables[name] = n.tunable(name)
	}
	return plan
}

// rootPrograms are directories of programs and libraries below /; today they are links into /usr.
func rootPrograms() []string { return []string{"bin", "sbin", "lib", "lib32", "lib64"} }

func (n *Node) tunable(name string) string { return n.cluster.path("nodes", n.name, "tunables", name) }

// writeFiles writes what a node has on its disk before it is switched on for the first time.
func (n *Node) writeFiles() error {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	if n.filled {
		return nil
	}
	steps := []func() error{n.makeDirectories, n.writeSystem, n.writeIdentity, n.writeShimd, n.writeAgent, n.writeProxy}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("writing the files of %s: %w", n.name, err)
		}
	}
	n.filled = true
	return nil
}

func (n *Node) onDisk(path string) string { return filepath.Join(n.Root(), path) }

func (n *Node) makeDirectories() error {
	for _, dir := range nodeDirectories {
		if err := os.MkdirAll(n.onDisk(dir), 0o755); err != nil {
			return err
		}
	}
	for _, dir := range []string{"tmp", "var/tmp"} {
		if err := os.Chmod(n.onDisk(dir), 0o777|fs.ModeSticky); err != nil {
			return err
		}
	}
	for target := range n.plan().ReadOnly {
		if err := os.MkdirAll(n.onDisk(target), 0o755); err != nil {
			return err
		}
	}
	links := map[string]string{"var/run": "/run"}
	for _, name := range rootPrograms() {
		if target, err := os.Readlink("/" + name); err == nil {
			links[name] = target
		}
	}
	for link, target := range links {
		if err := os.Symlink(target, n.onDisk(link)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// writeSystem writes what makes it a machine of its own.
func (n *Node) writeSystem() error {
	for _, name := range machineFiles {
		text, err := os.ReadFile(filepath.Join("/etc", name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(n.onDisk("etc/"+name), text, 0o644)
		}
		if err != nil {
			return err
		}
	}
	files := map[string]string{
		"etc/hostname":   n.name + "\n",
		"etc/hosts":      fmt.Sprintf("127.0.0.1 localhost\n::1 localhost\n%s %s\n%s rack\n", n.Address(), n.name, rackAddress),
		"etc/machine-id": strings.Repeat(fmt.Sprintf("%08x", n.index), 4) + "\n",
		// There is no name server on the nodes' network. Pods have the cluster's.
		"etc/resolv.conf": "",
	}
	for name, text := range files {
		if err := os.WriteFile(n.onDisk(name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for name, value := range tunables {
		file := n.tunable(name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// writeIdentity writes certificates: the node's as a client, which the Node authorizer and NodeRestriction go by, and the one that the agent serves with.
func (n *Node) writeIdentity() error {
	user, serving := "system:node:"+n.name, n.name+"-serving"
	for _, s := range []subject{
		{file: n.name, name: user, groups: []string{"system:nodes"}},
		{file: serving, name: user, groups: []string{"system:nodes"}, hosts: []string{n.name, n.Address()}},
	} {
		if err := n.cluster.authority.issue(s); err != nil {
			return err
		}
	}
	for file, source := range map[string]string{
		nodeAuthorityFile: "ca.crt", nodeServingCert: serving + ".crt", nodeServingKey: serving + ".key", proxyKubeconfig: "kube-proxy.kubeconfig",
	} {
		text, err := os.ReadFile(n.cluster.pki(source))
		if err != nil {
			return err
		}
		if err := os.WriteFile(n.onDisk(file), text, 0o600); err != nil {
			return err
		}
	}
	return writeKubeconfig(n.onDisk(agentKubeconfig), apiURL, n.cluster.path("pki"), n.name)
}

func (n *Node) writeShimd() error {
	if err := n.cluster.registry.WriteHosts(n.onDisk("/etc/shimd/certs.d")); err != nil {
		return err
	}
	// Without masquerading: the nodes' network knows the way to every pod, and pods see each other's addresses.
	text := fmt.Sprintf("[cgroup]\nparent = %q\n\n[network]\npod_cidr = \"client\"\nmasquerade = false\n\n%s", n.CgroupName()+runtimeGroup, n.settings.Shimd)
	return os.WriteFile(n.onDisk("/etc/shimd/config.toml"), []byte(text), 0o644)
}

// agentArgs are the kubelet's; shimlet takes the same.
func (n *Node) agentArgs() []string {
	return append([]string{
		"--config", agentConfigFile, "--kubeconfig", agentKubeconfig, "--hostname-override", n.name, "--node-ip", n.Address(),
		"--root-dir", "/var/lib/kubelet", "--v", "2",
	}, n.settings.AgentArgs...)
}

func (n *Node) writeAgent() error {
	files, err := fileLimit()
	if err != nil {
		return err
	}
	config := map[string]any{
		"apiVersion":               "kubelet.config.k8s.io/v1beta1",
		"kind":                     "KubeletConfiguration",
		"containerRuntimeEndpoint": "unix://" + shimdSocket,
		"featureGates":             map[string]bool{"PodAndContainerStatsFromCRI": true},
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false}, "webhook": map[string]any{"enabled": true}, "x509": map[string]any{"clientCAFile": nodeAuthorityFile},
		},
		"authorization":     map[string]any{"mode": "Webhook"},
		"tlsCertFile":       nodeServingCert,
		"tlsPrivateKeyFile": nodeServingKey,
		"clusterDNS":        []string{dnsService},
		"clusterDomain":     dnsDomain,
		"staticPodPath":     staticPods,
		"cgroupRoot":        "/" + n.CgroupName(),
		"cgroupDriver":      "cgroupfs", // overruled by what the runtime says
		"failCgroupV1":      false,
		"failSwapOn":        false,
		"volumePluginDir":   "/var/lib/kubelet/plugins-exec", // /usr is the machine's
		// Whatever else fills this machine is not the cluster's business.
		"evictionHard":                map[string]string{"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
		"imageGCHighThresholdPercent": 100,
		// Not to be touched on a shared machine: iptables (kube-proxy is in nftables mode), the rank among the processes to kill.
		"makeIPTablesUtilChains": false,
		"oomScoreAdj":            0,
		"maxOpenFiles":           files,
		"serializeImagePulls":    false,
	}
	maps.Copy(config, n.settings.Kubelet)
	return writeYAML(n.onDisk(agentConfigFile), config)
}

// fileLimit is how many files a process may open; no right to raise it is taken for granted.
func fileLimit() (uint64, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("asking for the limit of open files: %w", err)
	}
	return min(limit.Max, 1000000), nil
}

func (n *Node) writeProxy() error {
	return writeYAML(n.onDisk(proxyConfigFile), map[string]any{
		"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
		"mode": "nftables", "clusterCIDR": podNetwork, "hostnameOverride": n.name,
		"clientConnection": map[string]any{"kubeconfig": proxyKubeconfig},
		// The size of the table is the machine's; the rest is what kube-proxy would set.
		"conntrack": map[string]any{"maxPerCore": 0, "min": 0},
	})
}

func writeYAML(file string, value any) error {
	text, err := yaml.Marshal(value)
	if err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o644)
}
