// Package server is the kubelet's HTTPS API, as the API server, kubectl, metrics-server and Prometheus use it.
//
// Inside: listening, certificates, who may ask (as the API server says), paths and their answers, streams passed on to the runtime's streaming server.
// Not inside: what is known of pods (package node), numbers (package stats), and reading logs (package containerlog).
//
// k8s.io/apiserver, which the kubelet builds this upon, is not used: it would more than double the program. What is needed of it are two reviews with
// a cache, and one translation of streams.
package server
