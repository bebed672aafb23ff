package qos

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/cgroups"
)

const (
	allPods    = "kubepods"
	burstable  = "burstable"
	bestEffort = "besteffort"
	podPrefix  = "pod"
	slice      = ".slice"
)

// Config says where the groups of pods are, and what they are limited to.
type Config struct {
	// Driver is the runtime's: cgroupfs or systemd.
	Driver string
	// Root is where kubepods is made; "" or "/" is the top. It exists.
	Root string
	// Allocatable is what all pods together may have. Memory that is not in it is not limited.
	Allocatable corev1.ResourceList
	// AllPids is how many processes all pods together may have; 0: no limit.
	AllPids int64
	Limits
	Log *slog.Logger
}

// Tree is the node's groups of pods. Its methods may be called at the same time for different pods.
type Tree struct {
	config  Config
	cgroups cgroups.Manager
	root    []string // the names above kubepods

	mu   sync.Mutex
	last *specs.LinuxResources // what the Burstable group has
}

// Open makes the groups of the classes, or brings those that are there up to date. Groups of pods that are there stay.
func Open(ctx context.Context, config Config) (*Tree, error) {
	manager, err := cgroups.New(ctx, cgroups.Options{Driver: config.Driver, Parent: "shimlet", Logger: config.Log})
	if err != nil {
		return nil, fmt.Errorf("opening the cgroups of pods: %w", err)
	}
	if slices.Contains(manager.Controllers(), "hugetlb") {
		config.PageSizes = cgroups.PageSizes()
	}
	t := &Tree{config: config, cgroups: manager, root: names(config.Root, manager.Driver() == cgroups.Systemd)}
	for _, group := range []struct {
		below     []string
		resources *specs.LinuxResources
	}{
		{nil, AllPods(config.Allocatable, config.AllPids)},
		{[]string{burstable}, Burstable(nil)},
		{[]string{bestEffort}, &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: pointer(uint64(minShares))}}},
	} {
		if err := t.make(ctx, t.path(group.below...), group.resources); err != nil {
			return nil, errors.Join(err, manager.Close())
		}
	}
	return t, nil
}

// Close ends the connection to systemd, if there is one. Groups stay.
func (t *Tree) Close() error { return t.cgroups.Close() }

// names takes a configured root apart: by levels, or, as a slice's name, by dashes.
func names(root string, systemd bool) []string {
	if systemd {
		var found []string
		if stem := strings.TrimSuffix(path.Base("/"+root), slice); stem != "/" && stem != "" && stem != "-" {
			for part := range strings.SplitSeq(stem, "-") {
				found = append(found, strings.ReplaceAll(part, "_", "-"))
			}
		}
		return found
	}
	return strings.FieldsFunc(root, func(r rune) bool { return r == '/' })
}

// path is where a group below kubepods stands.
func (t *Tree) path(below ...string) cgroups.Path {
	parts := slices.Concat(t.root, []string{allPods}, below)
	if t.cgroups.Driver() != cgroups.Systemd {
		return cgroups.Path("/" + strings.Join(parts, "/"))
	}
	out, stem := "", ""
	for _, part := range parts { // each level's name holds those above it
		stem += strings.ReplaceAll(part, "-", "_")
		out += "/" + stem + slice
		stem += "-"
	}
	return cgroups.Path(out)
}

func (t *Tree) podPath(pod *corev1.Pod) cgroups.Path {
	return t.path(append(classNames(Class(pod)), podPrefix+string(pod.UID))...)
}

func classNames(class corev1.PodQOSClass) []string {
	switch class {
	case corev1.PodQOSBurstable:
		return []string{burstable}
	case corev1.PodQOSBestEffort:
		return []string{bestEffort}
	}
	return nil
}

// Top is the path of the group above all pods.
func (t *Tree) Top() string { return string(t.path()) }

// Parent is the cgroup parent that a pod's sandbox is given by CRI: a path, or with the systemd driver a slice's name.
func (t *Tree) Parent(pod *corev1.Pod) string {
	if t.cgroups.Driver() == cgroups.Systemd {
		return path.Base(string(t.podPath(pod)))
	}
	return string(t.podPath(pod))
}

// Ensure makes a pod's group with its limits, or brings it up to date. It has to be called before the pod's sandbox is made.
func (t *Tree) Ensure(ctx context.Context, pod *corev1.Pod) error {
	if pod.UID == "" || strings.ContainsAny(string(pod.UID), "/_") {
		return fmt.Errorf("making the cgroup of pod %q: not an ID: %w", pod.UID, errdefs.ErrInvalidArgument)
	}
	return t.make(ctx, t.podPath(pod), Pod(pod, t.config.Limits))
}

func (t *Tree) make(ctx context.Context, at cgroups.Path, resources *specs.LinuxResources) error {
	group, err := t.cgroups.Create(ctx, at, resources)
	if err != nil {
		return err
	}
	return group.Close()
}

// Remove kills what is left in a pod's group and removes it. It is idempotent.
func (t *Tree) Remove(ctx context.Context, pod *corev1.Pod) error {
	return t.cgroups.Remove(ctx, t.podPath(pod))
}

// Balance gives the Burstable class the weight that its pods have asked for. It costs nothing when nothing changed.
func (t *Tree) Balance(ctx context.Context, pods []*corev1.Pod) error {
	wanted := Burstable(pods)
	t.mu.Lock()
	defer t.mu.Unlock()
	if reflect.DeepEqual(wanted, t.last) {
		return nil
	}
	if err := t.make(ctx, t.path(burstable), wanted); err != nil {
		return err
	}
	t.last = wanted
	return nil
}

// RemoveOrphans removes the groups of pods that are not there any more: an earlier agent was killed before it did.
func (t *Tree) RemoveOrphans(ctx context.Context, keep func(uid string) bool) error {
	var problems error
	for _, class := range []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
		above := classNames(class)
		found, err := t.cgroups.Names(t.path(above...))
		problems = errors.Join(problems, err)
		for _, name := range found {
			uid, ok := t.uid(name)
			if !ok || keep(uid) {
				continue
			}
			problems = errors.Join(problems, t.cgroups.Remove(ctx, t.path(append(slices.Clone(above), podPrefix+uid)...)))
		}
	}
	return problems
}

// uid is the pod whose group has a name.
func (t *Tree) uid(name string) (string, bool) {
	if t.cgroups.Driver() == cgroups.Systemd {
		stem, ok := strings.CutSuffix(name, slice)
		if !ok {
			return "", false
		}
		name = strings.ReplaceAll(stem[strings.LastIndexByte(stem, '-')+1:], "_", "-")
	}
	uid, ok := strings.CutPrefix(name, podPrefix)
	return uid, ok && uid != ""
}

// WorkingSet is the memory of a pod that cannot be taken from it easily, in bytes. ErrNotFound: the pod has no group.
func (t *Tree) WorkingSet(pod *corev1.Pod) (int64, error) { return t.workingSet(t.podPath(pod)) }

// AllWorkingSet is that of all pods together.
func (t *Tree) AllWorkingSet() (int64, error) { return t.workingSet(t.path()) }

func (t *Tree) workingSet(at cgroups.Path) (int64, error) {
	group, err := t.cgroups.Open(at)
	if err != nil {
		return 0, err
	}
	defer group.Close()
	stats, err := group.Stats()
	if err != nil {
		return 0, fmt.Errorf("reading what cgroup %s uses: %w", at, err)
	}
	return int64(stats.Memory.WorkingSet), nil
}
