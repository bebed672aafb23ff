package node

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/node/translate"
)

// image is what a container is created from.
type image struct {
	ref  string
	user translate.ImageUser
}

// image fetches, by the container's policy, what it is created from.
func (w *worker) image(ctx context.Context, c *corev1.Container, sandbox *criv1.PodSandboxConfig) (image, error) {
	name := c.Image
	found, err := w.client.Image(ctx, name)
	if err != nil {
		return image{}, because("ImageInspectError", err)
	}
	if found == nil && c.ImagePullPolicy == corev1.PullNever {
		return image{}, because("ErrImageNeverPull", fmt.Errorf("image %s is not on the node and imagePullPolicy is Never: %w", name, errdefs.ErrNotFound))
	}
	if found != nil && c.ImagePullPolicy != corev1.PullAlways {
		return imageOf(found.Id, found), nil
	}
	w.log.Info("pulling", "container", c.Name, "image", name)
	ref, err := w.client.Pull(ctx, name, sandbox)
	if err != nil {
		return image{}, because("ImagePullBackOff", err)
	}
	found, err = w.client.Image(ctx, ref)
	if err != nil {
		return image{}, because("ImageInspectError", err)
	}
	if found == nil {
		return image{}, because("ImagePullBackOff", fmt.Errorf("image %s (%s) was pulled and is gone again: %w", name, ref, errdefs.ErrNotFound))
	}
	return imageOf(ref, found), nil
}

func imageOf(ref string, found *criv1.Image) image {
	i := image{ref: ref, user: translate.ImageUser{Name: found.Username}}
	if found.Uid != nil {
		i.user.UID = &found.Uid.Value
	}
	return i
}
