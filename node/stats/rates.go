package stats

import (
	"sync"
	"time"
)

// rates makes use per second of counters, from two samples.
type rates struct {
	mu   sync.Mutex
	last map[string]sample
}

type sample struct {
	when  time.Time
	usage uint64
	rate  *uint64
}

// rateSpan is how far two samples have to be apart: over less the clock's ticks show.
const rateSpan = 500 * time.Millisecond

func newRates() *rates { return &rates{last: map[string]sample{}} }

// of answers nil for the first sample. A sample that comes soon after another gets that one's rate.
func (r *rates) of(name string, when time.Time, usage uint64) *uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	before, known := r.last[name]
	if known && when.Sub(before.when) < rateSpan {
		return before.rate
	}
	now := sample{when: when, usage: usage}
	if known && usage >= before.usage {
		now.rate = number(uint64(float64(usage-before.usage) / when.Sub(before.when).Seconds()))
	}
	r.last[name] = now
	return now.rate
}

// forget drops what is gone. Names with a slash are not those of containers or sandboxes.
func (r *rates) forget(known ...func(string) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name := range r.last {
		stays := name[0] == '/'
		for _, is := range known {
			stays = stays || is(name)
		}
		if !stays {
			delete(r.last, name)
		}
	}
}
