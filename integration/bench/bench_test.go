package bench

import (
	"os"
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
	for _, p := range all {
		if p.pid != os.Getpid() {
			continue
		}
		if total, err := totalPSS([]process{p}); err != nil || total < mebibyte || p.parent != os.Getppid() {
			t.Errorf("PSS %d (%v) of %+v", total, err, p)
		}
		return
	}
	t.Error("this process is not in the list")
}
