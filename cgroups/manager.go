package cgroups

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Options say how New finds and uses the cgroup tree.
type Options struct {
	// Driver is auto (also ""), cgroupfs or systemd. Auto is systemd where systemd is process 1 and the machine has cgroup v2, else
	// cgroupfs.
	Driver string
	// Parent names the runtime's own top group, for sandboxes without a cgroup parent. "" is shimd.
	Parent string
	// Root is where cgroups are mounted. "" is /sys/fs/cgroup.
	Root string
	// Devices limits access to devices on cgroup v2: package devicefilter. nil: rules about devices are refused there.
	Devices DeviceFilter
	Logger  *slog.Logger
}

// tree is the cgroup file system of one version: all that a manager does but for asking systemd.
type tree interface {
	version() int
	controllers() []string
	// make makes the directories and sets the limits.
	make(ctx context.Context, path Path, res *specs.LinuxResources) error
	// open answers a handle without looking whether the cgroup exists.
	open(path Path) Cgroup
	exists(path Path) bool
	// remove kills and removes, and is done when all is gone.
	remove(ctx context.Context, path Path) error
	// prune removes the cgroup if nothing is in it.
	prune(path Path)
	// names lists what is directly below a cgroup.
	names(path Path) ([]string, error)
	// check tells whether the limits make sense here, without setting any.
	check(res *specs.LinuxResources) error
}

type manager struct {
	driver Driver
	parent string // without slashes and ".slice"
	root   string
	tree   tree
	units  *units // with the systemd driver only
	log    *slog.Logger

	// makes is held for reading while cgroups are made, and for writing while the top group goes: systemd stops with a slice
	// those below it, also one that has just been started.
	makes sync.RWMutex
}

