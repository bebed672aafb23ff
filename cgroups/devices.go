package cgroups

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// DeviceFilter decides about access to devices on cgroup v2, where no files do that. Its methods may be called at the same time.
type DeviceFilter interface {
	// Attach puts rules on the cgroup whose directory is open, in place of those that an earlier Attach put there, in one step.
	Attach(dir *os.File, rules []DeviceRule) error
}

// DeviceRule is one rule, checked: of several that match a device, the last one holds, and without any match it is denied.
type DeviceRule struct {
	Allow        bool
	Kind         byte   // 'a' (both), 'b' or 'c'
	Major, Minor int64  // -1: any
	Access       string // letters of "rwm", in this order
}

// parseDevices checks rules and fills in what they leave out.
func parseDevices(devices []specs.LinuxDeviceCgroup) ([]DeviceRule, error) {
	rules := make([]DeviceRule, 0, len(devices))
	for i, d := range devices {
		r := DeviceRule{Allow: d.Allow, Kind: 'a', Major: -1, Minor: -1}
		switch d.Type {
		case "", "a":
		case "b", "c":
			r.Kind = d.Type[0]
		case "u":
			r.Kind = 'c'
		default:
			return nil, fmt.Errorf("devices[%d].type: %q is none of a, b, c, u: %w", i, d.Type, errdefs.ErrInvalidArgument)
		}
		if d.Major != nil {
			r.Major = *d.Major
		}
		if d.Minor != nil {
			r.Minor = *d.Minor
		}
		if r.Major < -1 || r.Major > 1<<31-1 || r.Minor < -1 || r.Minor > 1<<31-1 {
			return nil, fmt.Errorf("devices[%d]: there is no device %d:%d: %w", i, r.Major, r.Minor, errdefs.ErrInvalidArgument)
		}
		for _, c := range "rwm" {
			if d.Access == "" || strings.ContainsRune(d.Access, c) {
				r.Access += string(c)
			}
		}
		if strings.Trim(d.Access, "rwm") != "" {
			return nil, fmt.Errorf("devices[%d].access: %q holds other letters than r, w, m: %w", i, d.Access, errdefs.ErrInvalidArgument)
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// everything tells whether the rule is about all devices in all ways.
func (r DeviceRule) everything() bool {
	return r.Kind == 'a' && r.Major < 0 && r.Minor < 0 && r.Access == "rwm"
}

// lines are the rule as v1 writes it. The kernel reads nothing behind an "a": a rule about both kinds that is not about everything
// has to be two, or it would open every device.
func (r DeviceRule) lines() []string {
	if r.everything() {
		return []string{"a"}
	}
	kinds := []byte{r.Kind}
	if r.Kind == 'a' {
		kinds = []byte{'b', 'c'}
	}
	var lines []string
	for _, k := range kinds {
		lines = append(lines, fmt.Sprintf("%c %s:%s %s", k, anyNumber(r.Major), anyNumber(r.Minor), r.Access))
	}
	return lines
}

func anyNumber(n int64) string {
	if n < 0 {
		return "*"
	}
	return number(n)
}

// planDevicesV1 turns rules to writes, before any process is in the cgroup.
func planDevicesV1(devices []specs.LinuxDeviceCgroup) ([]write, error) {
	rules, err := parseDevices(devices)
	if err != nil {
		return nil, err
	}
	var p plan
	for _, r := range rules {
		for _, line := range r.lines() {
			p.set("devices", deviceFile(r.Allow), "devices", line)
		}
	}
	return p.writes, nil
}

func deviceFile(allow bool) string {
	if allow {
		return "devices.allow"
	}
	return "devices.deny"
}

// deviceChanges are the writes for a cgroup whose processes run: writing all rules again would deny every device for a moment, so only
// what differs is written, first what is newly allowed.
func (g *groupV1) deviceChanges(devices []specs.LinuxDeviceCgroup) ([]write, error) {
	dir := g.tree.place(g.path)("devices")
	if dir == "" {
		return planDevicesV1(devices)
	}
	current, err := readFile(dir + "/devices.list")
	if err != nil {
		return nil, missing(err)
	}
	return planDeviceChanges(current, devices)
}

// planDeviceChanges compares devices.list with the rules. Only lists that begin by denying everything, and then allow, can be changed that
// way. A line of the list is a device and letters, and each letter is allowed and denied by itself.
func planDeviceChanges(current string, devices []specs.LinuxDeviceCgroup) ([]write, error) {
	rules, err := parseDevices(devices)
	if err != nil {
		return nil, err
	}
	if len(rules) == 0 || rules[0].Allow || !rules[0].everything() {
		return planDevicesV1(devices)
	}
	have, want := deviceList{}, deviceList{}
	for line := range strings.Lines(current) {
		have.add(strings.TrimSpace(line))
	}
	if have["a *:*"] != "" {
		return planDevicesV1(devices)
	}
	for _, r := range rules[1:] {
		if !r.Allow || r.everything() {
			return planDevicesV1(devices)
		}
		for _, line := range r.lines() {
			want.add(line)
		}
	}
	var p plan
	for _, device := range slices.Sorted(maps.Keys(want)) {
		if more := without(want[device], have[device]); more != "" {
			p.set("devices", "devices.allow", "devices", device+" "+more)
		}
	}
	for _, device := range slices.Sorted(maps.Keys(have)) {
		if less := without(have[device], want[device]); less != "" {
			p.set("devices", "devices.deny", "devices", device+" "+less)
		}
	}
	return p.writes, nil
}

// deviceList is the letters of access by device ("c 1:3").
type deviceList map[string]string

func (l deviceList) add(line string) {
	if i := strings.LastIndexByte(line, ' '); i > 0 {
		l[line[:i]] += without(line[i+1:], l[line[:i]])
	}
}

// without is the letters of a that are not in b.
func without(a, b string) string {
	return strings.Map(func(c rune) rune {
		if strings.ContainsRune(b, c) {
			return -1
		}
		return c
	}, a)
}
