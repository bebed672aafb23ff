package conformance

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// read reads a report that ginkgo 2.28.1 wrote of a small suite.
func read(t *testing.T, name string) (Results, []string) {
	t.Helper()
	results, broken, err := readFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return results, broken
}

func TestReadKeepsWhatWasChosen(t *testing.T) {
	results, broken := read(t, "mixed.json")
	if len(broken) > 0 {
		t.Errorf("something outside of specs failed: %v", broken)
	}
	for name, spec := range results {
		if spec.Outcome == Passed && spec.Took == 0 {
			t.Errorf("%s took no time", name)
		}
		spec.Took = 0
		results[name] = spec
	}
	want := Results{}
	for _, spec := range []Spec{
		{Name: "[sig-node] Pods should run [Conformance]", Outcome: Passed, Runs: 1},
		{Name: "[sig-node] Pods should fail [Conformance]", Outcome: Failed, Why: `pod was "Pending" | not Running`, Where: "a_test.go:12", Runs: 1},
		{Name: "[sig-node] Pods should panic [Conformance]", Outcome: Failed, Why: "panicked: Test Panicked", Where: "a_test.go:13", Runs: 1},
		{Name: "[sig-node] Pods on Windows should skip [Conformance]", Outcome: Skipped, Why: "Only supported for node OS distro [windows]", Runs: 1},
	} {
		want[spec.Name] = spec
	}
	if diff := cmp.Diff(want, results); diff != "" {
		t.Errorf("specs (-want +got):\n%s", diff)
	}
}

func TestReadTellsABrokenSuite(t *testing.T) {
	results, broken := read(t, "broken.json")
	if len(results) != 0 || len(broken) == 0 || !strings.Contains(broken[0], "the node never") {
		t.Errorf("results %v, broken %q", results, broken)
	}
}

func FuzzRead(f *testing.F) {
	for _, name := range []string{"mixed.json", "broken.json"} {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		results, _, err := Read(bytes.NewReader(text))
		if err == nil && results == nil {
			t.Error("no results, and no error")
		}
	})
}

func TestMergeTakesTheLaterRun(t *testing.T) {
	results, _ := read(t, "mixed.json")
	name := "[sig-node] Pods should fail [Conformance]"
	results.Merge(Results{name: {Name: name, Outcome: Passed, Took: time.Second, Runs: 1}})
	if got := results[name]; got.Outcome != Passed || got.Runs != 2 {
		t.Errorf("after a second run that passed: %+v", got)
	}
	if got, want := results.String(), "4 specs: 2 passed, 1 failed, 1 skipped (1 passed when they were run again)"; got != want {
		t.Errorf("said %q, not %q", got, want)
	}
}

func TestTableNamesWhatDidNotPass(t *testing.T) {
	results, _ := read(t, "mixed.json")
	var table bytes.Buffer
	if err := results.WriteTable(&table); err != nil {
		t.Fatal(err)
	}
	const want = `4 specs: 1 passed, 2 failed, 1 skipped

| | spec | first line of what it said | time |
|---|---|---|---|
| failed | [sig-node] Pods should fail [Conformance] | pod was "Pending" \| not Running (a_test.go:12) | 0 s |
| failed | [sig-node] Pods should panic [Conformance] | panicked: Test Panicked (a_test.go:13) | 0 s |
| skipped | [sig-node] Pods on Windows should skip [Conformance] | Only supported for node OS distro [windows] | 0 s |
`
	if diff := cmp.Diff(want, table.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

// Progress comes whatever pieces the text comes in.
func TestProgressSaysFailuresAtOnce(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "mixed.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1, 7, len(text)} {
		var said bytes.Buffer
		p := &progress{to: &said, name: "suite"}
		for rest := text; len(rest) > 0; {
			n, err := p.Write(rest[:min(size, len(rest))])
			if err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		p.end()
		for _, want := range []string{"FAILED after 0.001 seconds: [sig-node] Pods [It] should fail", "4 specs have ended, 2 of them failed"} {
			if !strings.Contains(said.String(), want) {
				t.Errorf("in pieces of %d: %q was not said:\n%s", size, want, said.String())
			}
		}
	}
}
