package cri

import (
	"testing"
	"time"
)

func TestCores(t *testing.T) {
	now := time.Unix(1000, 0)
	c := newCores(func() time.Time { return now })
	want := func(what string, got *uint64, n uint64) {
		t.Helper()
		if got == nil || *got != n {
			t.Errorf("%s: %v, want %d", what, got, n)
		}
	}
	if c.rate("a", now, 100) != nil {
		t.Error("the first sample has a rate")
	}
	if c.rate("a", now.Add(minWindow/2), 200) != nil {
		t.Error("too short a window has a rate")
	}
	want("two seconds", c.rate("a", now.Add(2*time.Second), 2100), 1000)
	want("at once again", c.rate("a", now.Add(2*time.Second), 2100), 1000)
	if c.rate("b", now, 5) != nil {
		t.Error("another container has a rate")
	}
	if c.rate("a", now.Add(4*time.Second), 7) != nil {
		t.Error("a counter that went back has a rate")
	}
	want("after it went back", c.rate("a", now.Add(5*time.Second), 57), 50)

	now = now.Add(sampleLife + time.Second)
	c.rate("c", now, 1)
	if _, kept := c.samples["b"]; kept {
		t.Error("a sample that nobody asked for is kept for ever")
	}
	if _, kept := c.samples["a"]; !kept {
		t.Error("a recent sample was forgotten")
	}
}
