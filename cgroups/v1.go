package cgroups

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// treeV1 is the hierarchies of cgroup v1. A cgroup is a directory of the same path in each of them.
type treeV1 struct {
	hierarchies []hierarchy
	beside      string            // a v2 tree, in which external OCI runtimes make cgroups of the same path
	dirOf       map[string]string // by controller
	descriptors *budget
	pageSizes   []string
	statFiles   []statFile
}

func newTreeV1(mounted layout) *treeV1 {
	t := &treeV1{hierarchies: mounted.hierarchies, beside: mounted.beside, dirOf: map[string]string{}, descriptors: newBudget(), pageSizes: PageSizes()}
	t.statFiles = filesV1(t.pageSizes)
	for _, h := range t.hierarchies {
		for _, c := range h.controllers {
			t.dirOf[c] = h.dir
		}
	}
	return t
}

func (t *treeV1) version() int { return 1 }

func (t *treeV1) controllers() []string {
	var names []string
	for c := range t.dirOf {
		if !strings.HasPrefix(c, "name=") {
			names = append(names, c)
		}
	}
	slices.Sort(names)
	return names
}

// place tells for a cgroup the directory of each controller.
func (t *treeV1) place(path Path) func(controller string) string {
	return func(controller string) string {
		dir, found := t.dirOf[controller]
		if !found {
			return ""
		}
		return dir + string(path)
	}
}

