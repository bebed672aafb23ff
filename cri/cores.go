package cri

import (
	"sync"
	"time"
)

const (
	// minWindow is the shortest time that CPU use is averaged over: clients that ask more often get the last average again.
	minWindow = 500 * time.Millisecond
	// sampleLife is how long the sample of something that nobody asks about any more is kept.
	sampleLife = 10 * time.Minute
)

// cores turns CPU counters into rates, by keeping the last sample of each container and sandbox that was asked about. Nothing is sampled on its
// own: it costs nothing when nobody asks.
type cores struct {
	now func() time.Time

	mu      sync.Mutex
	samples map[string]sample
	swept   time.Time
}

type sample struct {
	at    time.Time
	usage uint64  // nanoseconds
	rate  *uint64 // as answered at that time
}

func newCores(now func() time.Time) *cores {
	return &cores{now: now, samples: make(map[string]sample), swept: now()}
}

// rate answers nanoseconds of CPU time per second since the sample before; nil for the first one.
func (c *cores) rate(id string, at time.Time, usage uint64) *uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sweep()
	last, known := c.samples[id]
	window := at.Sub(last.at)
	switch {
	case !known, usage < last.usage: // a counter that went back belongs to a new cgroup
		c.samples[id] = sample{at: at, usage: usage}
		return nil
	case window < minWindow:
		return last.rate
	}
	rate := uint64(float64(usage-last.usage) / window.Seconds())
	c.samples[id] = sample{at: at, usage: usage, rate: &rate}
	return &rate
}

// sweep forgets old samples, once in a while. The caller holds mu.
func (c *cores) sweep() {
	now := c.now()
	if now.Sub(c.swept) < sampleLife {
		return
	}
	c.swept = now
	for id, s := range c.samples {
		if now.Sub(s.at) > sampleLife {
			delete(c.samples, id)
		}
	}
}
