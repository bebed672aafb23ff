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

// podDNS: without a cluster, ClusterFirst is the node's resolver, as with a kubelet that knows no cluster DNS.
func podDNS(node DNS, pod *corev1.Pod) *criv1.DNSConfig {
	dns := DNS{}
	if pod.Spec.DNSPolicy != corev1.DNSNone {
		dns = DNS{Servers: slices.Clone(node.Servers), Searches: slices.Clone(node.Searches), Options: slices.Clone(node.Options)}
	}
	if own := pod.Spec.DNSConfig; own != nil {
		dns.Servers = distinct(append(dns.Servers, own.Nameservers...))
		dns.Searches = distinct(append(dns.Searches, own.Searches...))
		dns.Options = mergeOptions(dns.Options, own.Options)
	}
	return &criv1.DNSConfig{Servers: dns.Servers, Searches: dns.Searches, Options: dns.Options}
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
