package cgroups

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// With the systemd driver every cgroup of ours is a transient *slice* unit, a container's too ("kubepods-burstable-podX.slice" →
// "kubepods-burstable-podX-ID.slice"). Why not a scope, as runc has it: systemd refuses one without a process ("Scope has no PIDs"), and
// removes it, directories included, as soon as the last process has left; between create and start, and for processes that are cloned right
// into the cgroup, a container of ours has none, and a helper process for each pod is what we don't want. A service with RemainAfterExit
// loses its directory in the same way. A plain directory inside the pod's slice is nobody's: systemd takes away the controllers, and the
// limits with them, when it next looks at the slice and finds no unit that needs them. A slice needs no process, stays until it is stopped,
// and its limits, being the unit's own properties, survive daemon-reload. (Slices, as they are used here, were tested with systemd 257.)
//
// What it costs: a slice can't be delegated. systemd resets what it manages and we cannot tell it (memory.oom.group,
// cgroup.subtree_control, a quota finer than a percent) whenever it applies a unit's properties, so Update saves and restores these. What a
// daemon-reload resets of them stays reset until the next Update.
//
// The properties of a unit come from limits alone, never from annotations: a pod's author could set any property of
// a unit by them (CVE-2024-3154).

// systemdRuns tells whether systemd is process 1, as sd_booted(3) does.
func systemdRuns() bool {
	st, err := os.Lstat("/run/systemd/system")
	return err == nil && st.IsDir()
}

// units is the connection to systemd.
type units struct {
	mu   sync.Mutex
	conn *dbus.Conn // nil when it has to be made anew
}

func connectSystemd(ctx context.Context) (*units, error) {
	u := &units{}
	_, err := u.connection(ctx)
	return u, err
}

// connection is the connection to systemd, made again when it was lost: the bus can be restarted.
func (u *units) connection(ctx context.Context) (*dbus.Conn, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.conn != nil && u.conn.Connected() {
		return u.conn, nil
	}
	// It lives longer than the request that happens to need it first.
	conn, err := dbus.NewWithContext(context.WithoutCancel(ctx))
	if err != nil {
		return nil, fmt.Errorf("connecting to systemd (is D-Bus running?): %w: %w", err, errdefs.ErrUnavailable)
	}
	u.conn = conn
	return conn, nil
}

func (u *units) close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.conn != nil {
		u.conn.Close()
		u.conn = nil
	}
	return nil
}

// start makes the slice of a path, or updates it if it is there.
func (u *units) start(ctx context.Context, path Path, res *specs.LinuxResources) error {
	name := path.lastName()
	if expanded, err := expandSlice(name); err != nil {
		return err
	} else if expanded != path {
		return fmt.Errorf("%s is not where systemd keeps the slice %s (%s): %w", path, name, expanded, errdefs.ErrInvalidArgument)
	}
	properties, err := limitProperties(res)
	if err != nil {
		return err
	}
	conn, err := u.connection(ctx)
	if err != nil {
		return err
	}
	done := make(chan string, 1)
	_, err = conn.StartTransientUnitContext(ctx, name, "replace", append(sliceProperties(name, properties), properties...), done)
	switch {
	case isDBusError(err, "org.freedesktop.systemd1.UnitExists"):
		return u.update(ctx, path, res)
	case err != nil:
		return fmt.Errorf("starting slice %s: %w", name, err)
	}
	return await(ctx, "starting slice "+name, done)
}

// update changes the limits that systemd knows of.
func (u *units) update(ctx context.Context, path Path, res *specs.LinuxResources) error {
	properties, err := limitProperties(res)
	if err != nil || len(properties) == 0 {
		return err
	}
	conn, err := u.connection(ctx)
	if err != nil {
		return err
	}
	if err := conn.SetUnitPropertiesContext(ctx, path.lastName(), true, properties...); err != nil {
		return fmt.Errorf("setting limits of slice %s: %w", path.lastName(), err)
	}
	return nil
}

