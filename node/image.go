package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/node/pullsecret"
	"github.com/shimd/shimd/node/status"
	"github.com/shimd/shimd/node/translate"
)

// image is what a container is created from.
type image struct {
	ref  string
	user translate.ImageUser
}

// image fetches, by the container's policy, what it is created from.
func (j *job) image(ctx context.Context, c *corev1.Container, sandbox *criv1.PodSandboxConfig) (image, error) {
	found, ref, err := j.fetch(ctx, c.Name, c.Image, c.ImagePullPolicy, sandbox)
	if err != nil {
		return image{}, err
	}
	i := image{ref: ref, user: translate.ImageUser{Name: found.Username}}
	if found.Uid != nil {
		i.user.UID = &found.Uid.Value
	}
	return i, nil
}

// fetch answers an image and what it is referred to by; events tell of it on the container.
func (j *job) fetch(ctx context.Context, container, name string, policy corev1.PullPolicy, sandbox *criv1.PodSandboxConfig) (*criv1.Image, string, error) {
	if policy != corev1.PullAlways {
		found, err := j.client.Image(ctx, name)
		switch {
		case err != nil:
			j.event(container, corev1.EventTypeWarning, "InspectFailed", fmt.Sprintf("Failed to inspect image %q: %v", name, err))
			return nil, "", because("ImageInspectError", err)
		case found != nil:
			j.event(container, corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", name))
			return found, found.Id, nil
		case policy == corev1.PullNever:
			message := fmt.Sprintf("Container image %q is not present with pull policy of Never", name)
			j.event(container, corev1.EventTypeWarning, "ErrImageNeverPull", message)
			return nil, "", because("ErrImageNeverPull", j.failedImage(container, "ErrImageNeverPull", fmt.Errorf("%s: %w", message, errdefs.ErrNotFound)))
		}
	}
	j.event(container, corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", name))
	began := time.Now()
	ref, err := j.pullImage(ctx, name, sandbox)
	var found *criv1.Image
	if err == nil {
		found, err = j.client.Image(ctx, ref)
	}
	if err == nil && found == nil {
		err = fmt.Errorf("image %s (%s) was pulled and is gone again: %w", name, ref, errdefs.ErrNotFound)
	}
	if err != nil {
		if ctx.Err() == nil {
			j.event(container, corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", name, err))
		}
		return nil, "", because(status.ReasonErrImagePull, j.failedImage(container, status.ReasonErrImagePull, err))
	}
	took := time.Since(began).Truncate(time.Millisecond)
	j.event(container, corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.", name, took, took, found.Size))
	return found, ref, nil
}

func (j *job) failedImage(container, reason string, err error) error {
	if j.pull.Err() == nil {
		j.event(container, corev1.EventTypeWarning, "Failed", "Error: "+reason)
	}
	return err
}

// pullImage tries the pod's credentials for an image one after the other; without any, none.
func (j *job) pullImage(ctx context.Context, name string, sandbox *criv1.PodSandboxConfig) (string, error) {
	var problems error
	for _, credential := range j.credentials(ctx, name) {
		auth := &criv1.AuthConfig{
			Username: credential.Username, Password: credential.Password, IdentityToken: credential.IdentityToken, RegistryToken: credential.RegistryToken,
		}
		ref, err := j.client.Pull(ctx, name, auth, sandbox)
		if err == nil {
			return ref, nil
		}
		problems = errors.Join(problems, err)
	}
	if problems != nil {
		return "", problems
	}
	return j.client.Pull(ctx, name, nil, sandbox)
}

// credentials are those that the pod's secrets hold for an image. A secret that cannot be had is left out, as the kubelet does: the image may be
// public.
func (j *job) credentials(ctx context.Context, name string) []pullsecret.Credential {
	const patience = 10 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var secrets []*corev1.Secret
	var missing []string
	for _, ref := range j.pod.Spec.ImagePullSecrets {
		if ref.Name == "" {
			continue
		}
		secret, err := j.cluster.Secret(ctx, j.pod.Namespace, ref.Name)
		if err != nil {
			j.log.Warn("an image pull secret", "secret", ref.Name, "error", err)
			missing = append(missing, ref.Name)
			continue
		}
		secrets = append(secrets, secret)
	}
	if len(missing) > 0 {
		j.event("", corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
			fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(missing, ", ")))
	}
	ring, err := pullsecret.New(secrets)
	if err != nil {
		j.log.Warn("image pull secrets", "error", err)
	}
	return ring.For(name)
}

// imageVolumes fetches the images that are mounted into a container as volumes.
func (j *job) imageVolumes(ctx context.Context, c *corev1.Container, sandbox *criv1.PodSandboxConfig) (map[string]*criv1.ImageSpec, error) {
	found := map[string]*criv1.ImageSpec{}
	for i := range j.pod.Spec.Volumes {
		v := &j.pod.Spec.Volumes[i]
		if v.Image == nil || !mountsVolume(c, v.Name) {
			continue
		}
		_, ref, err := j.fetch(ctx, c.Name, v.Image.Reference, v.Image.PullPolicy, sandbox)
		if err != nil {
			return nil, err
		}
		found[v.Name] = &criv1.ImageSpec{Image: ref, UserSpecifiedImage: v.Image.Reference}
	}
	return found, nil
}

func mountsVolume(c *corev1.Container, name string) bool {
	for i := range c.VolumeMounts {
		if c.VolumeMounts[i].Name == name {
			return true
		}
	}
	return false
}

// variableOfFile reads a variable of a file in a volume. The pod may have put a link there: the file is opened below the volume.
func (j *job) variableOfFile(name, path, key string) (value string, found bool, err error) {
	for i := range j.pod.Spec.Volumes {
		v := &j.pod.Spec.Volumes[i]
		if v.Name != name {
			continue
		}
		file, err := os.OpenInRoot(j.store.Path(j.pod, v), path)
		if os.IsNotExist(err) {
			return "", false, fmt.Errorf("couldn't parse env file %s of volume %s: %w", path, name, errdefs.ErrNotFound)
		} else if err != nil {
			return "", false, fmt.Errorf("couldn't parse env file %s of volume %s: %w", path, name, err)
		}
		defer file.Close()
		return translate.FileVariable(file, key)
	}
	return "", false, fmt.Errorf("cannot find the volume %q referenced by FileKeyRef: %w", name, errdefs.ErrInvalidArgument)
}
