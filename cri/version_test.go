package cri

import "testing"

func TestVersionsAreSemantic(t *testing.T) {
	for version, want := range map[string]string{
		"v1.2.3": "v1.2.3", "1.2.3-rc.1+x": "1.2.3-rc.1+x", "devel": "0.0.0+devel", "95aa21f-dirty": "0.0.0+95aa21f-dirty", "v0.3-12-gabc": "0.0.0+v0.3-12-gabc",
		"a b": "0.0.0+a-b",
	} {
		if got := semantic(version); got != want {
			t.Errorf("%q: got %q, want %q", version, got, want)
		}
	}
}
