// Package register makes this machine a Node of the cluster: its object, its status, and the lease that says that it lives.
//
//	machine (read once), runtime (CRI, asked at each look), pressure ──> status (pure) ──if it changed, or every 5 minutes──> API server
//
// Inside: facts of the machine, what the status is made of (pure, in the kubelet's words), registration, the loop, the lease.
// Not inside: who notices pressure (eviction), what is scheduled here, the connection (package cluster).
package register
