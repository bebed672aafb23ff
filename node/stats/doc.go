// Package stats has the numbers of a node and its pods, as the kubelet gives them away: the Summary API, /metrics/resource, /metrics/cadvisor and the
// volumes' part of /metrics.
//
// Inside: asking the runtime (CRI) and the kernel (/proc, file systems) when somebody asks; nothing runs otherwise. Not inside: serving (package
// server), and deciding anything by the numbers (eviction, image collection).
package stats
