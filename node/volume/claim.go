package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// claimed is where the claim of a pod's volume has its content. It is recorded, so that containers start again when the API server is away.
type claimed struct {
	Volume   string `json:"volume"` // the PersistentVolume
	Path     string `json:"path"`
	ReadOnly bool   `json:"readOnly,omitempty"`
	Block    bool   `json:"block,omitempty"`
	Managed  bool   `json:"managed,omitempty"` // made for pods: its files may be relabelled and given to the pod's group
}

func (s *Store) claimed(uid, volume string) (claimed, error) {
	var found claimed
	text, err := os.ReadFile(s.pod(uid, "claims", volume+".json"))
	if err == nil {
		err = json.Unmarshal(text, &found)
	}
	if err != nil {
		return found, fmt.Errorf("reading where the claim of volume %s is: %w", volume, err)
	}
	return found, nil
}

// claim finds the volume that a claim is bound to, and prepares it: kinds hostPath and local. It answers what failed, as the kubelet calls it.
func (s *Store) claim(r *reading, v *corev1.Volume) (string, error) {
	if _, err := s.claimed(string(r.pod.UID), v.Name); err == nil {
		return "", nil // a claim is never bound to another one
	}
	name, readOnly := r.pod.Name+"-"+v.Name, false
	if v.PersistentVolumeClaim != nil {
		name, readOnly = v.PersistentVolumeClaim.ClaimName, v.PersistentVolumeClaim.ReadOnly
	}
	pvc, pv, err := r.source.Claim(r.ctx, r.pod.Namespace, name)
	if err != nil {
		return setUpFailed, err
	}
	if err := mayUse(r.pod, v, pvc); err != nil {
		return setUpFailed, err
	}
	if err := r.reaches(pv); err != nil {
		return affinityFailed, err
	}
	found := claimed{Volume: pv.Name, ReadOnly: readOnly, Block: pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == corev1.PersistentVolumeBlock}
	switch {
	case pv.Spec.HostPath != nil && !found.Block:
		found.Path, err = pv.Spec.HostPath.Path, hostPath(pv.Spec.HostPath)
	case pv.Spec.Local != nil:
		found.Path, found.Managed, err = pv.Spec.Local.Path, true, checkLocal(pv.Spec.Local.Path, found.Block)
	default:
		return noPlugin, fmt.Errorf("persistent volume %s of kind %s, block mode %t, is not supported here: %w", pv.Name, kindOf(pv.Spec.PersistentVolumeSource), found.Block, errdefs.ErrNotImplemented)
	}
	if err != nil {
		return setUpFailed, err
	}
	return setUpFailed, s.take(r.pod, v.Name, pv, found)
}

// mayUse is the kubelet's check of a claim that a pod is about to use.
func mayUse(pod *corev1.Pod, v *corev1.Volume, pvc *corev1.PersistentVolumeClaim) error {
	if pvc.DeletionTimestamp != nil && !slices.Contains(pvc.Finalizers, "kubernetes.io/pvc-protection") {
		return fmt.Errorf("claim %s is being deleted: %w", pvc.Name, errdefs.ErrFailedPrecondition)
	}
	if v.Ephemeral == nil {
		return nil
	}
	for _, owner := range pvc.OwnerReferences {
		if owner.Controller != nil && *owner.Controller && owner.UID == pod.UID {
			return nil
		}
	}
	return fmt.Errorf("claim %s was not made for the pod: it does not own it: %w", pvc.Name, errdefs.ErrFailedPrecondition)
}

// reaches says whether a persistent volume is on this node.
func (r *reading) reaches(pv *corev1.PersistentVolume) error {
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
		return nil
	}
	node, err := r.source.Node()
	if err != nil {
		return err
	}
	ok, err := nodeaffinity.NewLazyErrorNodeSelector(pv.Spec.NodeAffinity.Required).Match(node)
	if err == nil && !ok {
		err = errdefs.ErrFailedPrecondition
	}
	if err != nil {
		return fmt.Errorf("persistent volume %s's node affinity and node %s do not match: %w", pv.Name, node.Name, err)
	}
	return nil
}

func checkLocal(path string, block bool) error {
	if !filepath.IsAbs(path) || path != filepath.Clean(path) && path != filepath.Clean(path)+"/" {
		return fmt.Errorf("local path %q is not an absolute path without ..: %w", path, errdefs.ErrInvalidArgument)
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	isBlock := info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0
	switch {
	case block && !isBlock:
		return fmt.Errorf("local path %s is not a block device: %w", path, errdefs.ErrFailedPrecondition)
	case !block && isBlock:
		return fmt.Errorf("local path %s is a block device; mounting one is not supported here, only volumeMode Block is: %w", path, errdefs.ErrNotImplemented)
	}
	return nil
}

// take records that a pod uses a volume, and gives it to the pod's group if it is the first one to.
func (s *Store) take(pod *corev1.Pod, volume string, pv *corev1.PersistentVolume, found claimed) error {
	s.claims.Lock()
	defer s.claims.Unlock()
	shared, err := s.usedElsewhere(string(pod.UID), found)
	if err != nil {
		return err
	}
	if shared && len(pv.Spec.AccessModes) == 1 && pv.Spec.AccessModes[0] == corev1.ReadWriteOncePod {
		return fmt.Errorf("volume uses the ReadWriteOncePod access mode and is already in use by another pod: %w", errdefs.ErrFailedPrecondition)
	}
	if found.Managed && !found.Block && !found.ReadOnly && !shared && fsGroup(pod) != nil {
		if err := giveAll(found.Path, fsGroup(pod), pod.Spec.SecurityContext.FSGroupChangePolicy); err != nil {
			return err
		}
	}
	text, err := json.Marshal(found)
	if err != nil {
		return err
	}
	file := s.pod(string(pod.UID), "claims", volume+".json")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return replace(file, text, 0o600)
}

// usedElsewhere says whether another pod of this node has the same persistent volume.
func (s *Store) usedElsewhere(uid string, wanted claimed) (bool, error) {
	files, err := filepath.Glob(s.pod("*", "claims", "*.json"))
	if err != nil {
		return false, err
	}
	for _, file := range files {
		if filepath.Dir(file) == s.pod(uid, "claims") {
			continue
		}
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // that pod is being removed
		}
		var other claimed
		if err == nil {
			err = json.Unmarshal(text, &other)
		}
		if err != nil {
			return false, fmt.Errorf("reading which volumes other pods use: %w", err)
		}
		if other.Volume == wanted.Volume {
			return true, nil
		}
	}
	return false, nil
}
