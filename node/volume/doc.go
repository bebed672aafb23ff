// Package volume keeps what belongs to a pod on the node's disk: its directory, volumes, managed files, and the mounts made of them.
//
//	ROOT/pods/UID/pod.json                        what runs (Record): written before anything else
//	ROOT/pods/UID/etc-hosts                       mounted at /etc/hosts
//	ROOT/pods/UID/volumes/NAME                    an emptyDir
//	ROOT/pods/UID/containers/NAME/ATTEMPT.message a termination message
//	ROOT/pods/UID/containers/NAME/started         the ID of the container whose startup probe succeeded
//	ROOT/pods/UID/subpaths/CONTAINER/INDEX        a subPath, bind mounted
//
// Inside: making, reading and removing these, without following what a pod planted in them.
// Not inside: deciding when (package plan), and what else a container's configuration holds (package translate).
package volume
