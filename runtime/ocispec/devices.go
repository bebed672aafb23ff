package ocispec

import (
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// devices adds the request's device nodes, or all of the host's to a privileged container, and the rules of the device cgroup. The nodes that every container
// has (null, zero, full, random, urandom, tty, and the links to standard streams) are part of OCI's contract and not listed.
func (g *generator) devices() error {
	res, linux := g.spec.Linux.Resources, g.spec.Linux
	if g.sec.Privileged {
		res.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		linux.Devices = append(linux.Devices, g.in.HostDevices...)
	} else {
		res.Devices = defaultDeviceRules()
	}
	if len(g.in.Devices) == 0 && len(g.in.Container.Devices) > 0 {
		return invalid("devices: %q was not found on the host", g.in.Container.Devices[0].HostPath)
	}
	for _, d := range g.in.Devices {
		if !path.IsAbs(d.Path) || !strings.HasPrefix(path.Clean(d.Path), "/dev/") {
			return invalid("devices: container_path %q is not below /dev", d.Path)
		}
		if d.Access == "" || strings.Trim(d.Access, "rwm") != "" {
			return invalid("devices (%s): permissions %q are not of r, w and m", d.Path, d.Access)
		}
		dev := d.LinuxDevice
		dev.Path = path.Clean(dev.Path)
		linux.Devices = replaceDevice(linux.Devices, dev)
		if !g.sec.Privileged {
			major, minor := dev.Major, dev.Minor
			res.Devices = append(res.Devices, specs.LinuxDeviceCgroup{
				Allow: true, Type: dev.Type, Major: &major, Minor: &minor, Access: d.Access,
			})
		}
	}
	return nil
}

// replaceDevice adds a node; the last one of a path wins.
func replaceDevice(list []specs.LinuxDevice, dev specs.LinuxDevice) []specs.LinuxDevice {
	for i := range list {
		if list[i].Path == dev.Path {
			list[i] = dev
			return list
		}
	}
	return append(list, dev)
}

// defaultDeviceRules deny all but making nodes, the standard devices and terminals: what runc and containerd allow.
func defaultDeviceRules() []specs.LinuxDeviceCgroup {
	number := func(n int64) *int64 {
		if n < 0 {
			return nil
		}
		return &n
	}
	const anyNumber = -1
	rules := []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Access: "m"},
		{Allow: true, Type: "b", Access: "m"},
	}
	for _, d := range []struct{ major, minor int64 }{
		{1, 3},           // null
		{1, 5},           // zero
		{1, 7},           // full
		{1, 8},           // random
		{1, 9},           // urandom
		{5, 0},           // tty
		{5, 1},           // console
		{5, 2},           // ptmx
		{136, anyNumber}, // pts
	} {
		rules = append(rules, specs.LinuxDeviceCgroup{
			Allow: true, Type: "c", Major: number(d.major), Minor: number(d.minor), Access: "rwm",
		})
	}
	return rules
}
