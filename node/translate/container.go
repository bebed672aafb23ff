package translate

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ImageUser is who an image runs as when nobody says: a number, a name, or neither (root).
type ImageUser struct {
	UID  *int64
	Name string
}

// Run is what is known of one run of a container beside the pod: the things that were prepared for it.
type Run struct {
	Attempt  uint32
	Backoff  time.Duration
	ImageRef string // what to create it from
	User     ImageUser
	Env      []Variable // see Environment
	Mounts   []*criv1.Mount
	UserNS   *criv1.UserNamespace // the pod's; its mounts are mapped alike
	TargetID string               // of the container whose processes an ephemeral one sees
}

// Container is the configuration of one run of a container. An error is of the kind errdefs.ErrInvalidArgument (of the pod) or
// errdefs.ErrPermissionDenied (it would run as root and must not).
func Container(node Node, pod *corev1.Pod, c *corev1.Container, run Run) (*criv1.ContainerConfig, error) {
	if err := CheckNonRoot(pod, c, run.User); err != nil {
		return nil, err
	}
	env := run.Env
	config := &criv1.ContainerConfig{
		Metadata:    &criv1.ContainerMetadata{Name: c.Name, Attempt: run.Attempt},
		Image:       &criv1.ImageSpec{Image: run.ImageRef, UserSpecifiedImage: c.Image},
		Command:     expandAll(c.Command, env),
		Args:        expandAll(c.Args, env),
		WorkingDir:  c.WorkingDir,
		Mounts:      run.Mounts,
		Labels:      maps.Clone(podLabels(node, pod)),
		Annotations: containerAnnotations(pod, c, run),
		LogPath:     LogPath(c.Name, run.Attempt),
		Stdin:       c.Stdin,
		StdinOnce:   c.StdinOnce,
		Tty:         c.TTY,
		Linux: &criv1.LinuxContainerConfig{
			Resources:       containerResources(node, pod, c),
			SecurityContext: containerSecurity(node, pod, c, run),
		},
	}
	config.Labels[LabelContainerName] = c.Name
	if run.UserNS != nil {
		for _, mount := range config.Mounts {
			mount.UidMappings, mount.GidMappings = run.UserNS.Uids, run.UserNS.Gids
		}
	}
	for _, v := range env {
		config.Envs = append(config.Envs, &criv1.KeyValue{Key: v.name, Value: []byte(v.value)})
	}
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		// CRI spells SIGRTMIN+1 as SIGNAL_SIGRTMINPLUS1.
		name := strings.NewReplacer("+", "PLUS", "-", "MINUS").Replace(string(*c.Lifecycle.StopSignal))
		number, ok := criv1.Signal_value["SIGNAL_"+name]
		if !ok {
			return nil, fmt.Errorf("container %s: lifecycle.stopSignal %q is not a signal: %w", c.Name, *c.Lifecycle.StopSignal, errdefs.ErrInvalidArgument)
		}
		config.StopSignal = criv1.Signal(number)
	}
	return config, nil
}

func containerAnnotations(pod *corev1.Pod, c *corev1.Container, run Run) map[string]string {
	found := map[string]string{
		annotationHash:          containerHash(c),
		annotationRestartCount:  restartCount(run.Attempt),
		annotationMessagePath:   c.TerminationMessagePath,
		annotationMessagePolicy: string(c.TerminationMessagePolicy),
		AnnotationBackoff:       strconv.FormatInt(int64(run.Backoff), 10),
		AnnotationImage:         c.Image,
	}
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		found[annotationGracePeriod] = strconv.FormatInt(*pod.Spec.TerminationGracePeriodSeconds, 10)
	}
	if len(c.Ports) > 0 {
		if text, err := json.Marshal(c.Ports); err == nil { // of plain data: it cannot fail
			found[annotationPorts] = string(text)
		}
	}
	return found
}

func containerHash(c *corev1.Container) string {
	hash := fnv.New32a()
	if text, err := json.Marshal(c); err == nil {
		hash.Write(text)
	}
	return strconv.FormatUint(uint64(hash.Sum32()), 16)
}

// CheckNonRoot refuses a container that must not run as root and would, or of which that cannot be told. An image's odd user (a number
// that overflows, CVE-2024-40635) does not pass as another one.
func CheckNonRoot(pod *corev1.Pod, c *corev1.Container, image ImageUser) error {
	own := c.SecurityContext
	if own == nil {
		own = &corev1.SecurityContext{}
	}
	nonRoot := firstOf(own.RunAsNonRoot, pod.Spec.SecurityContext.RunAsNonRoot)
	user := firstOf(own.RunAsUser, pod.Spec.SecurityContext.RunAsUser)
	if user == nil && image.UID != nil && (*image.UID < 0 || *image.UID > math.MaxInt32) {
		return fmt.Errorf("container %s: the image's user %d is out of range; set runAsUser: %w", c.Name, *image.UID, errdefs.ErrPermissionDenied)
	}
	if nonRoot == nil || !*nonRoot {
		return nil
	}
	switch {
	case user != nil && *user == 0:
		return fmt.Errorf("container %s: runAsNonRoot and runAsUser 0 contradict each other: %w", c.Name, errdefs.ErrPermissionDenied)
	case user != nil:
		return nil
	case image.UID == nil && image.Name != "":
		return fmt.Errorf("container %s: runAsNonRoot, and the image's user %q is not a number, so it may be root; set runAsUser: %w", c.Name, image.Name, errdefs.ErrPermissionDenied)
	case image.UID == nil || *image.UID == 0:
		return fmt.Errorf("container %s: runAsNonRoot, and the image runs as root; set runAsUser: %w", c.Name, errdefs.ErrPermissionDenied)
	}
	return nil
}
