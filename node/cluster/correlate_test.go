package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func eventOf(pod, reason, message string, at time.Time) *corev1.Event {
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: "n", Name: eventName(pod, at)},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "n", Name: pod}, Type: corev1.EventTypeNormal, Reason: reason, Message: message,
		Count: 1, FirstTimestamp: metav1.NewTime(at), LastTimestamp: metav1.NewTime(at),
	}
}

func TestCorrelate(t *testing.T) {
	now := early.Time
	c := newCorrelator()
	first, _, _ := c.take(eventOf("p", "Pulled", "a", now), now)
	name := first.Name
	again, _, skip := c.take(eventOf("p", "Pulled", "a", now.Add(time.Second)), now.Add(time.Second))
	if skip || again.Count != 2 || again.Name != name || !again.FirstTimestamp.Time.Equal(now) || !again.LastTimestamp.Time.Equal(now.Add(time.Second)) {
		t.Errorf("the same once more: %+v", again)
	}
	if other, _, _ := c.take(eventOf("q", "Pulled", "a", now), now); other.Count != 1 {
		t.Errorf("of another pod: %+v", other)
	}
	names := map[string]int32{}
	for i := range 15 {
		e, _, skip := c.take(eventOf("r", "Failed", fmt.Sprint("try ", i), now), now.Add(time.Duration(i)*time.Minute))
		if skip {
			t.Fatal("too early held back:", i)
		}
		if combined := strings.HasPrefix(e.Message, combinedFrom); combined != (i >= similar-1) {
			t.Errorf("event %d: %q", i, e.Message)
		}
		names[e.Name+e.Message[:3]] = e.Count
	}
	if late, _, _ := c.take(eventOf("r", "Failed", "new", now), now.Add(time.Hour)); late.Message != "new" {
		t.Errorf("long after: %q", late.Message)
	}
}

func TestFloodsAreHeldBack(t *testing.T) {
	now := early.Time
	c := newCorrelator()
	told := 0
	for range 100 {
		if _, _, skip := c.take(eventOf("p", "BackOff", "again", now), now); !skip {
			told++
		}
	}
	if told != burst {
		t.Errorf("%d of 100 were told, want %d", told, burst)
	}
	e, _, skip := c.take(eventOf("p", "BackOff", "again", now), now.Add(burstRefill))
	if skip || e.Count != 101 {
		t.Errorf("after a while: skip %t, %+v", skip, e)
	}
}

func TestEventNames(t *testing.T) {
	for _, object := range []string{"p", strings.Repeat("a", 253), strings.Repeat("a", 235) + "." + strings.Repeat("b", 17)} {
		name := eventName(object, early.Time)
		if len(name) > 253 || strings.Contains(name, "..") || strings.Contains(name, "-.") {
			t.Errorf("%q: %q", object, name)
		}
	}
}
