// Package plan decides what to do next for a pod: (desired, observed, remembered, now) → actions, as a pure function.
//
// Inside: when sandboxes are made and replaced, the order of init containers, restart policies and back-off, what is stopped in which
// order, which dead containers are kept, and when to look again. Nothing here calls a runtime, reads a clock or starts a goroutine.
// Not inside: how an action is carried out (package node), and what a container's configuration looks like (package translate).
package plan
