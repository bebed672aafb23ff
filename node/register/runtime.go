package register

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// callTimeout bounds each question to the runtime.
const callTimeout = 10 * time.Second

// Runtime is the container runtime as the node's status shows it.
type Runtime struct {
	Version  string // such as "shimd://v1.2.3"; empty: it did not answer
	Problem  error  // why no pods can run; nil: they can
	Handlers []corev1.NodeRuntimeHandler
	Features *corev1.NodeFeatures
}

// CRI asks a runtime by CRI. It is what the agent uses for Asker.
type CRI struct {
	Runtime criv1.RuntimeServiceClient
	Images  criv1.ImageServiceClient
}

// Ask tells the runtime's state; one that does not answer is a state, too.
func (c CRI) Ask(ctx context.Context) Runtime {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer := Runtime{}
	status, err := c.Runtime.Status(ctx, &criv1.StatusRequest{})
	if err != nil {
		answer.Problem = errors.New("container runtime is down")
		return answer
	}
	if version, err := c.Runtime.Version(ctx, &criv1.VersionRequest{}); err == nil {
		answer.Version = version.RuntimeName + "://" + version.RuntimeVersion
	}
	answer.Problem = problem(status.Status)
	for _, h := range status.RuntimeHandlers {
		recursive, users := h.GetFeatures().GetRecursiveReadOnlyMounts(), h.GetFeatures().GetUserNamespaces()
		answer.Handlers = append(answer.Handlers, corev1.NodeRuntimeHandler{
			Name: h.Name, Features: &corev1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: &recursive, UserNamespaces: &users},
		})
	}
	if status.Features != nil {
		groups := status.Features.SupplementalGroupsPolicy
		answer.Features = &corev1.NodeFeatures{SupplementalGroupsPolicy: &groups}
	}
	return answer
}

// problem words what is not ready as the kubelet does.
func problem(status *criv1.RuntimeStatus) error {
	var problems []error
	for _, required := range []struct{ condition, words string }{
		{criv1.RuntimeReady, "container runtime not ready"}, {criv1.NetworkReady, "container runtime network not ready"},
	} {
		i := slices.IndexFunc(status.GetConditions(), func(c *criv1.RuntimeCondition) bool { return c.Type == required.condition })
		switch {
		case i < 0:
			problems = append(problems, fmt.Errorf("%s: the runtime does not tell", required.words))
		case !status.Conditions[i].Status:
			c := status.Conditions[i]
			problems = append(problems, fmt.Errorf("%s: %s=false reason:%s message:%s", required.words, c.Type, c.Reason, c.Message))
		}
	}
	return aggregate(problems)
}

// aggregate makes one error of several, in brackets, as the kubelet does.
func aggregate(problems []error) error {
	switch len(problems) {
	case 0:
		return nil
	case 1:
		return problems[0]
	}
	words := "["
	for i, p := range problems {
		if i > 0 {
			words += ", "
		}
		words += p.Error()
	}
	return errors.New(words + "]")
}

// namesPerImage bounds the names of one image in the node's status.
const namesPerImage = 5

// List lists images, the largest first.
func (c CRI) List(ctx context.Context) ([]corev1.ContainerImage, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := c.Images.ListImages(ctx, &criv1.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	images := make([]corev1.ContainerImage, 0, len(answer.Images))
	for _, image := range answer.Images {
		names := slices.Concat(image.RepoDigests, image.RepoTags)
		images = append(images, corev1.ContainerImage{Names: names[:min(len(names), namesPerImage)], SizeBytes: int64(image.Size)})
	}
	// In one order, also among equals: else the status would change with each look.
	slices.SortFunc(images, func(a, b corev1.ContainerImage) int {
		switch {
		case a.SizeBytes != b.SizeBytes && a.SizeBytes > b.SizeBytes:
			return -1
		case a.SizeBytes != b.SizeBytes:
			return 1
		}
		return slices.Compare(a.Names, b.Names)
	})
	return images, nil
}

// SetPodCIDR tells the runtime which addresses are this node's pods'; cidrs is PodCIDRs of the Node. The runtime remembers the last word, so it is told
// when the word changes and when the runtime has been away.
func (c CRI) SetPodCIDR(ctx context.Context, cidrs string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	config := &criv1.RuntimeConfig{NetworkConfig: &criv1.NetworkConfig{PodCidr: cidrs}}
	if _, err := c.Runtime.UpdateRuntimeConfig(ctx, &criv1.UpdateRuntimeConfigRequest{RuntimeConfig: config}); err != nil {
		return fmt.Errorf("telling the runtime the addresses of pods, %s: %w", cidrs, err)
	}
	return nil
}
