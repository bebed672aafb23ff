// Package imagegc removes images that nobody uses: when the disk that they are on gets full, and when nobody has used them for long.
//
// Inside: what to remove, as a pure function, and a round that finds out, removes and tells. Not inside: dead containers (package plan), and pods that
// are evicted when there are no more images to remove.
package imagegc
