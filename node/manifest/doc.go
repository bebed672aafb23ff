// Package manifest turns the bytes of a pod file into a pod that this node can run, or into an error that names what is wrong.
//
// Inside: strict decoding of core/v1 Pod from YAML or JSON, the defaults that an API server would fill in, the list of fields that are
// honoured (everything else is refused by name, never ignored), and the identity of a pod. All of it is pure.
// Not inside: folders and files (package folder), the cluster, and anything that touches the node.
package manifest
