package cri

import "github.com/containerd/errdefs"

// gone makes success of "not found", for the calls that CRI wants idempotent and for what vanishes between a list and a look.
func gone(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
