package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/node/manifest"
	"github.com/shimd/shimd/node/objects"
)

// reading is what collecting the files of one volume needs.
type reading struct {
	ctx    context.Context
	pod    *corev1.Pod
	source objects.Source
	tokens *tokens
	now    time.Time
}

// isLive says whether a volume's content comes from elsewhere and changes.
func isLive(v *corev1.VolumeSource) bool {
	return v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
}

// files are what a volume has to hold now.
func (r *reading) files(v *corev1.VolumeSource) (content, error) {
	switch {
	case v.ConfigMap != nil:
		return r.configMap(v.ConfigMap.Name, v.ConfigMap.Items, v.ConfigMap.DefaultMode, v.ConfigMap.Optional)
	case v.Secret != nil:
		return r.secret(v.Secret.SecretName, v.Secret.Items, v.Secret.DefaultMode, v.Secret.Optional)
	case v.DownwardAPI != nil:
		return r.downward(v.DownwardAPI.Items, v.DownwardAPI.DefaultMode)
	case v.Projected != nil:
		return r.projected(v.Projected)
	}
	return nil, fmt.Errorf("the volume has no content of its own: %w", errdefs.ErrInvalidArgument)
}

func (r *reading) projected(v *corev1.ProjectedVolumeSource) (content, error) {
	all := content{}
	var problems error
	for i := range v.Sources {
		files, err := r.projection(&v.Sources[i], v.DefaultMode)
		problems = errors.Join(problems, err)
		for name, f := range files {
			all[name] = f // a later source wins, as in the kubelet
		}
	}
	if problems != nil {
		return nil, problems
	}
	return all, nil
}

func (r *reading) projection(p *corev1.VolumeProjection, mode *int32) (content, error) {
	switch {
	case p.ConfigMap != nil:
		return r.configMap(p.ConfigMap.Name, p.ConfigMap.Items, mode, p.ConfigMap.Optional)
	case p.Secret != nil:
		return r.secret(p.Secret.Name, p.Secret.Items, mode, p.Secret.Optional)
	case p.DownwardAPI != nil:
		return r.downward(p.DownwardAPI.Items, mode)
	case p.ServiceAccountToken != nil:
		return r.token(p.ServiceAccountToken, mode)
	case p.ClusterTrustBundle != nil:
		return nil, fmt.Errorf("projected source clusterTrustBundle is not supported here: %w", errdefs.ErrNotImplemented)
	case p.PodCertificate != nil:
		return nil, fmt.Errorf("projected source podCertificate is not supported here: %w", errdefs.ErrNotImplemented)
	}
	return nil, fmt.Errorf("a projected source names nothing that is known here: %w", errdefs.ErrInvalidArgument)
}

func (r *reading) configMap(name string, items []corev1.KeyToPath, mode *int32, optional *bool) (content, error) {
	found, err := r.source.ConfigMap(r.ctx, r.pod.Namespace, name)
	if isTrue(optional) && errdefs.IsNotFound(err) {
		return content{}, nil
	}
	if err != nil {
		return nil, err
	}
	data := make(map[string][]byte, len(found.Data)+len(found.BinaryData))
	for key, text := range found.Data {
		data[key] = []byte(text)
	}
	for key, bytes := range found.BinaryData {
		data[key] = bytes
	}
	return choose(data, items, mode, optional, "configmap references non-existent config key: ")
}

func (r *reading) secret(name string, items []corev1.KeyToPath, mode *int32, optional *bool) (content, error) {
	found, err := r.source.Secret(r.ctx, r.pod.Namespace, name)
	if isTrue(optional) && errdefs.IsNotFound(err) {
		return content{}, nil
	}
	if err != nil {
		return nil, err
	}
	return choose(found.Data, items, mode, optional, "references non-existent secret key: ")
}

// choose takes all keys, or those that are listed at the paths they are given.
func choose(data map[string][]byte, items []corev1.KeyToPath, mode *int32, optional *bool, missing string) (content, error) {
	files := make(content, len(data))
	if len(items) == 0 {
		for key, bytes := range data {
			files[key] = file{data: bytes, mode: fileMode(nil, mode), owner: noOwner}
		}
		return files, nil
	}
	for _, item := range items {
		bytes, ok := data[item.Key]
		if !ok && isTrue(optional) {
			continue
		}
		if !ok {
			return nil, fmt.Errorf("%s%s: %w", missing, item.Key, errdefs.ErrNotFound)
		}
		files[item.Path] = file{data: bytes, mode: fileMode(item.Mode, mode), owner: noOwner}
	}
	return files, nil
}

func (r *reading) downward(items []corev1.DownwardAPIVolumeFile, mode *int32) (content, error) {
	files := content{}
	var problems error
	for _, item := range items {
		var text string
		var err error
		switch {
		case item.FieldRef != nil:
			text, err = manifest.VolumeFieldRef(r.pod, item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			text, err = manifest.ResourceFieldRef(r.pod, item.ResourceFieldRef, "", r.allocatable)
		default:
			err = fmt.Errorf("downwardAPI file %s refers to nothing: %w", item.Path, errdefs.ErrInvalidArgument)
		}
		problems = errors.Join(problems, err)
		files[path.Clean(item.Path)] = file{data: []byte(text), mode: fileMode(item.Mode, mode), owner: noOwner}
	}
	if problems != nil {
		return nil, problems
	}
	return files, nil
}

func (r *reading) allocatable() (corev1.ResourceList, error) {
	node, err := r.source.Node()
	if err != nil {
		return nil, err
	}
	return node.Status.Allocatable, nil
}

// token is for whoever the pod's containers run as: when that is one user the file is theirs, with fsGroup the group's, else everybody's who
// gets at the volume.
func (r *reading) token(p *corev1.ServiceAccountTokenProjection, mode *int32) (content, error) {
	text, err := r.tokens.get(r.ctx, r.source, r.pod, p, r.now)
	if err != nil {
		return nil, err
	}
	f := file{data: []byte(text), mode: fileMode(nil, mode), owner: commonUser(r.pod)}
	if f.owner != noOwner || fsGroup(r.pod) != nil {
		f.mode = 0o600
	}
	return content{p.Path: f}, nil
}

// fileMode is the file's own mode, else that of its volume, else what the API server would have filled in.
func fileMode(own, volume *int32) fs.FileMode {
	const otherwise = 0o644
	switch {
	case own != nil:
		return fs.FileMode(*own) & fs.ModePerm
	case volume != nil:
		return fs.FileMode(*volume) & fs.ModePerm
	}
	return otherwise
}

func isTrue(b *bool) bool { return b != nil && *b }
