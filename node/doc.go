// Package node is shimlet, the node agent: it runs the pods whose files stand in a folder, on any container runtime, through CRI alone.
//
//	folder ──files──> Resolve (pure) ──pods──> one worker per pod ──CRI──> runtime
//	                                             ^  │ observe → plan.Next (pure) → actions
//	                              events, probes,┘  └> status
//	                              timers
//
// Inside: the agent (which pods there are), workers (one goroutine per pod, never blocked: its actions run beside it, one at a time for each
// container), actions (one flow for each verb of package plan), probes and hooks of running containers.
// Not inside: decisions (package plan), configurations (package translate), files of pods (package volume). Nothing here knows of
// this repository's runtime.
package node
