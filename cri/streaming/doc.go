// Package streaming serves the connections of exec, attach and port-forward, which CRI takes out of gRPC: a call answers a URL on loopback
// with a token that works once, and the client (kubelet, crictl) comes there with SPDY or WebSocket.
//
// The protocols are k8s.io/cri-streaming's. The server around them is not, for three reasons that all come down to "when the client goes,
// everything ends" (CVE-2022-23471, CVE-2025-64329): the library's port forwarding gets a context that never ends; its exec and attach get
// that of a request, which outlives a hijacked connection; and it leaves connections open whose client never created its streams. Here every
// session's context ends with its connection. Also, the address is known, and wrong ones are refused, before the first URL is handed out.
//
// What runs behind a stream belongs to package runtime.
package streaming
