// Package status is what the agent tells of itself: the document, how it is made of what was observed, and the socket that serves it.
//
// Inside: types with JSON names that scripts rely on, a table for people, a server and a client on a unix socket.
// Not inside: finding out (package node).
package status

import (
	"cmp"
	"slices"
	"time"
)

// Node is all that an agent knows.
type Node struct {
	Node        string  `json:"node"`
	Folder      string  `json:"folder"`
	FolderError string  `json:"folderError,omitempty"`
	Runtime     Runtime `json:"runtime"`
	Pods        []Pod   `json:"pods"`
	Files       []File  `json:"files,omitempty"` // those that something is wrong with
}

// Runtime is the container runtime behind the agent.
type Runtime struct {
	Endpoint string `json:"endpoint"`
	Name     string `json:"name,omitempty"`
	Version  string `json:"version,omitempty"`
	Error    string `json:"error,omitempty"` // empty: it answers
	Events   bool   `json:"events"`          // it tells of changes; else it is asked every second
}

// File is a pod file that does not run as it is written.
type File struct {
	Name  string `json:"name"`
	Error string `json:"error"`
}

// Pod is one pod. Phases are those of Kubernetes, and Terminating.
type Pod struct {
	Namespace  string      `json:"namespace"`
	Name       string      `json:"name"`
	UID        string      `json:"uid"`
	File       string      `json:"file"`
	Phase      string      `json:"phase"`
	Reason     string      `json:"reason,omitempty"`
	Message    string      `json:"message,omitempty"`
	Ready      bool        `json:"ready"`
	QOS        string      `json:"qosClass"`
	IPs        []string    `json:"ips,omitempty"`
	StartedAt  time.Time   `json:"startedAt,omitzero"`
	Containers []Container `json:"containers"`
}

// Container is one container of a pod. States are waiting, running and terminated.
type Container struct {
	Name       string    `json:"name"`
	Init       bool      `json:"init,omitempty"`
	Image      string    `json:"image"`
	ImageID    string    `json:"imageID,omitempty"`
	ID         string    `json:"id,omitempty"`
	State      string    `json:"state"`
	Reason     string    `json:"reason,omitempty"`
	Message    string    `json:"message,omitempty"`
	Ready      bool      `json:"ready"`
	Started    bool      `json:"started"`
	Restarts   uint32    `json:"restarts"`
	StartedAt  time.Time `json:"startedAt,omitzero"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`
	ExitCode   int32     `json:"exitCode"`
	Last       *Ended    `json:"last,omitempty"` // how the run before ended
	Log        string    `json:"log,omitempty"`
}

// Ended is how a run of a container ended.
type Ended struct {
	ID         string    `json:"id"`
	ExitCode   int32     `json:"exitCode"`
	Reason     string    `json:"reason,omitempty"`
	Message    string    `json:"message,omitempty"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`
}

// Sort puts pods and files in the order of their names.
func (n *Node) Sort() {
	slices.SortFunc(n.Pods, func(a, b Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	})
	slices.SortFunc(n.Files, func(a, b File) int { return cmp.Compare(a.Name, b.Name) })
}
