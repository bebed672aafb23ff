package bench

import (
	"testing"
	"time"
)

func TestPercentiles(t *testing.T) {
	var samples []time.Duration
	for n := 100; n > 0; n-- {
		samples = append(samples, time.Duration(n)*time.Millisecond)
	}
	if l := percentiles("x", samples); l.P50 != 51 || l.P95 != 96 || l.P99 != 100 || l.Samples != 100 {
		t.Errorf("%+v", l)
	}
	if l := percentiles("none", nil); l.P50 != 0 {
		t.Errorf("%+v", l)
	}
}

func TestListProcessesFindsThisOne(t *testing.T) {
	all, err := listProcesses()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 2 {
		t.Errorf("%d processes", len(all))
	}
	if total, err := totalPSS(all[:1]); err != nil || total < 0 {
		t.Errorf("%d, %v", total, err)
	}
}
