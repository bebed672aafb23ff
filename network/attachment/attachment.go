// Package attachment holds the words that the network's backends share: what is asked for a sandbox and what it got.
//
// Package network gives them their public names. No behaviour belongs here but reading what a request says.
package attachment

import (
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Request asks to attach one sandbox.
type Request struct {
	ID           string // the sandbox's ID
	NetNSPath    string // where its network namespace is pinned
	Name         string // of the pod
	Namespace    string
	UID          string
	Labels       map[string]string
	Annotations  map[string]string // CNI capabilities such as bandwidth are read from kubernetes.io/{in,e}gress-bandwidth
	CgroupParent string
	PortMappings []PortMapping
	DNS          *DNS
}

// PortMapping publishes a sandbox's port on the host.
type PortMapping struct {
	Protocol      string // "tcp", "udp" or "sctp"
	ContainerPort uint16
	HostPort      uint16
	HostIP        netip.Addr // invalid: all local addresses
}

// DNS is the pod's resolver configuration, for the CNI capability "dns".
type DNS struct{ Servers, Searches, Options []string }

// Result is what a sandbox got.
type Result struct {
	IPs []netip.Addr // the primary one first; one of each family for dual stack
}

// Bandwidth limits a sandbox's traffic, in bits per second; zero is no limit.
type Bandwidth struct{ Ingress, Egress uint64 }

// The bounds are those of the kubelet and of the CNI bandwidth plugin.
const (
	minBandwidth = 1_000
	maxBandwidth = 1_000_000_000_000_000
)

// BandwidthOf reads the annotations kubernetes.io/ingress-bandwidth and kubernetes.io/egress-bandwidth.
func BandwidthOf(annotations map[string]string) (b Bandwidth, err error) {
	for key, into := range map[string]*uint64{"kubernetes.io/ingress-bandwidth": &b.Ingress, "kubernetes.io/egress-bandwidth": &b.Egress} {
		text, ok := annotations[key]
		if !ok {
			continue
		}
		q, err := resource.ParseQuantity(text)
		if err != nil {
			return Bandwidth{}, fmt.Errorf("annotation %s %q: %w: %w", key, text, err, errdefs.ErrInvalidArgument)
		}
		if v := q.Value(); v < minBandwidth || v > maxBandwidth {
			return Bandwidth{}, fmt.Errorf("annotation %s %q: must be between 1k and 1P bits a second: %w", key, text, errdefs.ErrInvalidArgument)
		}
		*into = uint64(q.Value())
	}
	return b, nil
}

// CheckID refuses an ID that could not be a file's name.
func CheckID(id string) error {
	if id == "" || len(id) > 200 || id[0] == '.' {
		return fmt.Errorf("sandbox ID %q: must be 1 to 200 characters and not begin with a dot: %w", id, errdefs.ErrInvalidArgument)
	}
	for _, c := range []byte(id) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.') {
			return fmt.Errorf("sandbox ID %q: holds %q; letters, digits, '-', '_' and '.' may be used: %w", id, c, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}
