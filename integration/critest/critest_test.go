package critest

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	good := "...\nRan 108 of 130 Specs in 98.123 seconds\nSUCCESS! -- 108 Passed | 0 Failed | 0 Pending | 22 Skipped\nPASS\n"
	r, err := parse([]byte(good))
	if err != nil || r.Ran != 108 || r.Passed != 108 || r.Failed != 0 || r.Skipped != 22 {
		t.Fatalf("%+v, %v", r, err)
	}
	if err := r.Check(MinimumRun); err != nil {
		t.Error(err)
	}
	if err := r.Check(MinimumRun + 1); err == nil {
		t.Error("too few specs were accepted")
	}
	bad := "• [FAILED]\nSummarizing 1 Failure:\n  [FAIL] [k8s.io] Container runtime should support log [It] rotates\n  /x.go:1\n\n" +
		"Ran 2 of 130 Specs in 1 seconds\nFAIL! - Suite Timeout Elapsed -- 1 Passed | 1 Failed | 0 Pending | 128 Skipped\n"
	r, err = parse([]byte(bad))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Check(0); err == nil || !strings.Contains(err.Error(), "rotates") {
		t.Errorf("the failed spec is not named: %v", err)
	}
	if _, err := parse([]byte("panic: no socket")); err == nil {
		t.Error("output without a summary was accepted")
	}
}
