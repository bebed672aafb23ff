package attachment

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestBandwidthOf(t *testing.T) {
	const in, out = "kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"
	for _, c := range []struct {
		annotations map[string]string
		want        Bandwidth
		ok          bool
	}{
		{nil, Bandwidth{}, true},
		{map[string]string{in: "10M"}, Bandwidth{Ingress: 10_000_000}, true},
		{map[string]string{in: "1k", out: "1Gi"}, Bandwidth{1000, 1 << 30}, true},
		{map[string]string{in: "999"}, Bandwidth{}, false},
		{map[string]string{out: "2P"}, Bandwidth{}, false},
		{map[string]string{out: "fast"}, Bandwidth{}, false},
		{map[string]string{out: ""}, Bandwidth{}, false},
	} {
		got, err := BandwidthOf(c.annotations)
		if got != c.want || (err == nil) != c.ok || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v %v", c.annotations, got, err)
		}
	}
}

func TestCheckID(t *testing.T) {
	for id, ok := range map[string]bool{"a": true, "A-b_c.9": true, "": false, ".": false, "..": false, "a/b": false, "a\x00": false, strings.Repeat("x", 201): false} {
		if err := CheckID(id); (err == nil) != ok {
			t.Errorf("%q: %v", id, err)
		}
	}
}
