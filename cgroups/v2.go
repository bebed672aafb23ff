package cgroups

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// treeV2 is the one hierarchy of cgroup v2.
type treeV2 struct {
	root        string
	available   []string // controllers, sorted
	descriptors *budget
	pageSizes   []string
	statFiles   []statFile
	devices     DeviceFilter // nil: device rules are refused
	// systemds are the controllers that systemd passes on by itself where a unit needs them, and takes away again where none does: when it
	// owns the tree, nobody else may.
	systemds []string
}

// leaveToSystemd makes the tree one that systemd owns.
func (t *treeV2) leaveToSystemd() { t.systemds = []string{"cpu", "cpuset", "io", "memory", "pids"} }

func newTreeV2(root string, devices DeviceFilter) (*treeV2, error) {
	text, err := readFile(root + "/cgroup.controllers")
	if err != nil {
		return nil, fmt.Errorf("reading the controllers of cgroup v2: %w", err)
	}
	t := &treeV2{root: root, available: strings.Fields(text), descriptors: newBudget(), pageSizes: PageSizes(), devices: devices}
	slices.Sort(t.available)
	t.statFiles = filesV2(t.pageSizes)
	return t, nil
}

func (t *treeV2) version() int          { return 2 }
func (t *treeV2) controllers() []string { return slices.Clone(t.available) }

func (t *treeV2) dir(path Path) string { return t.root + string(path) }

// place tells where a controller's files are. Files of cgroup's own ("cgroup.max.depth") are always there, and those whose controller is
// not known fail by name when they are opened.
func (t *treeV2) place(path Path) func(string) string {
	dir := t.dir(path)
	return func(string) string { return dir }
}

func (t *treeV2) check(res *specs.LinuxResources) error {
	writes, err := planV2(res)
	if err != nil {
		return err
	}
	for _, w := range writes {
		if w.controller != "cgroup" && !w.optional && !slices.Contains(t.available, w.controller) {
			return fmt.Errorf("%s: the %s controller is not available on this machine: %w", w.field, w.controller, errdefs.ErrFailedPrecondition)
		}
	}
	if res == nil || len(res.Devices) == 0 {
		return nil
	}
	if t.devices == nil {
		return fmt.Errorf("devices: these cgroups were opened without a device filter: %w", errdefs.ErrFailedPrecondition)
	}
	_, err = parseDevices(res.Devices)
	return err
}

func (t *treeV2) make(_ context.Context, path Path, res *specs.LinuxResources) error {
	if err := makePath(t.root, path); err != nil {
		return err
	}
	if err := t.enable(path); err != nil {
		return err
	}
	return t.limit(path, res)
}

// enable makes all of the machine's controllers available in a cgroup, from the top down: each level has to pass them on.
func (t *treeV2) enable(path Path) error {
	text, err := readFile(t.dir(path) + "/cgroup.controllers")
	if err != nil {
		return missing(err)
	}
	has := strings.Fields(text)
	lacks := func(c string) bool { return !slices.Contains(has, c) && !slices.Contains(t.systemds, c) }
	if !slices.ContainsFunc(t.available, lacks) { // nearly always: the pod's other container came before, or the kubelet did it
		return nil
	}
	var above []Path
	for p := path.dir(); ; p = p.dir() {
		above = append(above, p)
		if p == "" {
			break
		}
	}
	for _, p := range slices.Backward(above) {
		if err := t.passOn(p); err != nil {
			return err
		}
	}
	return nil
}

// passOn enables in a cgroup for those below it all controllers that it has.
func (t *treeV2) passOn(path Path) error {
	dir := t.dir(path)
	has, err := readFile(dir + "/cgroup.controllers")
	if err != nil {
		return missing(err)
	}
	passed, err := readFile(dir + "/cgroup.subtree_control")
	if err != nil {
		return missing(err)
	}
	var lacking []string
	for _, c := range strings.Fields(has) {
		if !slices.Contains(strings.Fields(passed), c) && !slices.Contains(t.systemds, c) {
			lacking = append(lacking, "+"+c)
		}
	}
	if len(lacking) == 0 {
		return nil
	}
	err = writeFile(dir+"/cgroup.subtree_control", strings.Join(lacking, " "))
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("cgroup %s/ holds processes itself, so cgroups below it can have no controllers (%s): move these processes to a cgroup below it: %w",
			path, strings.Join(lacking, " "), errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return fmt.Errorf("enabling controllers (%s) below cgroup %s/: %w", strings.Join(lacking, " "), path, err)
	}
	return nil
}

// limit sets limits and device rules.
func (t *treeV2) limit(path Path, res *specs.LinuxResources) error {
	if res == nil {
		return nil
	}
	if err := t.checkUsage(path, res.Memory); err != nil {
		return err
	}
	writes, err := planV2(res)
	if err != nil {
		return err
	}
	if err := apply(writes, t.place(path)); err != nil {
		return err
	}
	if len(res.Devices) == 0 {
		return nil
	}
	return t.attach(path, res.Devices)
}

// attach puts device rules on a cgroup.
func (t *treeV2) attach(path Path, devices []specs.LinuxDeviceCgroup) error {
	rules, err := parseDevices(devices)
	if err != nil {
		return err
	}
	fd, err := openRetry(t.dir(path), unix.O_DIRECTORY)
	if err != nil {
		return missing(fmt.Errorf("devices: opening %s: %w", t.dir(path), err))
	}
	dir := os.NewFile(uintptr(fd), t.dir(path))
	defer dir.Close()
	return t.devices.Attach(dir, rules)
}

