package conformance

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Suite is a choice of specs.
type Suite struct {
	Name    string
	Labels  string   // ginkgo's label filter
	Focus   []string // regular expressions of spec names, any of which must match; none for all
	Skip    []string // none of which may
	Specs   int      // how many are chosen, in the version of Kubernetes that integration/tools/kubernetes names; 0 when that is open
	Minimum int      // how many must pass; 0 for all that do not skip
	Node    bool     // of e2e_node.test, which brings its own API server, instead of e2e.test
}

// Conformance is what a cluster must pass to be called Kubernetes.
func Conformance() Suite {
	return Suite{Name: "conformance", Labels: "Conformance", Specs: 446, Minimum: 446}
}

// Fast is the part of Conformance that tests nodes most, without what waits for a minute or more.
func Fast() Suite {
	return Suite{
		Name:   "conformance-fast",
		Labels: "Conformance && (sig-storage || sig-node) && !Slow && !Serial",
		Skip:   []string{`should \*not\* be restarted`},
	}
}

// NodeConformance is what a node must pass, without what is in Conformance already, and what needs the machine for itself.
func NodeConformance() Suite {
	return Suite{
		Name:   "node-conformance",
		Labels: "NodeConformance && !Conformance && !Serial && !Slow && !Flaky",
		Skip:   []string{`\[Alpha\]`, `\[Feature:.+\]`},
		Specs:  286, Minimum: 281, Node: true,
	}
}

// Suites are all of them, by name.
func Suites() map[string]Suite {
	all := map[string]Suite{}
	for _, suite := range []Suite{Conformance(), Fast(), NodeConformance()} {
		all[suite.Name] = suite
	}
	return all
}

// Narrow is the part of the suite that fits focus and not skip; "" changes nothing. How many must pass is then open.
func (s Suite) Narrow(focus, skip string) (Suite, error) {
	for _, expression := range []string{focus, skip} {
		if _, err := regexp.Compile(expression); err != nil {
			return s, fmt.Errorf("choosing specs: %w", err)
		}
	}
	if focus != "" {
		s.Focus, s.Specs, s.Minimum = []string{focus}, 0, 0
	}
	if skip != "" {
		s.Skip, s.Specs, s.Minimum = append(slices.Clone(s.Skip), skip), 0, 0
	}
	return s, nil
}

// Check says whether the results are good enough for the suite.
func (s Suite) Check(results Results) error {
	failed, passed := results.Of(Failed), len(results.Of(Passed))
	if s.Specs != 0 && len(results) != s.Specs {
		return fmt.Errorf("%s: %d specs were chosen, not %d", s.Name, len(results), s.Specs)
	}
	if passed == 0 {
		return fmt.Errorf("%s: no spec passed", s.Name)
	}
	if passed < s.Minimum || (s.Minimum == 0 && len(failed) > 0) {
		names := make([]string, len(failed))
		for i, spec := range failed {
			names[i] = spec.Name
		}
		return fmt.Errorf("%s: %d specs passed, %d failed:\n  %s", s.Name, passed, len(failed), strings.Join(names, "\n  "))
	}
	return nil
}

// exactly focuses on specs by name.
func exactly(specs []Spec) []string {
	names := make([]string, len(specs))
	for i, spec := range specs {
		names[i] = regexp.QuoteMeta(spec.Name)
	}
	return names
}
