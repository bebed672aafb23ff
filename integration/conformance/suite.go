package conformance

import (
	"fmt"
	"regexp"
	"strings"
)

// Suite is a choice of specs.
type Suite struct {
	Name    string
	Focus   []string // regular expressions of spec names, any of which must match
	Skip    []string // none of which may
	Specs   int      // how many are chosen, in the version of Kubernetes that integration/tools/kubernetes names
	Minimum int      // how many must pass
	Node    bool     // of e2e_node.test, which brings its own API server, instead of e2e.test
}

// serial marks specs that must be alone on the cluster.
const serial = `\[Serial\]`

// Conformance is what a cluster must pass to be called Kubernetes.
func Conformance() Suite {
	return Suite{Name: "conformance", Focus: []string{`\[Conformance\]`}, Specs: 446, Minimum: 446}
}

// Fast is the part of Conformance that tests nodes most, without what waits for a minute or more.
func Fast() Suite {
	return Suite{
		Name:  "conformance-fast",
		Focus: []string{`\[sig-(storage|node)\].*\[Conformance\]`},
		Skip:  []string{`should \*not\* be restarted`, `\[Slow\]`, serial},
	}
}

// NodeConformance is what a node must pass, without what is in Conformance already, and what needs the machine for itself.
func NodeConformance() Suite {
	return Suite{
		Name:  "node-conformance",
		Focus: []string{`\[NodeConformance\]`},
		Skip:  []string{serial, `\[Slow\]`, `\[Flaky\]`, `\[Alpha\]`, `\[Feature:.+\]`, `\[Conformance\]`},
		Specs: 286, Minimum: 281, Node: true,
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

// Narrow is the part of the suite that fits focus and not skip; "" changes nothing. How many must pass is then open: all that are chosen.
func (s Suite) Narrow(focus, skip string) (Suite, error) {
	for _, expression := range []string{focus, skip} {
		if _, err := regexp.Compile(expression); err != nil {
			return s, fmt.Errorf("choosing specs: %w", err)
		}
	}
	if focus == "" && skip == "" {
		return s, nil
	}
	s.Specs, s.Minimum = 0, 0
	if skip != "" {
		s.Skip = append(append([]string{}, s.Skip...), skip)
	}
	if focus != "" {
		// ginkgo takes either of two focuses; both are wanted. A label stands anywhere in a name, also behind what is looked for.
		both := make([]string, 0, 2*len(s.Focus))
		for _, of := range s.Focus {
			both = append(both, fmt.Sprintf("(?:%s).*(?:%s)", of, focus), fmt.Sprintf("(?:%s).*(?:%s)", focus, of))
		}
		s.Focus = both
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
