// Package server is the kubelet's HTTPS API, as the API server, kubectl, metrics-server and Prometheus use it.
//
// Inside: listening, certificates, who may ask (as the API server says), paths and their answers, streams passed on to the runtime's streaming server.
// Not inside: what is known of pods (package node), numbers (package stats), and reading logs (package containerlog).
//
// k8s.io/apiserver, which the kubelet builds this upon, is not used: with it a program that has client-go grows from 25 to 46 MB, by 312 packages. What
// is needed of it are two reviews with a cache, and two translations of streams.
package server
