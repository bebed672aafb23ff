// Package kubeletconfig reads the kubelet's configuration file, KubeletConfiguration of kubelet.config.k8s.io/v1beta1, for shimlet.
//
// Inside: reading the file and the folder of drop-ins strictly, the kubelet's defaults, checks of values, and one table that says of each field whether
// shimlet honours it. Not inside: acting on any of it.
//
// A field that is not honoured and has another value than its default is named by Unhonoured, for the log; where it would be unsafe to go on without it
// (a limit or a guarantee that nobody keeps), Load refuses the file.
package kubeletconfig
