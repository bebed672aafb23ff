package cgroups

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// deviceRule is one rule, checked: of several that match a device, the last one holds, and without any match it is denied.
type deviceRule struct {
	allow        bool
	kind         byte  // 'a', 'b' or 'c'
	major, minor int64 // -1: any
	access       string
}

// parseDevices checks rules and fills in what they leave out.
func parseDevices(devices []specs.LinuxDeviceCgroup) ([]deviceRule, error) {
	rules := make([]deviceRule, 0, len(devices))
	for i, d := range devices {
		r := deviceRule{allow: d.Allow, kind: 'a', major: -1, minor: -1}
		switch d.Type {
		case "", "a":
		case "b", "c":
			r.kind = d.Type[0]
		case "u":
			r.kind = 'c'
		default:
			return nil, fmt.Errorf("devices[%d].type: %q is none of a, b, c, u: %w", i, d.Type, errdefs.ErrInvalidArgument)
		}
		if d.Major != nil {
			r.major = *d.Major
		}
		if d.Minor != nil {
			r.minor = *d.Minor
		}
		if r.major < -1 || r.major > 1<<31-1 || r.minor < -1 || r.minor > 1<<31-1 {
			return nil, fmt.Errorf("devices[%d]: there is no device %d:%d: %w", i, r.major, r.minor, errdefs.ErrInvalidArgument)
		}
		for _, c := range "rwm" {
			if d.Access == "" || strings.ContainsRune(d.Access, c) {
				r.access += string(c)
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
func (r deviceRule) everything() bool {
	return r.kind == 'a' && r.major < 0 && r.minor < 0 && r.access == "rwm"
}

// lines are the rule as v1 writes it. The kernel reads nothing behind an "a": a rule about both kinds that is not about everything
// has to be two, or it would open every device.
func (r deviceRule) lines() []string {
	if r.everything() {
		return []string{"a"}
	}
	kinds := []byte{r.kind}
	if r.kind == 'a' {
		kinds = []byte{'b', 'c'}
	}
	var lines []string
	for _, k := range kinds {
		lines = append(lines, fmt.Sprintf("%c %s:%s %s", k, anyNumber(r.major), anyNumber(r.minor), r.access))
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
			p.set("devices", deviceFile(r.allow), "devices", line)
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
	if len(rules) == 0 || rules[0].allow || !rules[0].everything() {
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
		if !r.allow || r.everything() {
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
