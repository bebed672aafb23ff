package cri

import "google.golang.org/protobuf/proto"

// partSize is how large, in bytes, a part of a streamed list grows before it is sent: far from the limit on messages, even
// with the 256 KiB of annotations that Kubernetes allows a pod on top.
const partSize = 1 << 20

// inParts sends items in parts of at least one each, in order; nothing for no items.
func inParts[T proto.Message](items []T, send func(part []T) error) error {
	for len(items) > 0 {
		n, size := 0, 0
		for n < len(items) && size < partSize {
			size += proto.Size(items[n])
			n++
		}
		if err := send(items[:n:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}
