package translate

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// DNS is the content of a resolv.conf.
type DNS struct{ Servers, Searches, Options []string }

// ParseDNS reads a resolv.conf(5). What it does not know it leaves out.
func ParseDNS(text string) DNS {
	var dns DNS
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0][0] == '#' || words[0][0] == ';' {
			continue
		}
		switch words[0] {
		case "nameserver":
			dns.Servers = append(dns.Servers, words[1])
		case "search", "domain":
			dns.Searches = words[1:] // the last one counts
		case "options":
			dns.Options = append(dns.Options, words[1:]...)
		}
	}
	return dns
}

// The limits of resolvers, as the kubelet has them.
const (
	maxServers     = 3
	maxSearches    = 32
	maxSearchName  = 253
	maxSearchChars = 2048
)

// podDNS is what a pod resolves names with. ClusterFirst is the cluster's servers, where the agent knows of some; pods in the node's network have
// to ask for it by its other name.
func podDNS(node Node, pod *corev1.Pod) *criv1.DNSConfig {
	host := DNS{Servers: slices.Clone(node.DNS.Servers), Searches: slices.Clone(node.DNS.Searches), Options: slices.Clone(node.DNS.Options)}
	dns := host
	policy := pod.Spec.DNSPolicy
	cluster := policy == corev1.DNSClusterFirstWithHostNet || (policy == corev1.DNSClusterFirst && !pod.Spec.HostNetwork)
	switch {
	case policy == corev1.DNSNone:
		dns = DNS{}
	case cluster && len(node.ClusterDNS) > 0:
		dns.Servers = slices.Clone(node.ClusterDNS)
		dns.Options = []string{"ndots:5"}
		if domain := node.ClusterDomain; domain != "" {
			dns.Searches = distinct(append([]string{pod.Namespace + ".svc." + domain, "svc." + domain, domain}, host.Searches...))
		}
	}
	if own := pod.Spec.DNSConfig; own != nil {
		dns.Servers = distinct(append(dns.Servers, own.Nameservers...))
		dns.Searches = distinct(append(dns.Searches, own.Searches...))
		dns.Options = mergeOptions(dns.Options, own.Options)
	}
	return &criv1.DNSConfig{Servers: dns.Servers[:min(len(dns.Servers), maxServers)], Searches: fitting(dns.Searches), Options: dns.Options}
}

// fitting leaves out what resolvers would not take.
func fitting(searches []string) []string {
	var found []string
	chars := -1
	for _, name := range searches[:min(len(searches), maxSearches)] {
		if len(name) > maxSearchName {
			continue
		}
		if chars+1+len(name) > maxSearchChars {
			break
		}
		chars += 1 + len(name)
		found = append(found, name)
	}
	return found
}

func distinct(list []string) []string {
	var found []string
	for _, item := range list {
		if !slices.Contains(found, item) {
			found = append(found, item)
		}
	}
	return found
}

// mergeOptions lets a pod's option replace the node's of the same name.
func mergeOptions(node []string, own []corev1.PodDNSConfigOption) []string {
	var found []string
	for _, option := range node {
		name, _, _ := strings.Cut(option, ":")
		if !slices.ContainsFunc(own, func(o corev1.PodDNSConfigOption) bool { return o.Name == name }) {
			found = append(found, option)
		}
	}
	for _, option := range own {
		text := option.Name
		if option.Value != nil && *option.Value != "" {
			text += ":" + *option.Value
		}
		found = append(found, text)
	}
	return found
}
