package conformance

import (
	"regexp"
	"slices"
	"testing"
)

func TestNarrow(t *testing.T) {
	narrowed, err := Conformance().Narrow("ConfigMap", "volume")
	if err != nil {
		t.Fatal(err)
	}
	if narrowed.Labels != "Conformance" || !slices.Equal(narrowed.Focus, []string{"ConfigMap"}) || !slices.Equal(narrowed.Skip, []string{"volume"}) {
		t.Errorf("%+v", narrowed)
	}
	if narrowed.Specs != 0 || narrowed.Minimum != 0 {
		t.Errorf("a part of a suite has the numbers of all of it: %+v", narrowed)
	}
	if whole, err := Conformance().Narrow("", ""); err != nil || whole.Specs != Conformance().Specs {
		t.Errorf("%+v, %v", whole, err)
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
