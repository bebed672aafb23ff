// Package volume keeps what belongs to a pod on the node's disk: its directory, volumes, managed files, and the mounts made of them.
//
//	ROOT/pods/UID/pod.json                             what runs (Record): written before anything else
//	ROOT/pods/UID/etc-hosts                            mounted at /etc/hosts
//	ROOT/pods/UID/volumes/kubernetes.io~empty-dir/NAME a volume; ~configmap, ~secret, ~downward-api, ~projected: as the kubelet names them
//	ROOT/pods/UID/claims/NAME.json                     where the claim of a volume has its content (claimed)
//	ROOT/pods/UID/containers/NAME/ATTEMPT.message      a termination message
//	ROOT/pods/UID/containers/NAME/started              the ID of the container whose startup probe succeeded
//	ROOT/pods/UID/subpaths/CONTAINER/INDEX             a subPath, bind mounted
//
// Volumes whose content comes from the API server (atomic.go) are exchanged as a whole when it changes. Secrets and tokens are in memory alone:
// those volumes are tmpfs.
//
// Inside: making, refreshing, measuring, reading and removing these, without following what a pod planted in them.
// Not inside: deciding when (package plan), asking the API server (package objects says what is asked), and what else a container's configuration
// holds (package translate).
package volume
