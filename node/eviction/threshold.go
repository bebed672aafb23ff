package eviction

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Signal is what is watched.
type Signal string

// The signals, in the order in which they are acted on: memory first, for there the kernel kills soon.
const (
	MemoryAvailable      Signal = "memory.available"
	AllocatableMemory    Signal = "allocatableMemory.available" // of what all pods together may have
	NodeFsAvailable      Signal = "nodefs.available"
	NodeFsInodesFree     Signal = "nodefs.inodesFree"
	ImageFsAvailable     Signal = "imagefs.available"
	ImageFsInodesFree    Signal = "imagefs.inodesFree"
	ContainerFsAvailable Signal = "containerfs.available" // nodefs' or imagefs' here, as in the kubelet: it cannot be set
	ContainerFsInodes    Signal = "containerfs.inodesFree"
	PIDAvailable         Signal = "pid.available"
)

// What pods are ranked by, beside the resources that pods name.
const (
	inodes corev1.ResourceName = "inodes"
	pids   corev1.ResourceName = "pids"
)

type signalKind struct {
	signal    Signal
	resource  corev1.ResourceName
	condition corev1.NodeConditionType
}

func signals() []signalKind {
	return []signalKind{
		{MemoryAvailable, corev1.ResourceMemory, corev1.NodeMemoryPressure},
		{AllocatableMemory, corev1.ResourceMemory, corev1.NodeMemoryPressure},
		{NodeFsAvailable, corev1.ResourceEphemeralStorage, corev1.NodeDiskPressure},
		{NodeFsInodesFree, inodes, corev1.NodeDiskPressure},
		{ImageFsAvailable, corev1.ResourceEphemeralStorage, corev1.NodeDiskPressure},
		{ImageFsInodesFree, inodes, corev1.NodeDiskPressure},
		{ContainerFsAvailable, corev1.ResourceEphemeralStorage, corev1.NodeDiskPressure},
		{ContainerFsInodes, inodes, corev1.NodeDiskPressure},
		{PIDAvailable, pids, corev1.NodePIDPressure},
	}
}

// kind is what belongs to a signal, and its place in the order.
func kind(signal Signal) (signalKind, int, bool) {
	all := signals()
	i := slices.IndexFunc(all, func(k signalKind) bool { return k.signal == signal })
	if i < 0 {
		return signalKind{}, 0, false
	}
	return all[i], i, true
}

// Amount is a number of bytes, inodes or processes, or a part of all there are.
type Amount struct {
	Number   int64
	Fraction float64
}

func (a Amount) of(capacity int64) int64 {
	if a.Fraction > 0 {
		return int64(float64(capacity) * a.Fraction)
	}
	return a.Number
}

// Threshold is met when less than Below is left.
type Threshold struct {
	Signal Signal
	Below  Amount
	Grace  time.Duration // how long it has to be met; 0: a hard one, pods end at once
	More   Amount        // what has to be free beyond Below before it counts as not met any more
}

// Settings are the kubelet's configuration, by its field names.
type Settings struct {
	Hard, Soft, SoftGracePeriod, MinimumReclaim map[string]string
	// EnforceAllocatable: hard memory.available holds for the cgroup of all pods too.
	EnforceAllocatable bool
}

// Thresholds reads settings. An error is of the kind errdefs.ErrInvalidArgument, and names the field.
func Thresholds(settings Settings) ([]Threshold, error) {
	var all []Threshold
	for signal := range settings.SoftGracePeriod {
		if _, ok := settings.Soft[signal]; !ok {
			return nil, fmt.Errorf("evictionSoftGracePeriod[%s]: there is no evictionSoft for it: %w", signal, errdefs.ErrInvalidArgument)
		}
	}
	for signal, text := range settings.MinimumReclaim {
		if _, err := parseAmount(text); err != nil {
			return nil, fmt.Errorf("evictionMinimumReclaim[%s]: %w", signal, err)
		}
	}
	for _, k := range signals() {
		name := string(k.signal)
		for _, list := range []map[string]string{settings.Hard, settings.Soft} {
			text, ok := list[name]
			if !ok || text == "0%" || text == "100%" { // switched off
				continue
			}
			below, err := parseAmount(text)
			if err == nil && below == (Amount{}) {
				err = fmt.Errorf("%q is not more than nothing: %w", text, errdefs.ErrInvalidArgument)
			}
			if err != nil {
				return nil, fmt.Errorf("eviction threshold %s: %w", name, err)
			}
			all = append(all, Threshold{Signal: k.signal, Below: below})
		}
	}
	if err := check(settings); err != nil {
		return nil, err
	}
	return complete(all, settings)
}

// complete adds grace periods and what has to be reclaimed, and the threshold of all pods together.
func complete(all []Threshold, settings Settings) ([]Threshold, error) {
	hard := map[Signal]bool{}
	var allocatable []Threshold
	for i := range all {
		t := &all[i]
		name := string(t.Signal)
		if _, ok := settings.Hard[name]; ok && !hard[t.Signal] && settings.Hard[name] != "0%" && settings.Hard[name] != "100%" {
			hard[t.Signal] = true // hard ones come first
			if t.Signal == MemoryAvailable && settings.EnforceAllocatable {
				allocatable = append(allocatable, Threshold{Signal: AllocatableMemory, Below: t.Below})
			}
		} else {
			grace, err := time.ParseDuration(settings.SoftGracePeriod[name])
			if err != nil || grace <= 0 {
				return nil, fmt.Errorf("evictionSoft[%s] needs evictionSoftGracePeriod[%s], a positive duration, not %q: %w", name, name, settings.SoftGracePeriod[name], errdefs.ErrInvalidArgument)
			}
			t.Grace = grace
		}
		if text, ok := settings.MinimumReclaim[name]; ok {
			more, err := parseAmount(text)
			if err != nil {
				return nil, fmt.Errorf("evictionMinimumReclaim[%s]: %w", name, err)
			}
			t.More = more
		}
	}
	return append(all, allocatable...), nil
}

// check refuses names that mean nothing.
func check(settings Settings) error {
	for field, list := range map[string]map[string]string{"evictionHard": settings.Hard, "evictionSoft": settings.Soft, "evictionMinimumReclaim": settings.MinimumReclaim} {
		for name := range list {
			if _, _, ok := kind(Signal(name)); !ok {
				return fmt.Errorf("%s: unsupported eviction signal %q: %w", field, name, errdefs.ErrInvalidArgument)
			}
		}
	}
	return nil
}

func parseAmount(text string) (Amount, error) {
	if number, ok := strings.CutSuffix(text, "%"); ok {
		percent, err := strconv.ParseFloat(number, 64)
		if err != nil || !(percent >= 0 && percent <= 100) { // not NaN either
			return Amount{}, fmt.Errorf("%q is not a percentage from 0%% to 100%%: %w", text, errdefs.ErrInvalidArgument)
		}
		return Amount{Fraction: percent / 100}, nil
	}
	quantity, err := resource.ParseQuantity(text)
	if err != nil || quantity.Sign() < 0 {
		return Amount{}, fmt.Errorf("%q is neither an amount nor a percentage: %w", text, errdefs.ErrInvalidArgument)
	}
	return Amount{Number: quantity.Value()}, nil
}
