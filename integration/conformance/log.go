package conformance

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
)

var (
	// ginkgo names the kind of node where a spec failed, and at the end of the line the spec's labels.
	nodeKind  = regexp.MustCompile(` \[(?:It|BeforeEach|AfterEach|JustBeforeEach|JustAfterEach|DeferCleanup \([A-Za-z]+\))\]`)
	labelList = regexp.MustCompile(` \[[A-Za-z][A-Za-z0-9-]*(?:, [A-Za-z][A-Za-z0-9:,. -]*)\]$`)
	where     = regexp.MustCompile(`^\s+In \[[^\]]+\] at: (\S+) @`)
)

// ReadLog reads what ginkgo -v printed of a run that did not come to its report: the specs that had ended. It serves to see how far a run came; a spec that
// is in there has the outcome that the report would name.
func ReadLog(r io.Reader) (Results, error) {
	results := Results{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	var spec Spec
	var named, failing bool
	keep := func() {
		if named {
			results[spec.Name] = spec
		}
		spec, named, failing = Spec{}, false, false
	}
	for lines.Scan() {
		line := lines.Text()
		match := specEnd.FindStringSubmatch(line)
		switch {
		case match != nil:
			keep()
			spec = ended(match)
		case spec.Outcome != "" && !named:
			spec.Name, named = plainName(line), true
		case strings.HasPrefix(line, "-----"):
			keep()
		case named && spec.Outcome != Passed && spec.Why == "":
			// "  [FAILED] why", or the words on the next line; before that there may be the spec's own output.
			text := strings.TrimSpace(line)
			reason, begins := strings.CutPrefix(text, "["+strings.ToUpper(string(spec.Outcome))+"]")
			if begins && !strings.HasPrefix(strings.TrimSpace(reason), "in [") {
				failing, text = true, strings.TrimSpace(reason)
			}
			if failing {
				spec.Why = firstLine(text)
			}
		case named && failing && spec.Where == "" && spec.Outcome == Failed:
			if at := where.FindStringSubmatch(line); at != nil {
				spec.Where = at[1][strings.LastIndexByte(at[1], '/')+1:]
			}
		}
	}
	keep()
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading ginkgo's output: %w", err)
	}
	return results, nil
}

// ended is a spec without its name, from the line that tells its end.
func ended(match []string) Spec {
	spec := Spec{Outcome: Passed, Runs: 1}
	switch {
	case match[1] == "S":
		spec.Outcome = Skipped
	case match[2] != "":
		spec.Outcome = Failed
	}
	if took, err := time.ParseDuration(strings.Replace(match[3], " seconds", "s", 1)); err == nil {
		spec.Took = took
	}
	return spec
}

func plainName(line string) string {
	return strings.TrimSpace(labelList.ReplaceAllString(nodeKind.ReplaceAllString(line, ""), ""))
}
