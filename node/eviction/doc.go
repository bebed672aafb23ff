// Package eviction ends pods when the node runs short of memory, disk, inodes or processes, and pods that use more of the disk than they may.
//
//	every 10 s:  observe ─▶ Judge (pure): conditions of the node, thresholds to act on
//	                          │ none: pods over their own limits are evicted (only if any pod has one)
//	                          ▼
//	             reclaim unused images ─ enough? ─▶ done
//	                          │ no
//	                          ▼
//	             Rank (pure) ─▶ evict the first that may be ─▶ wait until it is gone
//
// Inside: thresholds, the node's conditions that come of them, the order of pods, the words of messages: the kubelet's (pkg/kubelet/eviction).
// Not inside: ending a pod (the agent), pods' numbers (package stats), telling the API server of conditions (package register).
package eviction
