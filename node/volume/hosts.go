package volume

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// HostsFile is a pod's /etc/hosts, below an agent's directory. What the pod writes to it counts as its storage (CVE-2020-8557).
func HostsFile(root, uid string) string { return filepath.Join(root, "pods", uid, "etc-hosts") }

// writeHosts writes in place, for running containers hold the file itself. It is written anew at every start of a container, so what a pod
// adds to it does not pile up.
func writeHosts(file string, pod *corev1.Pod, hosts Hosts) error {
	content := podHosts(hosts)
	if pod.Spec.HostNetwork {
		node, err := os.ReadFile(etcHosts)
		if err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("reading the node's hosts: %w", err)
		}
		content = "# Kubernetes-managed hosts file (host network).\n" + string(node)
	}
	if err := os.WriteFile(file, []byte(content+aliases(pod.Spec.HostAliases)), 0o644); err != nil {
		return fmt.Errorf("writing the pod's hosts: %w", err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		return fmt.Errorf("writing the pod's hosts: %w", err)
	}
	return nil
}

// podHosts is the kubelet's managedHostsFileContent.
func podHosts(hosts Hosts) string {
	var out strings.Builder
	out.WriteString("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
	names := hosts.Hostname
	if hosts.Domain != "" {
		names = hosts.Hostname + "." + hosts.Domain + "\t" + hosts.Hostname
	}
	for _, ip := range hosts.IPs {
		fmt.Fprintf(&out, "%s\t%s\n", ip, names)
	}
	return out.String()
}

func aliases(list []corev1.HostAlias) string {
	if len(list) == 0 {
		return ""
	}
	var out strings.Builder
	out.WriteString("\n# Entries added by HostAliases.\n")
	for _, alias := range list {
		fmt.Fprintf(&out, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
	}
	return out.String()
}
