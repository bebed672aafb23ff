// Package cluster is the agent's door to the API server: it implements node.Cluster and objects.Source with client-go.
//
//	watches ──> table (pods), shelf (node, services), library (ConfigMaps, Secrets) ──notices──> node.Listener
//	Report, Finish, Mirror ──> queue, the newest word for each pod ──> a few workers ──> patches and deletions
//	Event ──> queue ──> recorder, after the status
//
// Inside: the connection, what is watched and kept, merging of statuses (pure), writing them, mirror pods, events.
// Not inside: what a pod's status is (package status), the Node object and its lease (package register).
//
// Requests are few, because their round trips are what a pod waits for: a status is patched against the object that the watch has shown, without
// asking first; ConfigMaps and Secrets are asked for when a pod that refers to them is seen, while its sandbox is being made.
package cluster
