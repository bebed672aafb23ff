// Package containerlog reads the log that a CRI runtime writes for one run of a container, and goes on as it grows.
//
// Inside: CRI's log format, finding the last lines, limits, following over a rotation. Not inside: which file it is (package server), and rotating
// (package logrotate).
//
// k8s.io/cri-client has a reader as well. It is not used because it asks the runtime for the container's status after every line that it waited for,
// goes on with a rotated file's old name, and brings a second CRI client with tracing (2 MB of program).
package containerlog