// New looks at how cgroups are mounted here and answers their manager.
func New(ctx context.Context, opts Options) (Manager, error) {
	if opts.Parent == "" {
		opts.Parent = "shimd"
	}
	if opts.Root == "" {
		opts.Root = "/sys/fs/cgroup"
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if err := checkName(opts.Parent); err != nil || !isUnitName(opts.Parent) || strings.HasSuffix(opts.Parent, sliceSuffix) {
		return nil, fmt.Errorf("name of the runtime's own cgroup %q: letters, digits and : - _ . only, without .slice at the end: %w", opts.Parent, errdefs.ErrInvalidArgument)
	}
	mounted, err := discover(opts.Root)
	if err != nil {
		return nil, err
	}
	m := &manager{parent: opts.Parent, root: opts.Root, log: opts.Logger}
	if m.driver, err = chooseDriver(opts.Driver, mounted.version, systemdRuns()); err != nil {
		return nil, err
	}
	if mounted.version == 1 {
		m.tree = newTreeV1(mounted)
	} else {
		v2, err := newTreeV2(opts.Root, opts.Devices)
		if err != nil {
			return nil, err
		}
		m.tree = v2
		if m.driver == Systemd {
			v2.leaveToSystemd()
			if m.units, err = connectSystemd(ctx); err != nil {
				return nil, err
			}
		}
	}
	m.log.Info("cgroups", "driver", m.driver, "version", mounted.version, "controllers", m.tree.controllers())
	return m, nil
}

// chooseDriver is the driver for a configured one.
func chooseDriver(configured string, version int, systemd bool) (Driver, error) {
	switch configured {
	case "", "auto":
		if systemd && version == 2 {
			return Systemd, nil
		}
		return Cgroupfs, nil
	case string(Cgroupfs):
		return Cgroupfs, nil
	case string(Systemd):
		switch {
		case !systemd:
			return "", fmt.Errorf("cgroup driver systemd: systemd is not process 1 here; configure cgroupfs or auto: %w", errdefs.ErrFailedPrecondition)
		case version != 2:
			return "", fmt.Errorf("cgroup driver systemd: the machine has cgroup v1, which systemd itself has given up; configure cgroupfs: %w", errdefs.ErrFailedPrecondition)
		}
		return Systemd, nil
	}
	return "", fmt.Errorf("cgroup driver %q is none of auto, cgroupfs, systemd: %w", configured, errdefs.ErrInvalidArgument)
}

func (m *manager) Driver() Driver        { return m.driver }
func (m *manager) Version() int          { return m.tree.version() }
func (m *manager) Controllers() []string { return m.tree.controllers() }

// top is the runtime's own top group.
func (m *manager) top() (Path, error) {
	if m.driver == Systemd {
		return expandSlice(m.parent + sliceSuffix)
	}
	return Path("/" + m.parent), nil
}

func (m *manager) PodParent(parent, sandboxID string) (path Path, owned bool, err error) {
	switch {
	case isRoot(parent):
		if err := checkName(sandboxID); err != nil {
			return "", false, fmt.Errorf("sandbox ID: %w", err)
		}
		if m.driver == Systemd {
			path, err = expandSlice(m.parent + "-" + escapeUnit(sandboxID) + sliceSuffix)
			return path, true, err
		}
		return Path("/" + m.parent + "/" + sandboxID), true, nil
	case m.driver == Systemd:
		path, err = systemdParent(parent)
	default:
		path, err = cgroupfsParent(parent)
	}
	if err == nil && path.lastName() == "" {
		err = fmt.Errorf("cgroup parent %q: %w", parent, errdefs.ErrInvalidArgument)
	}
	return path, false, err
}

func (m *manager) ContainerPath(pod Path, containerID string) Path {
	if m.driver == Systemd {
		return pod + "/" + Path(strings.TrimSuffix(pod.lastName(), sliceSuffix)+"-"+escapeUnit(containerID)+sliceSuffix)
	}
	return pod + "/" + Path(containerID)
}

func (m *manager) Create(ctx context.Context, path Path, res *specs.LinuxResources) (Cgroup, error) {
	path, err := parsePath(string(path))
	if err != nil {
		return nil, err
	}
	if err := m.tree.check(res); err != nil {
		return nil, fmt.Errorf("limits of cgroup %s: %w", path, err)
	}
	m.makes.RLock()
	defer m.makes.RUnlock()
	if m.units != nil {
		if err := m.units.start(ctx, path, res); err != nil {
			return nil, fmt.Errorf("making cgroup %s: %w", path, err)
		}
	}
	if err := m.tree.make(ctx, path, res); err != nil {
		return nil, fmt.Errorf("making cgroup %s: %w", path, err)
	}
	return m.wrap(path), nil
}

// wrap is the handle of a cgroup that exists.
func (m *manager) wrap(path Path) Cgroup {
	group := m.tree.open(path)
	if m.units != nil {
		return &unitGroup{Cgroup: group, units: m.units, check: m.tree.check, dir: m.root + string(path)}
	}
	return group
}

func (m *manager) Open(path Path) (Cgroup, error) {
	path, err := parsePath(string(path))
	if err != nil {
		return nil, err
	}
	if !m.tree.exists(path) {
		return nil, fmt.Errorf("cgroup %s: %w", path, errdefs.ErrNotFound)
	}
	return m.wrap(path), nil
}

func (m *manager) Remove(ctx context.Context, path Path) error {
	path, err := parsePath(string(path))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	// systemd must forget the unit only when its processes are dead: it would refuse to remove the directory, and say nothing.
	errs := []error{m.tree.remove(ctx, path)}
	if m.units != nil {
		errs = append(errs, m.units.stop(ctx, path))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing cgroup %s: %w", path, err)
	}
	if top, err := m.top(); err == nil && path.dir() == top {
		m.dropTop(ctx, top)
	}
	return nil
}

// dropTop removes the runtime's own top group if that was the last one in it. What systemd made above it for a name with dashes stays: it
// may be another's.
func (m *manager) dropTop(ctx context.Context, top Path) {
	m.makes.Lock()
	defer m.makes.Unlock()
	if names, err := m.tree.names(top); err != nil || len(names) > 0 {
		return
	}
	if m.units != nil {
		if err := m.units.stop(ctx, top); err != nil {
			m.log.Debug("stopping the runtime's own slice", "slice", top, "error", err)
		}
	}
	m.tree.prune(top)
}

func (m *manager) Names(path Path) ([]string, error) {
	path, err := parsePath(string(path))
	if err != nil {
		return nil, err
	}
	names, err := m.tree.names(path)
	if err != nil {
		return nil, fmt.Errorf("listing the cgroups below %s: %w", path, err)
	}
	return names, nil
}

func (m *manager) Leftovers() ([]string, error) {
	top, err := m.top()
	if err != nil {
		return nil, err
	}
	names, err := m.tree.names(top)
	if err != nil {
		return nil, fmt.Errorf("listing the runtime's own cgroups: %w", err)
	}
	if m.driver == Cgroupfs {
		return names, nil
	}
	var ids []string
	for _, name := range names {
		id, isSlice := strings.CutSuffix(name, sliceSuffix)
		id, isOurs := strings.CutPrefix(id, m.parent+"-")
		if isSlice && isOurs {
			ids = append(ids, unescapeUnit(id))
		}
	}
	return ids, nil
}

func (m *manager) Close() error {
	if m.units != nil {
		return m.units.close()
	}
	return nil
}
