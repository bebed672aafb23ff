package eviction

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Observation is how much there is of what a signal watches.
type Observation struct{ Available, Capacity int64 }

// Observations are those that could be made.
type Observations map[Signal]Observation

// State is what one judgement leaves for the next.
type State struct {
	since map[Threshold]time.Time                // met since
	acted []Threshold                            // were acted on, and may want more to be free than their amount
	seen  map[corev1.NodeConditionType]time.Time // the node was in this condition
}

// Judgement is what observations mean.
type Judgement struct {
	Conditions []corev1.NodeConditionType // the node is in, or was until the transition period ended
	Act        []Threshold                // met for their grace periods; the first one is to be acted on
}

// Judge is the kubelet's synchronize, as far as it decides. transition is how long a condition stays after its last threshold was met.
func Judge(thresholds []Threshold, before State, seen Observations, transition time.Duration, now time.Time) (Judgement, State) {
	met := below(thresholds, seen, false)
	for _, t := range below(before.acted, seen, true) {
		if !slices.Contains(met, t) {
			met = append(met, t)
		}
	}
	after := State{since: map[Threshold]time.Time{}, seen: map[corev1.NodeConditionType]time.Time{}}
	var j Judgement
	for condition, at := range before.seen {
		after.seen[condition] = at
	}
	for _, t := range met {
		since, ok := before.since[t]
		if !ok {
			since = now
		}
		after.since[t] = since
		if k, _, ok := kind(t.Signal); ok {
			after.seen[k.condition] = now
		}
		if now.Sub(since) >= t.Grace {
			j.Act = append(j.Act, t)
		}
	}
	for condition, at := range after.seen {
		if at.Equal(now) || now.Sub(at) < transition {
			j.Conditions = append(j.Conditions, condition)
		} else {
			delete(after.seen, condition)
		}
	}
	slices.Sort(j.Conditions)
	slices.SortStableFunc(j.Act, func(a, b Threshold) int {
		_, i, _ := kind(a.Signal)
		_, j, _ := kind(b.Signal)
		return i - j
	})
	after.acted = slices.Clone(j.Act)
	return j, after
}

// below are the thresholds that are met, or with reclaim those of which not enough is free again.
func below(thresholds []Threshold, seen Observations, reclaim bool) []Threshold {
	var met []Threshold
	for _, t := range thresholds {
		observed, ok := seen[t.Signal]
		if !ok {
			continue
		}
		limit := t.Below.of(observed.Capacity)
		if reclaim {
			limit += t.More.of(observed.Capacity)
		}
		if observed.Available < limit {
			met = append(met, t)
		}
	}
	return met
}