// checkUsage honours CheckBeforeUpdate: v2 takes a limit below what is in use, and kills.
func (t *treeV2) checkUsage(path Path, m *specs.LinuxMemory) error {
	if m == nil || m.CheckBeforeUpdate == nil || !*m.CheckBeforeUpdate || value(m.Limit) <= 0 {
		return nil
	}
	text, err := readFile(t.dir(path) + "/memory.current")
	if err != nil {
		return fmt.Errorf("memory.checkBeforeUpdate: %w", missing(err))
	}
	if used := parseValue([]byte(text)); used > uint64(*m.Limit) {
		return fmt.Errorf("memory.limit: %d is less than the %d bytes in use: %w", *m.Limit, used, errdefs.ErrFailedPrecondition)
	}
	return nil
}

func (t *treeV2) open(path Path) Cgroup { return &groupV2{tree: t, path: path, dir: t.dir(path)} }

func (t *treeV2) exists(path Path) bool {
	var st unix.Stat_t
	return unix.Lstat(t.dir(path), &st) == nil
}

func (t *treeV2) remove(ctx context.Context, path Path) error {
	dir := t.dir(path)
	var wait backoff
	for {
		err := removeTree(dir)
		if err == nil || !isBusy(err) {
			return err
		}
		if err := t.killAll(path); err != nil {
			return err
		}
		if err := awaitEvent(ctx, dir, "populated", 0); err != nil {
			return fmt.Errorf("processes in it do not die: %w", err)
		}
		if err := removeTree(dir); err == nil || !isBusy(err) {
			return err
		}
		if err := wait.sleep(ctx); err != nil { // something makes cgroups or processes as fast as they are removed
			return err
		}
	}
}

func (t *treeV2) prune(path Path) { _ = unix.Rmdir(t.dir(path)) } // what is in use stays, by intent

func (t *treeV2) names(path Path) ([]string, error) { return children(t.dir(path)) }

// killAll kills all at once by cgroup.kill (5.14), or one by one.
func (t *treeV2) killAll(path Path) error {
	err := writeFile(t.dir(path)+"/cgroup.kill", "1")
	if err == nil {
		return nil
	}
	if !t.exists(path) {
		return nil
	}
	if !isGone(err) && !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	pidfds, err := kill(t.dir(path), func(text []byte) bool { return isBelow(text, path) })
	awaitExits(pidfds, time.Second)
	return err
}

// awaitEvent waits until a line of cgroup.events has a value, or the cgroup is gone. The kernel wakes a poll for POLLPRI at each change.
func awaitEvent(ctx context.Context, dir, key string, want uint64) error {
	fd, err := openRetry(dir+"/cgroup.events", unix.O_RDONLY)
	if err != nil {
		if isGone(err) {
			return nil
		}
		return &fs.PathError{Op: "open", Path: dir + "/cgroup.events", Err: err}
	}
	defer unix.Close(fd)
	buf := make([]byte, 256)
	for {
		data, err := pread(fd, &buf)
		if isGone(err) {
			return nil
		}
		if err != nil {
			return &fs.PathError{Op: "read", Path: dir + "/cgroup.events", Err: err}
		}
		if field(data, key) == want {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
		if _, err := unix.Poll(poll, 100); err != nil && !errors.Is(err, unix.EINTR) { // by turns, to look at the context
			return fmt.Errorf("polling %s/cgroup.events: %w", dir, err)
		}
	}
}

// groupV2 is one cgroup of v2.
type groupV2 struct {
	tree *treeV2
	path Path
	dir  string

	mu    sync.Mutex
	files *statFiles // of the last Stats; nil before the first one
}

func (g *groupV2) Path() Path { return g.path }

func (g *groupV2) Entry() (*Entry, error) {
	fd, err := openRetry(g.dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, fmt.Errorf("opening cgroup %s: %w", g.path, missing(&fs.PathError{Op: "open", Path: g.dir, Err: err}))
	}
	return &Entry{Dir: os.NewFile(uintptr(fd), g.dir)}, nil
}

func (g *groupV2) Update(_ context.Context, res *specs.LinuxResources) error {
	if err := g.tree.limit(g.path, res); err != nil {
		return fmt.Errorf("updating cgroup %s: %w", g.path, err)
	}
	return nil
}

// OOMKills reads memory.events, which counts the cgroups below, too.
func (g *groupV2) OOMKills() (uint64, error) {
	text, err := readFile(g.dir + "/memory.events")
	if isGone(err) && g.tree.exists(g.path) {
		return 0, nil // no memory controller, nothing it could have killed
	}
	if err != nil {
		return 0, fmt.Errorf("counting OOM kills of cgroup %s: %w", g.path, missing(err))
	}
	return field([]byte(text), "oom_kill"), nil
}

func (g *groupV2) Kill() error {
	if err := g.tree.killAll(g.path); err != nil {
		return fmt.Errorf("killing cgroup %s: %w", g.path, err)
	}
	return nil
}

func (g *groupV2) Freeze(frozen bool) error {
	text, want := "0", uint64(0)
	if frozen {
		text, want = "1", 1
	}
	if err := writeFile(g.dir+"/cgroup.freeze", text); err != nil {
		return fmt.Errorf("freezing cgroup %s: %w", g.path, missing(err))
	}
	ctx, cancel := context.WithTimeout(context.Background(), freezeTimeout)
	defer cancel()
	if err := awaitEvent(ctx, g.dir, "frozen", want); err != nil {
		_ = writeFile(g.dir+"/cgroup.freeze", "0")
		return fmt.Errorf("freezing cgroup %s: %w", g.path, err)
	}
	return nil
}

func (g *groupV2) Procs() ([]int, error) {
	pids, err := procsBelow(g.dir)
	if err != nil {
		return nil, fmt.Errorf("listing processes of cgroup %s: %w", g.path, err)
	}
	return pids, nil
}

func (g *groupV2) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.files.close()
}