// stop ends the slice; those below it go with it. One that systemd doesn't know is fine.
func (u *units) stop(ctx context.Context, path Path) error {
	conn, err := u.connection(ctx)
	if err != nil {
		return err
	}
	name := path.lastName()
	done := make(chan string, 1)
	_, err = conn.StopUnitContext(ctx, name, "replace", done)
	switch {
	case isDBusError(err, "org.freedesktop.systemd1.NoSuchUnit"):
		return nil
	case err != nil:
		return fmt.Errorf("stopping slice %s: %w", name, err)
	}
	return await(ctx, "stopping slice "+name, done)
}

// await waits for the end of a job.
func await(ctx context.Context, what string, done <-chan string) error {
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("%s: systemd's job ended as %q (see journalctl): %w", what, result, errdefs.ErrUnavailable)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
}

func isDBusError(err error, name string) bool {
	var e godbus.Error
	return errors.As(err, &e) && e.Name == name
}

// unitGroup is a cgroup that is also a unit.
type unitGroup struct {
	Cgroup
	units *units
	check func(*specs.LinuxResources) error
	dir   string
}

// Update tells systemd first, then writes the files: these are exact, where a unit's properties are rounded, and come last.
func (g *unitGroup) Update(ctx context.Context, res *specs.LinuxResources) error {
	if err := g.check(res); err != nil {
		return fmt.Errorf("updating cgroup %s: %w", g.Path(), err)
	}
	if res == nil {
		return nil
	}
	// systemd would take properties for a slice that is gone, and make its directory again.
	cpuMax, err := readFile(g.dir + "/cpu.max")
	if err != nil {
		return fmt.Errorf("updating cgroup %s: %w", g.Path(), missing(err))
	}
	res = completeQuota(res, cpuMax)
	restore := g.save("cpu.max", "memory.oom.group", "memory.high")
	if err := g.units.update(ctx, g.Path(), res); err != nil {
		return fmt.Errorf("updating cgroup %s: %w", g.Path(), err)
	}
	restore()
	return g.Cgroup.Update(ctx, res)
}

// completeQuota adds to a quota without a period, or the other way round, what is in force: a unit's property is the one divided by the
// other.
func completeQuota(res *specs.LinuxResources, cpuMax string) *specs.LinuxResources {
	if res.CPU == nil || (value(res.CPU.Quota) == 0) == (value(res.CPU.Period) == 0) {
		return res
	}
	quotaText, periodText, _ := strings.Cut(strings.TrimSpace(cpuMax), " ")
	quota := int64(-1)
	if v, err := strconv.ParseInt(quotaText, 10, 64); err == nil {
		quota = v
	}
	period, err := strconv.ParseUint(periodText, 10, 64)
	if err != nil {
		period = 100_000 // the kernel's default
	}
	whole, cpu := *res, *res.CPU
	if value(cpu.Quota) == 0 {
		cpu.Quota = &quota
	} else {
		cpu.Period = &period
	}
	whole.CPU = &cpu
	return &whole
}

// save remembers what systemd resets when it applies properties, and answers what puts it back.
func (g *unitGroup) save(files ...string) (restore func()) {
	before := make([]string, len(files))
	for i, file := range files {
		before[i], _ = readFile(g.dir + "/" + file)
	}
	passedOn, _ := readFile(g.dir + "/cgroup.subtree_control")
	return func() {
		for i, file := range files {
			if now, err := readFile(g.dir + "/" + file); err == nil && now != before[i] && before[i] != "" {
				_ = writeFile(g.dir+"/"+file, strings.TrimSpace(before[i])) // the cgroup is gone, at worst, and Update says so
			}
		}
		for _, controller := range strings.Fields(passedOn) {
			_ = writeFile(g.dir+"/cgroup.subtree_control", "+"+controller)
		}
	}
}

// escapeUnit spells an ID as part of a slice's name, where a dash is a level of its own: as systemd-escape(1) does.
func escapeUnit(id string) string {
	var b strings.Builder
	for _, c := range []byte(id) {
		if isUnitName(string(c)) && c != '-' && c != '\\' && c < 0x80 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return b.String()
}

// unescapeUnit undoes escapeUnit.
func unescapeUnit(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		var c byte
		if n, err := fmt.Sscanf(s, `\x%02x`, &c); n == 1 && err == nil && len(s) >= 4 {
			b.WriteByte(c)
			s = s[4:]
			continue
		}
		b.WriteByte(s[0])
		s = s[1:]
	}
	return b.String()
}
