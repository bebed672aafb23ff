// Package probe finds out whether a container is well.
//
// Inside: one check of each kind (exec, HTTP, TCP, gRPC), the thresholds that make a verdict of many checks, and their timing.
// Not inside: what follows from a verdict (packages plan and node).
package probe

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Result of one check. Unknown ones (the runtime could not be asked) count neither way.
type Result int

// The results.
const (
	Unknown Result = iota
	Success
	Failure
)

// Counter makes a verdict of results: a number of the same in a row.
type Counter struct {
	SuccessThreshold, FailureThreshold int32

	last Result
	run  int32
}

// Observe takes the next result, and answers the verdict once its threshold is reached, else Unknown.
func (c *Counter) Observe(r Result) Result {
	if r == Unknown {
		return Unknown
	}
	if r != c.last {
		c.last, c.run = r, 0
	}
	c.run++
	if (r == Success && c.run >= c.SuccessThreshold) || (r == Failure && c.run >= c.FailureThreshold) {
		return r
	}
	return Unknown
}

// Check does one check, and says what it found.
type Check func(ctx context.Context) (Result, string)

// Run checks as the probe says, and calls verdict whenever its thresholds give one, with the last message; until the context ends or verdict
// answers false. The first check is due initialDelaySeconds after the container's start; one that was due before is done at once.
func Run(ctx context.Context, p *corev1.Probe, startedAt time.Time, check Check, verdict func(Result, string) bool) {
	counter := Counter{SuccessThreshold: p.SuccessThreshold, FailureThreshold: p.FailureThreshold}
	period := seconds(p.PeriodSeconds)
	timer := time.NewTimer(time.Until(startedAt.Add(seconds(p.InitialDelaySeconds))))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(period)
		result, message := check(ctx)
		if ctx.Err() != nil {
			return // cut short: it tells nothing
		}
		if v := counter.Observe(result); v != Unknown && !verdict(v, message) {
			return
		}
	}
}

// Eager waits, for at most a period after the first check is due, until a check succeeds, and tells nobody of those that do not: a container that
// has just been started is seen to be ready when it is, and not a period later. (A kubelet's first check is at some moment of that period.)
func Eager(ctx context.Context, p *corev1.Probe, startedAt time.Time, check Check) {
	const first, longest = 20 * time.Millisecond, time.Second
	due := startedAt.Add(seconds(p.InitialDelaySeconds))
	end := due.Add(seconds(p.PeriodSeconds))
	delay := time.Until(due)
	for next := first; time.Now().Before(end); next = min(2*next, longest) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
		if result, _ := check(ctx); result == Success {
			return
		}
		delay = next
	}
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }
