package conformance

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A log tells the same as the report of its run.
func TestReadLogAgreesWithTheReport(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "mixed.log"))
	if err != nil {
		t.Fatal(err)
	}
	fromLog, err := ReadLog(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	fromReport, _ := read(t, "mixed.json")
	for _, results := range []Results{fromLog, fromReport} {
		for name, spec := range results {
			spec.Took = 0
			if spec.Why == "panicked: Test Panicked" {
				spec.Why, spec.Where = "", "" // a log has it in other words
			}
			results[name] = spec
		}
	}
	if diff := cmp.Diff(fromReport, fromLog); diff != "" {
		t.Errorf("specs (-report +log):\n%s", diff)
	}
}

func TestPlainName(t *testing.T) {
	for line, want := range map[string]string{
		"[sig-node] Pods [It] should be updated [NodeConformance] [Conformance] [sig-node, NodeConformance, Conformance]": "[sig-node] Pods should be updated [NodeConformance] [Conformance]",
		"[sig-node] Probes [FeatureGate:X] [DeferCleanup (Each)] when it ends should run [sig-node, FeatureGate:X]":       "[sig-node] Probes [FeatureGate:X] when it ends should run",
		"[sig-cli] Kubectl should work [Conformance]":                                                                     "[sig-cli] Kubectl should work [Conformance]",
	} {
		if got := plainName(line); got != want {
			t.Errorf("%q became %q, not %q", line, got, want)
		}
	}
}

func FuzzReadLog(f *testing.F) {
	text, err := os.ReadFile(filepath.Join("testdata", "mixed.log"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		results, err := ReadLog(bytes.NewReader(text))
		if err == nil && results == nil {
			t.Error("no results, and no error")
		}
	})
}