func (t *treeV1) check(res *specs.LinuxResources) error {
	writes, err := planV1(res)
	if err != nil {
		return err
	}
	if res != nil {
		if _, err := planDevicesV1(res.Devices); err != nil {
			return err
		}
	}
	for _, w := range writes {
		if _, found := t.dirOf[w.controller]; !found && !w.optional {
			return fmt.Errorf("%s: the %s controller is not available on this machine: %w", w.field, w.controller, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

func (t *treeV1) make(_ context.Context, path Path, res *specs.LinuxResources) error {
	for _, h := range t.hierarchies {
		if err := makePath(h.dir, path); err != nil {
			return err
		}
	}
	if root, found := t.dirOf["cpuset"]; found {
		if err := inheritCpuset(root, path); err != nil {
			return err
		}
	}
	if res == nil {
		return nil
	}
	writes, err := planV1(res)
	if err != nil {
		return err
	}
	devices, err := planDevicesV1(res.Devices)
	if err != nil {
		return err
	}
	return apply(append(writes, devices...), t.place(path))
}

// makePath makes a directory with its parents, trying the last one first: nearly always its parent is there. Parents can be pruned
// at the same time by the removal of a last sandbox, hence the attempts.
func makePath(root string, path Path) error {
	var err error
	for range 10 {
		if _, err = makeDir(root + string(path)); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if path.dir() == "" {
			return err
		}
		if err := makePath(root, path.dir()); err != nil {
			return err
		}
	}
	return err
}

// inheritCpuset gives a cgroup its parent's CPUs and memory nodes: v1 makes cpusets empty, and nothing can enter an empty one.
func inheritCpuset(root string, path Path) error {
	for _, file := range []string{"/cpuset.cpus", "/cpuset.mems"} {
		if _, err := inheritedList(root, path, file); err != nil {
			return fmt.Errorf("giving the cgroup its parent's cpuset: %w", err)
		}
	}
	return nil
}

func inheritedList(root string, path Path, file string) (string, error) {
	own, err := readFile(root + string(path) + file)
	if err != nil {
		return "", err
	}
	if own = strings.TrimSpace(own); own != "" || path == "" {
		return own, nil
	}
	list, err := inheritedList(root, path.dir(), file)
	if err != nil {
		return "", err
	}
	return list, writeFile(root+string(path)+file, list)
}

func (t *treeV1) open(path Path) Cgroup { return &groupV1{tree: t, path: path} }

func (t *treeV1) exists(path Path) bool {
	var st unix.Stat_t
	return unix.Lstat(t.first(path), &st) == nil
}

// first is the directory in the hierarchy that a process enters before the others: whatever is in any of them is in this one.
func (t *treeV1) first(path Path) string { return t.hierarchies[0].dir + string(path) }

func (t *treeV1) remove(ctx context.Context, path Path) error {
	var wait backoff
	for {
		var busy error
		for _, h := range t.hierarchies {
			err := removeTree(h.dir + string(path))
			switch {
			case err == nil, errors.Is(err, fs.ErrNotExist):
			case isBusy(err):
				busy = err
			default:
				return err
			}
		}
		if busy == nil {
			if t.beside != "" {
				_ = removeTree(t.beside + string(path)) // what an external runtime has made and left: nothing depends on it
			}
			return nil
		}
		if err := t.killAll(path); err != nil {
			return err
		}
		// No event tells when a v1 cgroup has become empty.
		if err := wait.sleep(ctx); err != nil {
			return fmt.Errorf("processes in it do not die (%w): %w", busy, err)
		}
	}
}

func (t *treeV1) prune(path Path) {
	for _, h := range t.hierarchies {
		_ = unix.Rmdir(h.dir + string(path)) // what is in use stays, by intent
	}
	if t.beside != "" {
		_ = unix.Rmdir(t.beside + string(path))
	}
}

func (t *treeV1) names(path Path) ([]string, error) {
	var all []string
	for _, h := range t.hierarchies {
		names, err := children(h.dir + string(path))
		if err != nil {
			return nil, err
		}
		all = append(all, names...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// killAll kills what is in any of the hierarchies, and waits a moment for it to die. Processes are frozen meanwhile, so that one that forks
// cannot outrun it.
func (t *treeV1) killAll(path Path) error {
	freezer := t.place(path)("freezer")
	if freezer != "" {
		_ = writeFile(freezer+"/freezer.state", "FROZEN") // gone already, or it just takes some more rounds
	}
	var pidfds []int
	var errs []error
	for _, h := range t.hierarchies {
		found, err := kill(h.dir+string(path), func(text []byte) bool { return isBelow(text, path) })
		pidfds = append(pidfds, found...)
		if err != nil {
			errs = append(errs, err)
		}
	}
	if freezer != "" {
		// A frozen process doesn't die before it thaws, and one below may be frozen by a state of its own.
		errs = append(errs, walk(freezer, func(dir string) error {
			if err := writeFile(dir+"/freezer.state", "THAWED"); err != nil && !isGone(err) {
				return err
			}
			return nil
		}))
	}
	awaitExits(pidfds, time.Second)
	return errors.Join(errs...)
}

// groupV1 is one cgroup of v1.
type groupV1 struct {
	tree *treeV1
	path Path

	mu    sync.Mutex
	files *statFiles // of the last Stats; nil before the first one
}

func (g *groupV1) Path() Path { return g.path }

func (g *groupV1) Entry() (*Entry, error) {
	e := &Entry{}
	for _, h := range g.tree.hierarchies {
		path := h.dir + string(g.path) + "/tasks"
		fd, err := openRetry(path, unix.O_WRONLY)
		if err != nil {
			_ = e.Close()
			return nil, fmt.Errorf("opening cgroup %s: %w", g.path, missing(&fs.PathError{Op: "open", Path: path, Err: err}))
		}
		e.Tasks = append(e.Tasks, os.NewFile(uintptr(fd), path))
	}
	return e, nil
}

func (g *groupV1) Update(_ context.Context, res *specs.LinuxResources) error {
	writes, err := planV1(res)
	if err != nil {
		return fmt.Errorf("updating cgroup %s: %w", g.path, err)
	}
	if res != nil && len(res.Devices) > 0 {
		devices, err := g.deviceChanges(res.Devices)
		if err != nil {
			return fmt.Errorf("updating cgroup %s: %w", g.path, err)
		}
		writes = append(writes, devices...)
	}
	if err := apply(writes, g.tree.place(g.path)); err != nil {
		return fmt.Errorf("updating cgroup %s: %w", g.path, err)
	}
	return nil
}

// OOMKills adds up the counts of the cgroup and all below: on v1 each counts its own only.
func (g *groupV1) OOMKills() (uint64, error) {
	root := g.tree.dirOf["memory"]
	if root == "" {
		return 0, nil
	}
	if !g.tree.exists(g.path) {
		return 0, fmt.Errorf("counting OOM kills of cgroup %s: %w", g.path, errdefs.ErrNotFound)
	}
	var kills uint64
	err := walk(root+string(g.path), func(dir string) error {
		text, err := readFile(dir + "/memory.oom_control")
		if err != nil && !isGone(err) {
			return err
		}
		kills += field([]byte(text), "oom_kill")
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("counting OOM kills of cgroup %s: %w", g.path, err)
	}
	return kills, nil
}

func (g *groupV1) Kill() error {
	// One round suffices unless processes are just entering: the freezer holds those that fork.
	for range 100 {
		if err := g.tree.killAll(g.path); err != nil {
			return fmt.Errorf("killing cgroup %s: %w", g.path, err)
		}
		if pids, err := procsBelow(g.tree.first(g.path)); err != nil || len(pids) == 0 {
			return err
		}
	}
	return fmt.Errorf("killing cgroup %s: processes in it do not die: %w", g.path, errdefs.ErrUnavailable)
}

func (g *groupV1) Freeze(frozen bool) error {
	dir := g.tree.place(g.path)("freezer")
	if dir == "" {
		return fmt.Errorf("freezing cgroup %s: the freezer controller is not available on this machine: %w", g.path, errdefs.ErrFailedPrecondition)
	}
	want := "THAWED"
	if frozen {
		want = "FROZEN"
	}
	ctx, cancel := context.WithTimeout(context.Background(), freezeTimeout)
	defer cancel()
	var wait backoff
	for {
		// Writing it again makes the kernel look again at processes that were just forking.
		if err := writeFile(dir+"/freezer.state", want); err != nil {
			return fmt.Errorf("freezing cgroup %s: %w", g.path, missing(err))
		}
		state, err := readFile(dir + "/freezer.state")
		if err != nil {
			return fmt.Errorf("freezing cgroup %s: %w", g.path, missing(err))
		}
		if strings.TrimSpace(state) == want {
			return nil
		}
		if err := wait.sleep(ctx); err != nil {
			_ = writeFile(dir+"/freezer.state", "THAWED")
			return fmt.Errorf("freezing cgroup %s: still %s: %w", g.path, strconv.Quote(strings.TrimSpace(state)), err)
		}
	}
}

func (g *groupV1) Procs() ([]int, error) {
	pids, err := procsBelow(g.tree.first(g.path))
	if err != nil {
		return nil, fmt.Errorf("listing processes of cgroup %s: %w", g.path, err)
	}
	return pids, nil
}

func (g *groupV1) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.files.close()
}

// missing gives errors about files that are gone their kind.
func missing(err error) error {
	if isGone(err) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	return err
}

// freezeTimeout bounds Freeze: a process in uninterruptible sleep doesn't freeze.
const freezeTimeout = 10 * time.Second
