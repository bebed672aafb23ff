package conformance

import (
	"regexp"
	"slices"
	"testing"
)

// chosen is what ginkgo does with focus and skip.
func chosen(s Suite, name string) bool {
	matches := func(expression string) bool { return regexp.MustCompile(expression).MatchString(name) }
	return slices.ContainsFunc(s.Focus, matches) && !slices.ContainsFunc(s.Skip, matches)
}

func TestSuitesChoose(t *testing.T) {
	narrowed, err := Conformance().Narrow("ConfigMap", "volume")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		suite Suite
		name  string
		want  bool
	}{
		{Conformance(), "[sig-apps] Daemon set [Serial] should run and stop simple daemon [Conformance]", true},
		{Conformance(), "[sig-node] Pods should cap back-off [Slow]", false},
		{Fast(), "[sig-node] Pods should be updated [NodeConformance] [Conformance]", true},
		{Fast(), "[sig-network] DNS should provide DNS for services [Conformance]", false},
		{Fast(), "[sig-node] Probing container should *not* be restarted with a exec probe [NodeConformance] [Conformance]", false},
		{Fast(), "[sig-node] NoExecuteTaintManager [Serial] evicts pods [Disruptive] [Conformance]", false},
		{NodeConformance(), "[sig-node] MirrorPod when create a mirror pod should be updated [NodeConformance]", true},
		{NodeConformance(), "[sig-node] Pods should be updated [NodeConformance] [Conformance]", false},
		{NodeConformance(), "[sig-node] DRA [Feature:DynamicResourceAllocation] works [NodeConformance]", false},
		{narrowed, "[sig-node] ConfigMap should be consumable [Conformance]", true},
		{narrowed, "[sig-node] [Conformance] of a ConfigMap", true},
		{narrowed, "[sig-node] ConfigMap should be consumable", false},
		{narrowed, "[sig-storage] ConfigMap should be a volume [Conformance]", false},
		{narrowed, "[sig-node] Secrets should be consumable [Conformance]", false},
	} {
		if got := chosen(c.suite, c.name); got != c.want {
			t.Errorf("%s: chosen is %v of %q", c.suite.Name, got, c.name)
		}
	}
	if _, err := Conformance().Narrow("(", ""); err == nil {
		t.Error("a focus that is no regular expression was taken")
	}
}

func TestCheck(t *testing.T) {
	results := func(outcomes ...Outcome) Results {
		r := Results{}
		for i, outcome := range outcomes {
			name := string(rune('a' + i))
			r[name] = Spec{Name: name, Outcome: outcome}
		}
		return r
	}
	for _, c := range []struct {
		what    string
		suite   Suite
		results Results
		good    bool
	}{
		{"all passed", Suite{Specs: 2, Minimum: 2}, results(Passed, Passed), true},
		{"fewer specs than there should be", Suite{Specs: 3, Minimum: 2}, results(Passed, Passed), false},
		{"enough passed", Suite{Specs: 3, Minimum: 1}, results(Passed, Failed, Skipped), true},
		{"too few passed", Suite{Specs: 3, Minimum: 2}, results(Passed, Failed, Skipped), false},
		{"open choice, one failed", Suite{}, results(Passed, Failed), false},
		{"open choice, one skipped", Suite{}, results(Passed, Skipped), true},
		{"nothing ran", Suite{}, results(Skipped), false},
	} {
		if err := c.suite.Check(c.results); (err == nil) != c.good {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

func TestExactlyMatchesTheNameOnly(t *testing.T) {
	name := "[sig-node] Probing container should *not* be restarted (twice) [Conformance]"
	expression := regexp.MustCompile(exactly([]Spec{{Name: name}})[0])
	if !expression.MatchString(name) || expression.MatchString("[sig-node] Probing container should not be restarted (twice) [Conformance]") {
		t.Errorf("%s", expression)
	}
}
