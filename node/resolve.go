package node

import (
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
)

// desired is a pod that has to run, and the file that says so.
type desired struct {
	File string
	Pod  *corev1.Pod
}

func (d desired) name() string { return d.Pod.Namespace + "/" + d.Pod.Name }

// parsed is a pod file as it is now.
type parsed struct {
	Pod *corev1.Pod
	Err error
}

// resolve says which pods have to run, by UID, and what is wrong with which file.
//   - A file that cannot be read as a pod keeps the pod that it held before: a slip of the pen must not stop what runs. (The kubelet does the same
//     as long as it runs; here it also holds across restarts.)
//   - Of files with pods of one name, that which runs already goes on, else the first by file name wins; the others are errors.
func resolve(files map[string]parsed, running []desired) (map[string]desired, map[string]error) {
	wanted, problems := map[string]desired{}, map[string]error{}
	var candidates []desired
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if files[file].Err == nil {
			candidates = append(candidates, desired{File: file, Pod: files[file].Pod})
			continue
		}
		problems[file] = files[file].Err
		for _, before := range running {
			if before.File == file {
				candidates = append(candidates, before)
				problems[file] = fmt.Errorf("%w; pod %s of its earlier version runs on", files[file].Err, before.name())
			}
		}
	}
	holders := map[string]string{} // file, by name of the pod
	for _, before := range running {
		holders[before.name()] = before.File
	}
	slices.SortStableFunc(candidates, func(a, b desired) int {
		return rank(holders[a.name()] != a.File) - rank(holders[b.name()] != b.File)
	})
	taken := map[string]string{}
	for _, candidate := range candidates {
		if other, ok := taken[candidate.name()]; ok {
			problems[candidate.File] = fmt.Errorf("pod %s is in %s already; give it another name: %w", candidate.name(), other, errdefs.ErrAlreadyExists)
			continue
		}
		taken[candidate.name()] = candidate.File
		wanted[string(candidate.Pod.UID)] = candidate
	}
	return wanted, problems
}

func rank(last bool) int {
	if last {
		return 1
	}
	return 0
}
