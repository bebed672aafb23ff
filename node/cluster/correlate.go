package cluster

import (
	"hash/maphash"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/lru"
)

// The figures of client-go's correlator, but for what is kept: a node's events are about its last few hundred pods.
const (
	remembered   = 1024             // groups, events and objects
	similar      = 10               // events that differ by their message only, within similarTime of each other, are told together from then on
	similarTime  = 10 * time.Minute // since the last one
	burst        = 25               // events about one object, and then
	burstRefill  = 5 * time.Minute  // one more in this time
	combinedFrom = "(combined from similar events): "
)

// correlator counts equal events together, combines similar ones, and holds back floods. It is one goroutine's.
type correlator struct {
	seed   maphash.Seed
	groups *lru.Cache // uint64 to *group
	events *lru.Cache // uint64 to occurrence
	floods *lru.Cache // uint64 to *bucket
}

// group is of events that differ by their messages only.
type group struct {
	messages []uint64
	last     time.Time
}

// occurrence is an event that has been written.
type occurrence struct {
	name  string
	first metav1.Time
	count int32
}

// bucket is what may still be told about an object.
type bucket struct {
	left float64
	at   time.Time
}

func newCorrelator() *correlator {
	return &correlator{seed: maphash.MakeSeed(), groups: lru.New(remembered), events: lru.New(remembered), floods: lru.New(remembered)}
}

// take answers the event to be written: one that was written before with one more count, a combined one, or itself; and whether it is one too many.
func (c *correlator) take(e *corev1.Event, now time.Time) (out *corev1.Event, key uint64, skip bool) {
	about := e.InvolvedObject
	key = c.key(about.Kind, about.Namespace, about.Name, string(about.UID), about.FieldPath, e.Type, e.Reason, e.Message)
	alike := c.key(about.Kind, about.Namespace, about.Name, string(about.UID), e.Type, e.Reason)
	if c.crowded(alike, e.Message, now) {
		key, e.Message = alike, combinedFrom+e.Message
	}
	if found, known := c.events.Get(key); known {
		before, _ := found.(occurrence)
		e.Name, e.FirstTimestamp, e.Count = before.name, before.first, before.count+1
	}
	c.wrote(key, e)
	return e, key, !c.allowed(c.key(about.Kind, about.Namespace, about.Name, string(about.UID), e.Type), now)
}

// wrote remembers an event as it was written.
func (c *correlator) wrote(key uint64, e *corev1.Event) {
	c.events.Add(key, occurrence{name: e.Name, first: e.FirstTimestamp, count: e.Count})
}

// crowded notes a message and tells whether its group has so many that they are combined.
func (c *correlator) crowded(key uint64, message string, now time.Time) bool {
	found, known := c.groups.Get(key)
	g, _ := found.(*group)
	if !known || now.Sub(g.last) > similarTime {
		g = &group{}
		c.groups.Add(key, g)
	}
	g.last = now
	if m := c.key(message); !slices.Contains(g.messages, m) {
		g.messages = append(g.messages, m)
	}
	if len(g.messages) < similar {
		return false
	}
	g.messages = g.messages[:similar-1]
	return true
}

func (c *correlator) allowed(key uint64, now time.Time) bool {
	found, known := c.floods.Get(key)
	b, _ := found.(*bucket)
	if !known {
		b = &bucket{left: burst, at: now}
		c.floods.Add(key, b)
	}
	b.left = min(burst, b.left+float64(now.Sub(b.at))/float64(burstRefill))
	b.at = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

func (c *correlator) key(parts ...string) uint64 {
	var h maphash.Hash
	h.SetSeed(c.seed)
	for _, part := range parts {
		_, _ = h.WriteString(part) // never fails
		_ = h.WriteByte(0)
	}
	return h.Sum64()
}
