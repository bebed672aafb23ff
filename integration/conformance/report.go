// Package conformance runs Kubernetes' own test suites, e2e.test and e2e_node.test, on nodes that use shimd, and says what passed.
//
// Inside: which specs a suite has, how ginkgo is called, what is read from its reports, the node that e2e_node.test runs on, and the loop that
// kills shimd meanwhile. A cluster is package cluster's, programs are package tools', images are package images'.
package conformance

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Outcome is what became of a spec.
type Outcome string

// The outcomes. Skipped are specs that looked at the cluster and gave up; those that were not chosen are in no result.
const (
	Passed  Outcome = "passed"
	Failed  Outcome = "failed"
	Skipped Outcome = "skipped"
)

// Spec is one spec that was run.
type Spec struct {
	Name    string
	Outcome Outcome
	Why     string // first line of the failure, or the reason for skipping
	Where   string // file:line of the failure
	Took    time.Duration
	Runs    int // more than 1 when it was run again
}

// Results are specs by name.
type Results map[string]Spec

// specReport is what is read of ginkgo's SpecReport.
type specReport struct {
	ContainerHierarchyTexts []string
	LeafNodeText            string
	LeafNodeType            string
	State                   string
	RunTime                 time.Duration
	Failure                 struct {
		Message  string
		Location struct {
			FileName   string
			LineNumber int
		}
	}
}

// suiteReport is what is read of ginkgo's Report.
type suiteReport struct {
	SuiteSucceeded             bool
	SpecialSuiteFailureReasons []string
	SpecReports                []specReport
}

// Read reads ginkgo's JSON report. Broken are failures outside of any spec: the suite's setup, mostly.
func Read(r io.Reader) (results Results, broken []string, err error) {
	var suites []suiteReport
	if err := json.NewDecoder(r).Decode(&suites); err != nil {
		return nil, nil, fmt.Errorf("reading ginkgo's report: %w", err)
	}
	results = Results{}
	for _, suite := range suites {
		for _, report := range suite.SpecReports {
			spec, chosen := report.spec()
			switch {
			case report.LeafNodeType == "It" && chosen:
				results[spec.Name] = spec
			case report.LeafNodeType != "It" && spec.Outcome == Failed:
				broken = append(broken, report.LeafNodeType+": "+spec.Why)
			}
		}
		if len(broken) == 0 && !suite.SuiteSucceeded && len(results.Of(Failed)) == 0 {
			broken = append(broken, suite.SpecialSuiteFailureReasons...)
		}
	}
	return results, broken, nil
}

// spec is false for specs that were not chosen.
func (r specReport) spec() (Spec, bool) {
	name := strings.Join(append(slices.Clone(r.ContainerHierarchyTexts), r.LeafNodeText), " ")
	spec := Spec{Name: strings.TrimSpace(name), Why: firstLine(r.Failure.Message), Took: r.RunTime, Runs: 1}
	switch r.State {
	case "passed":
		spec.Outcome = Passed
	case "skipped", "pending":
		spec.Outcome = Skipped
		return spec, r.Failure.Message != "" // else the focus left it out
	default: // failed, panicked, timedout, interrupted, aborted
		spec.Outcome = Failed
		if r.State != "failed" {
			spec.Why = strings.TrimSuffix(r.State+": "+spec.Why, ": ")
		}
		if file := r.Failure.Location.FileName; file != "" {
			spec.Where = fmt.Sprintf("%s:%d", filepath.Base(file), r.Failure.Location.LineNumber)
		}
	}
	return spec, true
}

func firstLine(message string) string {
	for line := range strings.Lines(message) {
		if line = strings.TrimSpace(line); line != "" {
			const most = 300
			return line[:min(len(line), most)]
		}
	}
	return ""
}

// Merge adds a later run of some of the specs, or of others. What a later run says holds.
func (r Results) Merge(later Results) {
	for name, spec := range later {
		spec.Runs += r[name].Runs
		r[name] = spec
	}
}

// Of are the specs with that outcome, by name.
func (r Results) Of(outcome Outcome) []Spec {
	var found []Spec
	for _, name := range slices.Sorted(maps.Keys(r)) {
		if r[name].Outcome == outcome {
			found = append(found, r[name])
		}
	}
	return found
}

// String is one line.
func (r Results) String() string {
	again := 0
	for _, spec := range r.Of(Passed) {
		if spec.Runs > 1 {
			again++
		}
	}
	line := fmt.Sprintf("%d specs: %d passed, %d failed, %d skipped", len(r), len(r.Of(Passed)), len(r.Of(Failed)), len(r.Of(Skipped)))
	if again > 0 {
		line += fmt.Sprintf(" (%d passed when they were run again)", again)
	}
	return line
}

// WriteTable writes the results in Markdown: one line of sums, then every spec that did not pass at once.
func (r Results) WriteTable(w io.Writer) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%v\n", r)
	var rows []string
	for _, outcome := range []Outcome{Failed, Passed, Skipped} {
		for _, spec := range r.Of(outcome) {
			word := string(outcome)
			if outcome == Passed {
				if spec.Runs < 2 {
					continue
				}
				word = fmt.Sprintf("passed in run %d", spec.Runs)
			}
			why := spec.Why
			if spec.Where != "" {
				why += " (" + spec.Where + ")"
			}
			rows = append(rows, fmt.Sprintf("| %s | %s | %s | %.0f s |\n", word, cell(spec.Name), cell(why), spec.Took.Seconds()))
		}
	}
	if len(rows) > 0 {
		text.WriteString("\n| | spec | first line of what it said | time |\n|---|---|---|---|\n")
		text.WriteString(strings.Join(rows, ""))
	}
	if _, err := io.WriteString(w, text.String()); err != nil {
		return fmt.Errorf("writing the table of results: %w", err)
	}
	return nil
}

// cell keeps text inside of its cell.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

// Save writes dir/NAME.md with the table and dir/NAME.results.json with every spec.
func (r Results) Save(dir, name string) error {
	var table strings.Builder
	if err := r.WriteTable(&table); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return fmt.Errorf("saving the results: %w", err)
	}
	for file, body := range map[string]string{name + ".md": table.String(), name + ".results.json": string(text)} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(body), 0o644); err != nil {
			return fmt.Errorf("saving the results: %w", err)
		}
	}
	return nil
}
