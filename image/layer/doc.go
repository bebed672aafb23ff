// Package layer turns the blob of one image layer into a directory that overlayfs can use as a lower directory.
//
// It decompresses, checks digests, unpacks the tar and translates whiteouts. What it reads was written by strangers: nothing in a layer may
// touch anything outside the directory, take memory without bound, or make the unpacking wait for ever. It knows nothing of registries, of images, or of
// where layers are kept.
package layer
