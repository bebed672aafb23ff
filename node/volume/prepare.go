package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/node/objects"
)

// What failed of a volume, in the kubelet's words.
const (
	setUpFailed    = "MountVolume.SetUp failed"
	affinityFailed = "MountVolume.NodeAffinity check failed"
	noPlugin       = "MountVolume.FindPluginBySpec failed"
)

// lookUpTimeout bounds what a pod's volumes wait for the API server at a time; who asks tries again.
const lookUpTimeout = 30 * time.Second

// Failure is why one volume is not ready: the text of the event FailedMount, one for each volume. Its kind is that of the cause.
type Failure struct {
	Volume string
	Step   string
	Err    error
}

func (f *Failure) Error() string {
	return fmt.Sprintf("%s for volume %q : %v", f.Step, f.Volume, f.Err)
}
func (f *Failure) Unwrap() error { return f.Err }

// Failures are the volumes that an error of Prepare or Refresh is about.
func Failures(err error) []*Failure {
	var one *Failure
	var many interface{ Unwrap() []error }
	switch {
	case errors.As(err, &many):
		var found []*Failure
		for _, err := range many.Unwrap() {
			found = append(found, Failures(err)...)
		}
		return found
	case errors.As(err, &one):
		return []*Failure{one}
	}
	return nil
}

// state is what is known of a pod beside its files. Its lock is held by whoever works at the pod's volumes.
type state struct {
	mu     sync.Mutex
	tokens tokens
}

func (s *Store) state(uid string) *state {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.states[uid] == nil {
		s.states[uid] = &state{}
	}
	return s.states[uid]
}

// Prepare makes a pod's volumes. It is idempotent: what is there stays, with its content; what comes from the API server is brought up to date.
// An error is one Failure, or several that are joined.
func (s *Store) Prepare(ctx context.Context, pod *corev1.Pod, source objects.Source) error {
	return s.each(ctx, pod, source, func(*corev1.Volume) bool { return true })
}

// Refresh brings those volumes up to date whose content comes from the API server or from the pod's own metadata. It answers when it wants to
// be called at the latest, because a token will be due then; zero: when something changed. What cannot be had leaves the volume as it was.
// A pod whose volumes were never prepared has nothing to refresh.
func (s *Store) Refresh(ctx context.Context, pod *corev1.Pod, source objects.Source) (time.Time, error) {
	err := s.each(ctx, pod, source, func(v *corev1.Volume) bool {
		if !isLive(&v.VolumeSource) {
			return false
		}
		_, err := os.Lstat(s.Path(pod, v))
		return err == nil
	})
	return s.state(string(pod.UID)).tokens.next(), err
}

// each prepares some of a pod's volumes, side by side, for some wait for the API server.
func (s *Store) each(ctx context.Context, pod *corev1.Pod, source objects.Source, wanted func(*corev1.Volume) bool) error {
	ctx, cancel := context.WithTimeout(ctx, lookUpTimeout)
	defer cancel()
	state := s.state(string(pod.UID))
	state.mu.Lock()
	defer state.mu.Unlock()
	r := &reading{ctx: ctx, pod: pod, source: source, tokens: &state.tokens, now: time.Now()}
	problems := make([]error, len(pod.Spec.Volumes))
	var beside sync.WaitGroup
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; wanted(v) {
			beside.Go(func() { problems[i] = s.prepare(r, v) })
		}
	}
	beside.Wait()
	return errors.Join(problems...)
}

func (s *Store) prepare(r *reading, v *corev1.Volume) error {
	step := setUpFailed
	var err error
	switch {
	case v.EmptyDir != nil:
		err = s.emptyDir(r, v)
	case v.HostPath != nil:
		err = hostPath(v.HostPath)
	case isLive(&v.VolumeSource):
		err = s.live(r, v)
	case v.PersistentVolumeClaim != nil || v.Ephemeral != nil:
		step, err = s.claim(r, v)
	case v.Image != nil: // the runtime mounts it
	default:
		step, err = noPlugin, fmt.Errorf("volumes of kind %s are not supported here: %w", kindOf(&v.VolumeSource), errdefs.ErrNotImplemented)
	}
	if err != nil {
		return &Failure{Volume: v.Name, Step: step, Err: err}
	}
	return nil
}

// kindOf is the name of a source as it is written: nfs, csi.
func kindOf(v any) string {
	var fields map[string]json.RawMessage
	text, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(text, &fields)
	}
	if err != nil || len(fields) == 0 {
		return "unknown"
	}
	var names []string
	for name := range fields {
		names = append(names, name)
	}
	sort.Strings(names)
	return strings.Join(names, ", ")
}

// Path is where a volume has its content on this node; "" if it has none, or if that is not known before Prepare.
func (s *Store) Path(pod *corev1.Pod, v *corev1.Volume) string {
	var plugin string
	switch {
	case v.HostPath != nil:
		return v.HostPath.Path
	case v.PersistentVolumeClaim != nil || v.Ephemeral != nil:
		found, err := s.claimed(string(pod.UID), v.Name)
		if err != nil {
			return ""
		}
		return found.Path
	case v.EmptyDir != nil:
		plugin = "empty-dir"
	case v.ConfigMap != nil:
		plugin = "configmap"
	case v.Secret != nil:
		plugin = "secret"
	case v.DownwardAPI != nil:
		plugin = "downward-api"
	case v.Projected != nil:
		plugin = "projected"
	default:
		return ""
	}
	return s.pod(string(pod.UID), "volumes", "kubernetes.io~"+plugin, v.Name)
}

// live makes a volume hold what the API server, or the pod's metadata, has for it. Nothing is made before that is known.
func (s *Store) live(r *reading, v *corev1.Volume) error {
	files, err := r.files(&v.VolumeSource)
	if err != nil {
		return err
	}
	dir := s.Path(r.pod, v)
	if _, err := makeDirectory(dir); err != nil {
		return err
	}
	if v.ConfigMap == nil { // secrets and tokens are never on disk; ConfigMaps may be large, and count as the pod's storage
		if _, err := ensureTmpfs(dir, ""); err != nil {
			return err
		}
	}
	group := fsGroup(r.pod)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := giveDirectory(root, ".", 0o777, group); err != nil {
		return err
	}
	if err := nestedMountPoints(root, r.pod, v.Name); err != nil {
		return err
	}
	return write(dir, files, group)
}

// makeDirectory makes a volume's directory, and says whether it did.
func makeDirectory(dir string) (bool, error) {
	// Others than root pass through to volumes, but do not list.
	if err := os.MkdirAll(filepath.Dir(dir), 0o711); err != nil {
		return false, err
	}
	err := os.Mkdir(dir, 0o700)
	if err != nil && !os.IsExist(err) {
		return false, err
	}
	return err == nil, nil
}
