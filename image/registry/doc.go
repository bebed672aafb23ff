// Package registry reads images from registries: manifests and blobs, by the OCI distribution protocol, over the hosts that the node's certs.d directory names.
//
// Registries, and whoever answers for them, are untrusted: what they say is bounded, its digest is checked, and credentials go to nobody
// but the hosts that the administrator or the image's own name gave. It knows nothing of how images are stored or unpacked.
package registry
